"""Record the demo: python tests/data/goldens/make_demo.py, from the repository's root, after `biolm launch demo --out runs/demo`.

Was run at the commit before the house was moved, as `make_goldens.py` was.
"""

import gzip
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from make_goldens import HERE, START, machine

PART = {
    "corpus": "corpus build --pubmed demo/data/pubmed/ccby_journals.xml.gz --pmc demo/data/pmc/PMC58*.xml.gz --notes demo/data/notes "
    "--valid_fraction 0.1",
    "tokenizer": "tokenizer train --docs part/corpus --vocab_size 1000 --sources pubmed pmc",
    "shards": "tokenizer encode --docs part/corpus --tokenizer part/tokenizer",
}


def facts(folder: Path) -> dict[str, Any]:
    """What a stage's folder is known by."""
    manifest = json.loads((folder / "manifest.json").read_text())
    known = {name: manifest[name] for name in ("stage", "status", "config_hash", "inputs", "counts")}
    return known | {"contents": {name: contents(folder / name) for name in manifest["outputs"]}}


def contents(file: Path) -> str:
    """SHA-256 of a file's bytes, of a compressed file's text."""
    data = file.read_bytes()
    return hashlib.sha256(gzip.decompress(data) if file.suffix == ".gz" else data).hexdigest()


def trained(run: Path) -> dict[str, Any]:
    """What a run is known by."""
    result = json.loads((run / "result.json").read_text())
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    seen = [(record["step"], record["batches"]) for record in records if record["split"] == "train"]
    batches = hashlib.sha256(json.dumps(seen).encode()).hexdigest()
    first = {record["step"]: record["loss"] for record in records[:4]}
    told = {name: result[name] for name in ("valid", "unigram_entropy")}
    return {**facts(run), "batches": batches, "first": first, **told}


def part() -> dict[str, Any]:
    """A part of the demo's data, quickly encoded."""
    found: dict[str, Any] = {"lines": PART}
    with tempfile.TemporaryDirectory() as tmp:
        (Path(tmp) / "demo").symlink_to(Path("demo").absolute())
        for name, line in PART.items():
            words = [*line.split(), "--out", f"part/{name}"]
            subprocess.run([sys.executable, "-c", START, *words], cwd=tmp, env=os.environ, check=True)
            found[name] = facts(Path(tmp) / "part" / name)
    return found


if __name__ == "__main__":
    demo = {name: facts(Path("runs/demo") / name) for name in ("corpus", "tokenizer", "shards")}
    demo |= {name: trained(Path("runs/demo") / name) for name in ("teacher", "student", "alone")}
    (HERE / "demo.json").write_text(json.dumps({"machine": machine(), "demo": demo, "part": part()}, indent=1) + "\n")
