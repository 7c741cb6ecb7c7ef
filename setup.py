"""Packaging: `src/biomlm/` is the package; its rooms are links to the top-level folders, which hold the code."""

import re
import sys
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
PACKAGE = HERE / "src" / "biomlm"


def version() -> str:
    """The `__version__` of the package, read without importing it."""
    found = re.search(r'^__version__ = "(.+)"$', (PACKAGE / "__init__.py").read_text(encoding="utf-8"), re.MULTILINE)
    assert found, "src/biomlm/__init__.py states no __version__"
    return found[1]


def packages() -> list[str]:
    """Every package under `src/`, through the links.

    Raises:
        SystemExit: The links have become text files, as in a zip archive: an empty wheel would be built without a word.
    """
    links = [path for path in PACKAGE.iterdir() if path.suffix not in (".py", ".typed")]
    broken = sorted(path for path in (*links, PACKAGE / "launch" / "records") if not path.is_dir())
    if broken:
        sys.exit(
            f"{broken[0].relative_to(HERE)} is a file and not a link to a folder: this copy lost its symbolic links, as a zip "
            "archive does.\nTake a git clone, the .tar.gz archive or the sdist (git on Windows: core.symlinks=true)."
        )
    return find_packages("src")


setup(
    name="biomlm",
    version=version(),
    description="From raw biomedical and clinical text to a language model that loads in Hugging Face",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    package_dir={"": "src"},
    packages=packages(),
    package_data={
        "": ["py.typed", "*.yaml", "configs/*.yaml", "recipes/**/*.yaml", "*.html", "*.sh", "*.css"],
        "biomlm.launch": ["records/**"],  # demo/data, through a link
    },
    entry_points={
        "console_scripts": ["biomlm=biomlm.core.cli:main", "biomlm-fairseq-env=biomlm.launch.fairseq_env:main"],
    },
    install_requires=[
        "torch>=2.10",
        "transformers>=5.5",
        "tokenizers>=0.21",
        "tiktoken>=0.8",
        "sentencepiece>=0.2.2",
        "protobuf>=6.33.5",
        "regex>=2024.4",
        "safetensors>=0.4.5",
        "numpy>=1.26",
        "lxml>=6.1",
        "isal>=1.7",
        "stringzilla>=4",
        "datatrove>=0.5",
        "orjson>=3.11.6",
        "jsonargparse[signatures]>=4.49",
        "PyYAML>=6",
        "rich>=13.7",
        "tensorboard>=2.16",
    ],
    extras_require={
        "deepspeed": ["deepspeed>=0.16", "ninja"],
        "ray": ["ray>=2.54"],
        "pos": ["spacy>=3.7"],
        # fairseq cannot share our environment: the command `biomlm-fairseq-env` makes one of its own with virtualenv (docs/fairseq.md).
        "fairseq-env": ["virtualenv>=20.36.1"],
        "dev": [
            "pytest>=8",
            "pytest-cov>=5",
            "pytest-xdist>=3.6",
            "hypothesis>=6.100",
            "ruff>=0.9",
            "mypy>=1.13",
            "jedi>=0.19",
            "types-PyYAML",
            "lxml-stubs",
        ],
    },
)
