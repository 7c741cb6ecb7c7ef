"""Fine-tuning for entities against Hugging Face's Trainer, and prediction against its pipeline: same weights, data and settings.

    python benchmarks/finetune.py DATA [--model RUN] [--sentences 600] [--epochs 2] [--repeats 2]

DATA is a folder of IOB files (NCBI-disease). Without --model a RoBERTa of 4 layers × 256 with random weights and a byte-level BPE learnt
on DATA is made, which is enough for the ratio of speeds but not for a score worth having (`finetune_show.py` has scores). Training is
timed with its evaluations: on our side all of the verb, loading, scoring test and saving included, on the other Trainer.train alone.
Runs alternate and the faster of each side's counts. CPU seconds stand beside wall time: on a busy machine only they can be compared.
Needs `pip install accelerate`, which the Trainer wants.
"""

import argparse
import gzip
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from biomlm.convert.formats import native
from biomlm.convert.formats.source_checkpoint import SourceCheckpoint
from biomlm.core import cli
from biomlm.core.files import read_json
from biomlm.finetune.commands.predict import BATCH_TOKENS
from biomlm.finetune.data.iob_tags import entities, tag_type
from biomlm.finetune.data.readers.iob import read_iob
from biomlm.finetune.data.splits import find
from biomlm.finetune.metrics.entities import EntityScorer
from biomlm.finetune.tasks.token_classification import labels_of
from biomlm.finetune.training import checkpoint
from biomlm.finetune.training.inference import outputs
from biomlm.model.config import ModelConfig, Precision
from biomlm.model.device import choose
from biomlm.model.encoder import MaskedLM
from biomlm.tokenizer.formats import folder as tokenizer_folder

Timed = tuple[float, float]  # wall and CPU seconds

SETTINGS = {"size": 16, "lr": 1e-3, "weight_decay": 0.01, "warmup": 0.1}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--sentences", type=int, default=600)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "0")) or os.cpu_count() or 1)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        data = cut(options.data, work / "data", options.sentences)
        model = options.model or make_model(data, work)
        run_verb("convert", model, work / "hf", "--to", "hf")
        kinds: tuple[Precision, ...] = ("fp32", "auto")
        trained: dict[str, list[Timed]] = {"Trainer": [], **{kind: [] for kind in kinds}}
        predicted: dict[str, list[Timed]] = {"pipeline": [], **{kind: [] for kind in kinds}}
        f1: dict[str, float] = {}
        for repeat in range(options.repeats):
            for kind in kinds:
                run = work / f"{kind}{repeat}"
                with timed(trained[kind]):
                    f1[kind] = train_ours(model, data, run, options.epochs, kind)
            f1["Trainer"] = train_theirs(work / "hf", data, options.epochs, work / "trainer", trained["Trainer"])
        run_verb("convert", work / "fp320", work / "tagger", "--to", "hf")
        for _ in range(options.repeats):
            for kind in kinds:
                predict_ours(work / "fp320", data, kind, predicted[kind])
            predict_theirs(work / "tagger", data, predicted["pipeline"])
        for kind in kinds:
            name = f"{kind} ({choose(kind).precision})"
            show(f"training, {name}", trained[kind], trained["Trainer"])
            show(f"prediction, {name}", predicted[kind], predicted["pipeline"])
        print("test F1:", ", ".join(f"{name} {score:.4f}" for name, score in f1.items()))


@contextmanager
def timed(into: list[Timed]) -> Iterator[None]:
    """Note the wall and the CPU seconds of what is done inside."""
    started, cpu = time.monotonic(), time.process_time()
    yield
    into.append((time.monotonic() - started, time.process_time() - cpu))


def show(what: str, ours: list[Timed], theirs: list[Timed]) -> None:
    for i, kind in enumerate(("wall", "CPU")):
        a, b = (min(seconds[i] for seconds in side) for side in (ours, theirs))
        print(f"{what}, {kind}: ours {a:.2f} s, Hugging Face {b:.2f} s, ratio {b / a:.2f}", flush=True)


def cut(source: Path, target: Path, sentences: int) -> Path:
    """The first sentences of each fold."""
    target.mkdir()
    for fold, path in find(source, (".tsv",)).items():
        text = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        (target / f"{fold}.tsv").write_bytes(b"\n\n".join(text.split(b"\n\n")[:sentences]) + b"\n")
    return target


def run_verb(*words: object) -> None:
    assert cli.run([str(word) for word in words]) == 0


def make_model(data: Path, work: Path) -> Path:
    """Random weights and a vocabulary of 1,500 learnt on the training fold."""
    (work / "text.txt").write_text("\n\n".join(r.text for r in read_iob(data / "train.tsv", "train")), encoding="utf-8")
    run_verb("corpus", "build", "--text", work / "text.txt", "--out", work / "docs")
    run_verb("tokenizer", "train", "--docs", work / "docs", "--vocab_size", 1500, "--out", work / "tok")
    torch.manual_seed(0)
    size = tokenizer_folder.load(work / "tok").vocab_size
    config = ModelConfig(size="mini").resolve(vocab_size=size, max_positions=512, pad_token_id=1)
    (work / "model").mkdir()
    native.write(SourceCheckpoint("native", config, MaskedLM(config).state_dict(), work), work / "model", torch.float32)
    tokenizer_folder.copy(work / "tok", work / "model" / native.TOKENIZER)
    return work / "model"


def train_ours(model: Path, data: Path, out: Path, epochs: int, precision: Precision) -> float:
    """Test F1."""
    options = ["--batch.size", SETTINGS["size"], "--optim.lr", SETTINGS["lr"], "--optim.warmup", SETTINGS["warmup"]]
    options += ["--optim.weight_decay", SETTINGS["weight_decay"], "--epochs", epochs]
    options += ["--precision", precision]
    run_verb("finetune", "--model", model, "--task", "ner", "--data", data, "--out", out, *options)
    result: dict[str, Any] = read_json(out / "seed_1/result.json")
    return float(result["test"]["f1"])


def train_theirs(model: Path, data: Path, epochs: int, out: Path, seconds: list[Timed]) -> float:
    """Test F1 of what run_ner does: labels on first pieces, padding to the longest of a batch."""
    from transformers import (
        AutoModelForTokenClassification,
        AutoTokenizer,
        DataCollatorForTokenClassification,
        Trainer,
        TrainingArguments,
    )

    tokenizer = AutoTokenizer.from_pretrained(model, add_prefix_space=True)
    folds = {fold: read_iob(data / f"{fold}.tsv", fold) for fold in ("train", "dev", "test")}
    labels = labels_of(folds["train"])
    scorer = EntityScorer(tuple(sorted({tag_type(label) for label in labels} - {""})))

    def encode(record: Any) -> dict[str, Any]:
        words = [record.text[start:stop] for start, stop in record.words]
        encoded = tokenizer(words, is_split_into_words=True, truncation=True, max_length=512)
        ids = encoded.word_ids()
        first = [word is not None and (i == 0 or ids[i - 1] != word) for i, word in enumerate(ids)]
        tags = [labels.index(record.tags[word]) if f else -100 for word, f in zip(ids, first, strict=True)]
        return {**encoded, "labels": tags}

    def f1(predicted: Any) -> dict[str, float]:
        rows = zip(predicted.predictions.argmax(-1), predicted.label_ids, strict=True)
        pairs = [(labels_at(truth, truth), labels_at(guess, truth)) for guess, truth in rows]
        sums = scorer.sums([entities(a) for a, _ in pairs], [entities(b) for _, b in pairs])
        return {"f1": scorer.report(sums.sum(0))["f1"]}

    def labels_at(values: Any, truth: Any) -> list[str]:
        return [labels[i] for i in np.asarray(values)[np.asarray(truth) != -100]]

    arguments = TrainingArguments(
        output_dir=str(out),
        per_device_train_batch_size=int(SETTINGS["size"]),
        learning_rate=SETTINGS["lr"],
        weight_decay=SETTINGS["weight_decay"],
        warmup_steps=SETTINGS["warmup"],
        num_train_epochs=epochs,
        eval_strategy="epoch",
        save_strategy="no",
        report_to=[],
        use_cpu=not torch.cuda.is_available(),
        seed=1,
        disable_tqdm=True,
    )
    encoded = {fold: [encode(record) for record in records] for fold, records in folds.items()}
    trainer = Trainer(
        AutoModelForTokenClassification.from_pretrained(
            model, num_labels=len(labels), id2label=dict(enumerate(labels))
        ),
        arguments,
        DataCollatorForTokenClassification(tokenizer),
        encoded["train"],
        encoded["dev"],
        compute_metrics=f1,
    )
    with timed(seconds):
        trainer.train()
    return f1(trainer.predict(encoded["test"]))["f1"]


def predict_ours(run: Path, data: Path, precision: Precision, seconds: list[Timed]) -> None:
    """The test sentences as texts, words cut and tokens made."""
    task, model = checkpoint.read(str(run))
    texts = [record.text for record in read_iob(data / "test.tsv", "test")]
    with timed(seconds):
        records = [task.unlabelled(str(i), [text], i) for i, text in enumerate(texts)]
        for rows in outputs(model, task.examples(records), BATCH_TOKENS["cpu"], choose(precision)):
            task.decode(rows)


def predict_theirs(model: Path, data: Path, seconds: list[Timed]) -> None:
    """The pipeline with its default batching, one text at a time."""
    from transformers import pipeline

    tagger = pipeline("token-classification", model=str(model), device="cpu", aggregation_strategy="first")
    texts = [record.text for record in read_iob(data / "test.tsv", "test")]
    with timed(seconds):
        for _ in tagger(texts):
            pass


if __name__ == "__main__":
    main()
