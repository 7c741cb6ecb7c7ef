"""What distillation buys: a teacher and students with a quarter of its parameters, alone and taught, each at the same tokens, by seed.

    python benchmarks/distill_show.py --pubmed FILES… --out FOLDER [--seeds 3 --steps 1200 --other MODEL]

Prints held-out loss and masked accuracy as mean ± standard deviation over seeds, as a table for docs/log.md. Run again, it goes on where it
was. All students read the same tokens in the same order with the same masks; a seed changes initial weights, order and masks.
Where a student starts is a table of its own, after fewer steps. MODEL is any encoder with a tokenizer of its own, such as that of
benchmarks/distill_sentences.py: its hidden states are learnt word by word.
"""

import argparse
import shlex
import statistics
import sys
import time
from pathlib import Path

from biomlm.core import cli
from biomlm.core.files import read_json

TEACHER = ["--model.num_hidden_layers", "3", "--model.hidden_size", "192", "--model.num_attention_heads", "3"]
STUDENT = ["--model.num_hidden_layers", "2", "--model.hidden_size", "96", "--model.num_attention_heads", "2"]
RECIPE = shlex.split(
    "--model.size tiny --model.hidden_dropout 0 --model.attention_dropout 0 --mlm.mask_rate 0.4 --batch.tokens 1024 "
    "--batch.max_length 64 --optim.lr 1.5e-3 --optim.warmup 0.1 --optim.schedule wsd --optim.decay 0.3 --eval_every 100000 "
    "--eval_tokens 40000 --save_every 500 --keep 1"
)
KL = "--loss.kl 5 --loss.mlm 2 --loss.hidden 0"
LOSSES = {
    "alone": "",
    "KL": KL,
    "KL + alignment": "--loss.kl 5 --loss.mlm 2 --loss.hidden 1",
    "MiniLMv2 + MLM": "--loss.kl 0 --loss.mlm 2 --loss.hidden 0 --loss.relations 1 --loss.relation_heads 6",
}
STARTS = {
    "KL, from random weights": KL,
    "KL, from the teacher (important)": f"{KL} --start teacher --start_width important",
    "KL, from the teacher (svd)": f"{KL} --start teacher --start_width svd",
    "KL, from the student alone": KL,
}
OTHER = "words of another teacher + MLM"
WORDS = "--vocabulary words --loss.kl 0 --loss.mlm 2 --loss.hidden 1"


def biomlm(*words: object) -> None:
    """Run a verb, or stop."""
    argv = [str(word) for word in words]
    if cli.run(argv):
        sys.exit(f"failed: biomlm {' '.join(argv)}")


def folder(out: Path, arm: str, seed: int, steps: int) -> Path:
    """A student's run folder."""
    return out / f"{arm.replace(' ', '_').replace(',', '')}-{steps}-{seed}"


def train(out: Path, arm: str, seed: int, steps: int, *words: object) -> dict[str, object]:
    """One student's `result.json`; without `words`, which name teacher and losses, it learns alone."""
    run = folder(out, arm, seed, steps)
    common = ["--shards", out / "shards", *RECIPE, *STUDENT, "--steps", steps, "--seed", seed, "--out", run]
    biomlm("distill" if words else "pretrain", *common, *words)
    return read_json(run / "result.json")


def table(results: dict[str, list[dict[str, object]]]) -> None:
    """Mean ± sd of what is there."""
    print("\n| model | parameters | held-out loss | masked accuracy | seeds |\n|---|---|---|---|---|")
    for name, found in results.items():
        cells = []
        for key, form in (("loss", ".3f"), ("accuracy", ".1%")):
            values = [float(r["valid"][key]) for r in found]  # type: ignore[index]
            spread = f" ± {statistics.stdev(values):{form}}" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):{form}}{spread}")
        print(f"| {name} | {found[0]['parameters']:,} | {cells[0]} | {cells[1]} | {len(found)} |")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pubmed", nargs="+", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--vocab_size", type=int, default=2048)
    parser.add_argument("--teacher_steps", type=int, default=3000)
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--start_steps", type=int, default=200, help="steps of the students that start from something")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--other", help="a teacher with another vocabulary, to be aligned on words")
    args = parser.parse_args()
    out: Path = args.out
    start = time.process_time()
    biomlm("corpus", "build", "--pubmed", *args.pubmed, "--out", out / "docs")
    docs = ["--docs", out / "docs"]
    biomlm("tokenizer", "train", *docs, "--vocab_size", args.vocab_size, "--out", out / "tokenizer")
    biomlm("tokenizer", "encode", *docs, "--tokenizer", out / "tokenizer", "--out", out / "shards")
    teacher = ["--steps", args.teacher_steps, "--seed", 1, "--out", out / "teacher"]
    biomlm("pretrain", "--shards", out / "shards", *RECIPE, *TEACHER, *teacher)
    results = {f"teacher ({args.teacher_steps} steps)": [read_json(out / "teacher" / "result.json")]}
    starts: dict[str, list[dict[str, object]]] = {}
    taught = ["--teacher", out / "teacher"]
    for seed in range(1, args.seeds + 1):
        for arm, losses in LOSSES.items():
            words = [*shlex.split(losses), *taught] if losses else []
            results.setdefault(arm, []).append(train(out, arm, seed, args.steps, *words))
        table(results)
    if args.other:
        words = [*shlex.split(WORDS), "--teacher", args.other]
        results[OTHER] = [train(out, OTHER, 1, args.steps, *words)]
        table(results)
    for seed in range(1, args.seeds + 1):
        for arm, losses in STARTS.items():
            init = ["--init", folder(out, "alone", seed, args.steps)] if arm.endswith("student alone") else []
            words = [*shlex.split(losses), *init, *taught]
            starts.setdefault(arm, []).append(train(out, arm, seed, args.start_steps, *words))
        table(starts)
    entropy = results["alone"][0]["unigram_entropy"]
    print(
        f"\nunigram entropy {entropy:.3f} nats; {args.steps} steps of 1,024 tokens; {time.process_time() - start:.0f} s of one core"
    )


if __name__ == "__main__":
    main()
