"""Packaging: every top-level room `X/` is installed as `biolm.X` (a namespace package, no `biolm/` folder on disk)."""

from pathlib import Path

from setuptools import setup

ROOMS = ["core", "corpus", "tokenizer", "model", "pretrain", "distill", "convert", "finetune", "launch"]
HERE = Path(__file__).parent


def packages() -> list[str]:
    """Every room and the sub-packages inside it, under their installed names."""
    found: list[str] = []
    for room in ROOMS:
        found.append(f"biolm.{room}")
        inner = sorted(path.parent.relative_to(HERE) for path in (HERE / room).rglob("*/__init__.py"))
        found += [f"biolm.{path.as_posix().replace('/', '.')}" for path in inner]
    return found


setup(
    name="biolm",
    version="0.1.0",
    description="From raw biomedical and clinical text to a language model that loads in Hugging Face",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=packages(),
    package_dir={f"biolm.{room}": room for room in ROOMS},
    package_data={f"biolm.{room}": ["py.typed", "**/*.yaml", "**/*.html", "**/*.sh", "**/*.css"] for room in ROOMS},
    entry_points={
        "console_scripts": ["biolm=biolm.core.cli:main", "biolm-fairseq-env=biolm.launch.fairseq_env:main"],
    },
    install_requires=[
        "torch>=2.6",
        "transformers>=4.48",
        "tokenizers>=0.21",
        "tiktoken>=0.8",
        "sentencepiece>=0.2",
        "protobuf>=4",
        "regex>=2024.4",
        "safetensors>=0.4.5",
        "numpy>=1.26",
        "lxml>=5",
        "isal>=1.7",
        "stringzilla>=4",
        "datatrove>=0.5",
        "orjson>=3.10",
        "jsonargparse[signatures]>=4.49",
        "PyYAML>=6",
        "rich>=13.7",
        "tensorboard>=2.16",
    ],
    extras_require={
        "deepspeed": ["deepspeed>=0.16", "ninja"],
        "ray": ["ray>=2.40"],
        "pos": ["spacy>=3.7"],
        # fairseq cannot share our environment: the command `biolm-fairseq-env` makes one of its own with virtualenv (docs/fairseq.md).
        "fairseq-env": ["virtualenv>=20"],
        "dev": [
            "pytest>=8",
            "pytest-cov>=5",
            "hypothesis>=6.100",
            "ruff>=0.9",
            "mypy>=1.13",
            "types-PyYAML",
            "lxml-stubs",
        ],
    },
)
