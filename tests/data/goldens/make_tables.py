"""Record hashes of configurations and the tensors of every model: python tests/data/goldens/make_tables.py, from the repository's root.

Was run at the commit before the house was moved, as `make_goldens.py` was, whose world it needs.
"""

import hashlib
import importlib
import json
import os
import tempfile
from pathlib import Path

from biolm.core import cli, config, manifest
from make_goldens import HERE, STUDENT, TEACHER, WORLD
from safetensors import safe_open

ROOT = HERE.parents[2]
NEEDED = {
    "corpus build": "--out OUT",
    "corpus stats": "DOCS",
    "tokenizer train": "--docs DOCS --out OUT",
    "tokenizer encode": "--docs DOCS --tokenizer TOK --out OUT",
    "tokenizer compare": "A B --docs DOCS",
    "pretrain": "--shards SHARDS --out OUT",
    "pretrain average": "RUN --out OUT",
    "distill": "--shards SHARDS --teacher RUN --out OUT",
    "distill cache": "--shards SHARDS --teacher RUN --out OUT",
    "distill plan": "--shards SHARDS --teacher RUN",
    "distill report": "RUN --out OUT",
    "convert": "SRC DST --to hf",
    "convert check": "A B",
    "convert fill": "MODEL --sentences a<mask>",
    "finetune": "--model MODEL --task ner --data DATA --out OUT",
    "finetune predict": "MODEL FILE",
    "finetune compare": "A B",
    "finetune blurb": "GAD=A DDI=B",
    "launch": "demo --out OUT",
    "launch plan": "demo",
    "report": "RUN",
    "doctor": "",
}
# Options off their defaults: lists, mappings, nested classes and one value in two spellings.
MORE = [
    "corpus build --pubmed a b --notes n --out OUT --valid_fraction 0.1 --select.languages eng --salt mine --workers 3",
    "tokenizer train --docs DOCS --out OUT --kind wordpiece --lowercase --vocab_size 30000 --sources pubmed notes",
    "pretrain --shards A B --out OUT --model.size tiny --objective.nsp 1 --batch.form pairs --optim.lr 1e-3 --engine fsdp",
    'pretrain --shards=["A"] --out OUT --init MODEL --init_vocabulary focus --precision fp16',
    "distill --shards SHARDS --cache CACHE --out OUT --loss.hidden 1 --loss.layers 1:2 --loss.temperature 3",
    "finetune --model MODEL --task relation --negative none --data DATA --out OUT --seeds 3 --grid.lr 1e-5 2e-5",
    "finetune --model MODEL --task ner --crf --data DATA --out OUT --batch.size 16 --optim.lr 3e-5",
]
CONFIGS = {
    "pretrain/configs": "pretrain --shards SHARDS --out OUT",
    "distill/configs": "distill --shards SHARDS --teacher RUN --out OUT",
    "finetune/configs": "finetune --model MODEL --data DATA --out OUT",
}

SHAPES = ["roberta", "roberta-prelayernorm", "bert", "megatron-bert", "modernbert"]
BATCH = "--batch.tokens 128 --batch.max_length 32 --seed 1 --precision fp32 --steps 1 --eval_tokens 100"
OBJECTIVES = {
    "mlm": "",
    "nsp": "--objective.nsp 1 --batch.form pairs",
    "sop": "--objective.sop 1 --batch.form pairs",
    "drp": "--objective.drp 1 --batch.form pairs",
}
LOSS = "--loss.hidden 1 --loss.layers 1:2 --loss.pooled 1 --loss.embeddings 1 --loss.relations 1"


def hash_of(words: list[str]) -> str:
    """The hash of the configuration that a command line stands for."""
    name = next(" ".join(words[:n]) for n in (2, 1) if " ".join(words[:n]) in cli.VERBS)
    verb = importlib.import_module(cli.VERBS[name][0]).VERB
    rest = words[len(name.split()) :]
    return manifest.config_hash(config.parse(verb.config, rest, prog=name, positionals=verb.positionals))


def configurations() -> dict[str, str]:
    """Command line → hash."""
    assert NEEDED.keys() == cli.VERBS.keys()
    lines = [f"{verb} {needed}".strip() for verb, needed in NEEDED.items()] + MORE
    for folder, line in CONFIGS.items():
        lines += [f"{line} --config {folder}/{path.name}" for path in sorted((ROOT / folder).glob("*.yaml"))]
    return {line: hash_of(line.split()) for line in lines}


def listing(file: Path) -> list[str]:
    """The tensors of a file: name, type and shape."""
    with safe_open(file, "pt") as tensors:
        return [
            f"{n} {tensors.get_slice(n).get_dtype()} {tensors.get_slice(n).get_shape()}" for n in sorted(tensors.keys())
        ]


def tensors() -> dict[str, object]:
    """Every shape with every objective: the command, and the tensors of each file of its checkpoint."""
    os.chdir(WORLD)
    runs, listings = {}, {}
    with tempfile.TemporaryDirectory() as tmp:
        for shape in SHAPES:
            lines = {
                name: f"pretrain --shards done/shards {TEACHER} {BATCH} {more}" for name, more in OBJECTIVES.items()
            }
            lines["distill"] = f"distill --shards done/shards --teacher done/teacher {STUDENT} {BATCH} {LOSS}"
            for name, line in lines.items():
                out = Path(tmp) / shape / name
                words = [*line.split(), "--model.shape", shape, "--out", str(out)]
                assert cli.run(words) == 0
                files = {}
                for file in sorted((out / "checkpoints/step_1").glob("*.safetensors")):
                    lines_of = listing(file)
                    key = hashlib.sha256("\n".join(lines_of).encode()).hexdigest()[:12]
                    listings[key] = lines_of
                    files[file.name] = key
                print(shape, name, flush=True)
                runs[f"{shape} {name}"] = {"line": f"{' '.join(line.split())} --model.shape {shape}", "files": files}
    return {"runs": runs, "listings": listings}


if __name__ == "__main__":
    os.chdir(ROOT)
    (HERE / "configurations.json").write_text(json.dumps(configurations(), indent=1) + "\n")
    (HERE / "tensors.json").write_text(json.dumps(tensors(), indent=1) + "\n")
