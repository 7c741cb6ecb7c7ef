"""Facts about a stage's folder, read from its files alone: no code that made the folder is asked what it meant to do.

The one thing that no file holds, what the model was shown, is counted by `biomlm pretrain inspect` from the batches themselves, and known
to be the run's own by the hashes in its metrics.
"""

import json
import math
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from gzip import open as open_gzip
from pathlib import Path
from typing import Any

from biomlm.core.errors import DataError
from biomlm.core.files import read_json
from biomlm.core.manifest import NAME as MANIFEST
from biomlm.core.metrics import read_metrics
from biomlm.core.processes.children import biomlm_command

AGREEMENT = 1e-3  # between a logged loss and the sum of its logged terms, relative: each is a mean of float32 numbers


def sources(folder: Path) -> list[str]:
    """List the sources of the training documents, of a folder of documents or of shards."""
    files = sorted((folder / "train").glob("*.jsonl.gz")) or [folder / "train.docs.jsonl.gz"]
    return sorted({_source(line) for file in files for line in _lines(file)})


def _source(line: str) -> str:
    record = json.loads(line)
    return str(record["source"] if "source" in record else record["metadata"]["source"])


def _lines(file: Path) -> Iterator[str]:
    with open_gzip(file, "rt", encoding="utf-8") as lines:
        yield from lines


def tokenizer(folder: Path) -> dict[str, Any]:
    """Read the vocabulary in a folder, or in its `tokenizer/`: kind, size, ids, and what is lower-cased."""
    place = folder if (folder / "tokenizer.json").exists() else folder / "tokenizer"
    state, settings = read_json(place / "tokenizer.json"), read_json(place / "tokenizer_config.json")
    model: Any = state["model"]
    pieces = model["vocab"]
    ids = pieces if isinstance(pieces, dict) else {piece: i for i, (piece, _) in enumerate(pieces)}
    added: Any = state.get("added_tokens") or []
    ids = ids | {token["content"]: token["id"] for token in added}
    return {
        "model": model["type"],
        "splits": _type(state.get("pre_tokenizer")),
        "size": len(set(ids.values())),
        "ids": ids,
        "special": sorted(token["content"] for token in added if token["special"]),
        "lowercase": '"lowercase": true' in json.dumps(state.get("normalizer"))
        or "Lowercase" in _types(state.get("normalizer")),
        "class": settings.get("tokenizer_class"),
    }


def _type(part: Any) -> str | None:
    return part["type"] if part else None


def _types(part: Any) -> list[str]:
    return [] if part is None else [part["type"], *(inner["type"] for inner in part.get("normalizers", ()))]


def objective(folder: Path) -> dict[str, float | str]:
    """Read the terms that a run logged and their weights, of which its logged losses are the sums; a changing weight is given as it stands.

    Raises:
        DataError: They are not.
    """
    configured: Any = read_json(folder / MANIFEST)["config"]
    records = [record for record in read_metrics(folder) if record["split"] == "train"]
    if not records:
        raise DataError("this run has logged no step", file=folder, remedy="Let it log more often than it has steps.")
    weights = configured["loss"] if "loss" in configured else configured["objective"]
    logged = {term: weights[term] for term in records[0] if term in weights}
    terms = {term: weight for term, weight in logged.items() if weight} or {"mlm": weights["mlm"]}
    if not all(map(_is_number, terms.values())):
        return terms
    for record in records:
        total = sum(weight * record.get(term, record["loss"]) for term, weight in terms.items())
        if not math.isclose(total, record["loss"], rel_tol=AGREEMENT):
            parts = ", ".join(f"{weight:g} × {term}" for term, weight in terms.items())
            raise DataError(
                f"the loss {record['loss']:g} of step {record['step']} is not the sum {total:g} of its terms, {parts}",
                file=folder,
                remedy="The run did not minimise what its configuration says.",
            )
    return terms


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def tensors(folder: Path) -> dict[str, list[int]]:
    """Read name → shape of the tensors of a model folder, or of a run's newest checkpoint."""
    newest = max(
        (folder / "checkpoints").glob("step_*"), key=lambda path: int(path.name.partition("_")[2]), default=folder
    )
    shapes: dict[str, list[int]] = {}
    for file in sorted(newest.glob("*.safetensors")):
        if not file.name.startswith("optimizer"):
            with file.open("rb") as stream:
                header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
            shapes |= {name: entry["shape"] for name, entry in header.items() if name != "__metadata__"}
    return shapes


def batches(folder: Path) -> dict[str, Any]:
    """Count what the first batches held, by `biomlm pretrain inspect`.

    Raises:
        DataError: They are not the batches that the run has read.
    """
    with tempfile.TemporaryDirectory() as scratch:
        counts = Path(scratch) / "counts.json"
        words = ["pretrain", "inspect", str(folder), "--out", str(counts)]
        subprocess.run(biomlm_command(*words), stdout=subprocess.DEVNULL, check=True)
        result: dict[str, Any] = read_json(counts)
    if not result["own"]:
        raise DataError(
            "the batches that were made again are not known to be those that this run has read",
            file=folder,
            remedy="Let it log within its first 50,000 tokens, and keep its shards.",
        )
    return result


def settings(folder: Path) -> Any:
    """Read the resolved configuration in a stage's manifest."""
    return read_json(folder / MANIFEST)["config"]


def inputs(folder: Path) -> Any:
    """Read what a stage read, by its manifest."""
    return read_json(folder / MANIFEST)["inputs"]


def encoder(folder: Path) -> Any:
    """Read the shape of a run's model."""
    return read_json(folder / "encoder.json")


def config(folder: Path) -> Any:
    """Read the `config.json` of a converted model."""
    return read_json(folder / "config.json")


def conversion(folder: Path) -> Any:
    """Read what the numerical check of a conversion found."""
    return read_json(folder / "conversion.json")


def scores(folder: Path) -> dict[str, Any]:
    """Read, of a fine-tuned model, its metric, figures of the test set, types, and records of each split."""
    raw: Any = read_json(folder / "scores.json")
    test = raw.get("test") or {}
    return {
        "metric": raw["metric"],
        "test": sorted(name for name, value in test.items() if _is_number(value)),
        "types": sorted(test.get("types", {})),
        "records": {split: counts["records"] for split, counts in raw["counts"].items()},
    }


FACTS: Mapping[str, Callable[[Path], Any]] = {
    "sources": sources,
    "tokenizer": tokenizer,
    "objective": objective,
    "tensors": tensors,
    "batches": batches,
    "settings": settings,
    "inputs": inputs,
    "encoder": encoder,
    "config": config,
    "conversion": conversion,
    "scores": scores,
}
