"""Folders as the other rooms write them, with invented figures."""

import math
from pathlib import Path
from typing import Any

import orjson
import pytest

from biomlm.core.files import write_json
from biomlm.core.manifest import Manifest, digest

ENTROPY = 6.41


def source(kept: int, dropped: dict[str, int]) -> dict[str, Any]:
    splits = {"train": kept - 30, "valid": 30}
    totals = {
        split: {"documents": n, "words": n * 210, "sections": n, "sentences": n * 9} for split, n in splits.items()
    }
    return {"records": kept + sum(dropped.values()), "kept": kept, "dropped": dropped, "splits": totals}


SOURCES = {
    "pubmed": source(1604, {"no text": 41, "duplicate": 17, "damaged": 0}),
    "pmc": source(38, {"damaged": 2}),
    "notes": source(207, {"duplicate": 1}),
}


def folder(path: Path, stage: str, counts: dict[str, Any], status: str = "done", **config: Any) -> Path:
    path.mkdir(parents=True)
    Manifest(stage, config, digest(config), {"docs": "0" * 64}, counts, {"a.bin": digest(stage)}, status).write(path)
    return path


def run_folder(path: Path, stage: str, end: float, *, finished: bool = True, steps: int = 600) -> Path:
    folder(path, stage, {"steps": steps, "tokens": steps * 4000}, "done" if finished else "running", steps=steps)
    records: list[dict[str, Any]] = []
    for step in range(10, steps + 1, 10):
        mlm = end + (9.1 - end) * math.exp(-step / 90) + 0.05 * math.sin(step)
        loss = {"loss": 5 * mlm, "mlm": mlm, "kl": mlm} if stage == "distill" else {"loss": mlm}
        speed, rate = 9000 + 300 * math.sin(step / 40), 1e-3 * min(step / 60, (steps - step) / (steps - 60))
        tokens = {"tokens": step * 4000, "tokens_per_second": speed, "learning_rate": rate}
        records.append({"step": step, "split": "train", **loss, **tokens})
        if step % 100 == 0:
            records.append({"step": step, "split": "valid", "loss": mlm + 0.08, "accuracy": 0.3, "tokens": 50_000})
    (path / "metrics.jsonl").write_bytes(b"".join(orjson.dumps(r) + b"\n" for r in records))
    if finished:
        valid = {"loss": end + 0.08, "accuracy": 0.31, "masked_tokens": 7431, "tokens": 50_000}
        common = {"step": steps, "tokens": steps * 4000, "parameters": 3_141_592, "seconds": 75.0}
        write_json(path / "result.json", {"valid": valid, "unigram_entropy": ENTROPY, **common})
    return path


@pytest.fixture
def launched(tmp_path: Path) -> Path:
    """A launch's output folder with every kind of stage in it."""
    out = tmp_path / "demo"
    counts = {"sources": SOURCES, "deletes": 0, "problems": []}
    folder(out / "corpus", "corpus build", counts, pubmed=["data/pubmed"])
    folder(out / "tokenizer", "tokenizer train", {"ids": 8000, "words": 512_345, "documents": 1604}, vocab_size=8000)
    split = {"documents": 1755, "sentences": 17_203, "tokens": 612_004, "unigram_entropy": 6.5}
    held_out = {"documents": 94, "sentences": 801, "tokens": 50_000, "unigram_entropy": ENTROPY}
    folder(out / "shards", "tokenizer encode", {"train": split, "valid": held_out})
    run_folder(out / "teacher", "pretrain", 3.9)
    run_folder(out / "student", "distill", 4.35)
    run_folder(out / "alone", "pretrain", 4.61)
    for name, target in (("student-hf", "hf"), ("student-fairseq", "fairseq")):
        differences = {"max_difference_logits": 3.1e-6, "max_difference_hidden": [2e-7, 8e-7], "tolerance": 1e-5}
        check = {**differences, "texts": 16, "tokenizer_agreement": {"equal": 12, "sentences": 12}}
        write_json(out / name / "conversion.json", {"source_kind": "native", "target_kind": target, **check})
    guesses = [{"token": " lung", "probability": 0.41}, {"token": " heart", "probability": 0.12}]
    sentence = {"text": "The <mask> was resected & p < 0.05.", "fills": guesses}
    write_json(out / "fill.json", {"model": "runs/demo/student-hf", "sentences": [sentence]})
    stages = [
        ("corpus", "corpus build", [], 12.0),
        ("tokenizer", "tokenizer train", ["corpus"], 8.0),
        ("shards", "tokenizer encode", ["corpus", "tokenizer"], 6.0),
        ("teacher", "pretrain", ["shards"], 170.0),
        ("student", "distill", ["shards", "teacher"], 120.0),
        ("alone", "pretrain", ["shards"], 60.0),
        ("student-hf", "convert", ["student"], 9.0),
        ("student-fairseq", "convert", ["student"], 9.0),
    ]
    records = [{"name": n, "verb": v, "reads": r, "outputs": [n], "key": "k", "seconds": s} for n, v, r, s in stages]
    state = {"recipe": "demo", "scale": "full", "description": "A <demo> & more", "stages": records}
    write_json(out / "launch.json", state)
    return out
