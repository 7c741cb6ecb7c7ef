"""Held-out masked-LM loss after the same processor time: ours, run_mlm with its defaults, and run_mlm tuned.

    python benchmarks/quality.py SHARDS [--minutes 6 --layers 3 --hidden 192 --picture docs/quality.svg]

Every side is a process with one thread, and they run beside each other. The clock is a process's own processor time in training: other work
on the machine changes none of it, and it stands still while the held-out split is read, the same tokens and masks for all. The rate falls
linearly with that time. Defaults are run_mlm's: blocks of 512 tokens, 8 a batch, 15% masked, 5e-5, float32, no warm-up. Tuned: bf16,
and ours in length, batch, masks, rate, its moments and 10% warm-up. Needs `pip install accelerate`.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from peers import roberta
from sides import Case, rows_of

from biomlm.convert.load import load_model
from biomlm.core.files import write_text
from biomlm.core.html.page import STYLE, Markup, tag
from biomlm.core.html.svg import Level, Line, line_chart
from biomlm.model import device
from biomlm.model.config import EncoderConfig, ModelConfig
from biomlm.model.encoder import MaskedLM
from biomlm.model.optim.config import OptimConfig
from biomlm.model.optim.optimizer import Optimizer
from biomlm.pretrain.data.batches import Batches
from biomlm.pretrain.data.config import BatchConfig
from biomlm.pretrain.data.dataset import Shards
from biomlm.pretrain.objectives.config import MlmConfig
from biomlm.pretrain.training.evaluate import Evaluator
from biomlm.training.objective import LossDenominators

POINTS = 12  # evaluations of a side
WARMUP = 0.1
POSITIONS = 512
HELD_OUT = 20_000  # tokens
FP32 = device.Device(torch.device("cpu"), "fp32")
FONT = "svg { background: var(--page); font-family: system-ui, sans-serif; }"


class Clock:
    """Processor seconds of training; evaluations stop it."""

    def __init__(self, minutes: float, evaluate: Callable[[], float]):
        self.limit, self.evaluate = 60 * minutes, evaluate
        self.gone, self.since, self.points = 0.0, time.process_time(), 0

    @property
    def share(self) -> float:
        """Of the time, what is over."""
        return (self.gone + time.process_time() - self.since) / self.limit

    def rate(self, warmup: float) -> float:
        """Share of the peak learning rate at this time."""
        share = self.share
        return share / warmup if share < warmup else max(0.0, (1 - share) / (1 - warmup))

    def tick(self, steps: int) -> bool:
        """After a step: evaluate if it is time to; whether the time is over."""
        if self.share * POINTS < self.points + 1:
            return False
        self.gone += time.process_time() - self.since
        self.points = int(POINTS * self.gone / self.limit)
        print("POINT " + json.dumps([self.gone, steps, self.evaluate()]), flush=True)
        self.since = time.process_time()
        return self.points >= POINTS


def ours(args: argparse.Namespace, config: EncoderConfig, shards: Shards, evaluator: Evaluator) -> None:
    """bf16, packed documents, head on masked positions only."""
    where = device.choose("auto")
    model = MaskedLM(config).train()
    constant = OptimConfig(schedule="constant", warmup=0, lr=args.lr)
    optimizer = Optimizer(dict(model.named_parameters()), config.num_hidden_layers, constant, 10**9)
    batches = Batches(shards, MlmConfig(mask_rate=args.mask_rate), BatchConfig(args.tokens, 1, args.length), 0)
    clock, step, going = Clock(args.minutes, lambda: evaluator(model, FP32).loss), 0, True
    while going:
        batch = batches.step(step)[0]
        with where.autocast():
            loss, _ = model.masked_loss(model.encoder(batch.packed, batch.positions_m)[-1], batch.labels_m)
        (loss / LossDenominators.of([batch]).masked).backward()
        for group in optimizer.inner.param_groups:
            group["scale"] = clock.rate(WARMUP)
        optimizer.step(step)
        step += 1
        going = not clock.tick(step)


def defaults(args: argparse.Namespace, config: EncoderConfig, shards: Shards, evaluator: Evaluator) -> None:
    """run_mlm as it comes."""
    run_mlm(args, config, shards, evaluator, tuned=False)


def tuned(args: argparse.Namespace, config: EncoderConfig, shards: Shards, evaluator: Evaluator) -> None:
    """run_mlm with what ours has of settings."""
    run_mlm(args, config, shards, evaluator, tuned=True)


def run_mlm(
    args: argparse.Namespace, config: EncoderConfig, shards: Shards, evaluator: Evaluator, *, tuned: bool
) -> None:
    """What run_mlm builds, stopped by the clock."""
    from torch.utils.data import Dataset
    from transformers import AutoTokenizer, DataCollatorForLanguageModeling, Trainer, TrainerCallback, TrainingArguments

    length = args.length if tuned else POSITIONS
    rows = rows_of(Case(args.shards, 0, 0, 0, 0, "", "full", 0, 0.0), shards.readers[0], length)
    model = roberta(config)
    tokenizer = AutoTokenizer.from_pretrained(shards.readers[0].folder / "tokenizer")

    class Rows(Dataset[dict[str, list[int]]]):
        def __len__(self) -> int:
            return len(rows)

        def __getitem__(self, i: int) -> dict[str, list[int]]:
            return {"input_ids": rows[i]}

    def held_out() -> float:
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
            return evaluator(load_model(Path(folder)).model, FP32).loss

    clock = Clock(args.minutes, held_out)

    class Stop(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, _args: object, state: object, control: object, **_kwargs: object) -> None:
            control.should_training_stop = clock.tick(state.global_step)  # type: ignore[attr-defined]

    peak, betas, decay, warmup = (args.lr, (0.9, 0.98), 0.01, WARMUP) if tuned else (5e-5, (0.9, 0.999), 0.0, 1e-9)
    optimizer = torch.optim.AdamW(model.parameters(), lr=peak, betas=betas, weight_decay=decay, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _step: clock.rate(warmup))
    with tempfile.TemporaryDirectory() as out:
        arguments = TrainingArguments(
            output_dir=out,
            per_device_train_batch_size=max(1, args.tokens // length) if tuned else 8,
            max_steps=10**6,
            bf16=tuned,
            use_cpu=True,
            save_strategy="no",
            report_to="none",
            logging_strategy="no",
            disable_tqdm=True,
        )
        collator = DataCollatorForLanguageModeling(tokenizer, mlm_probability=args.mask_rate if tuned else 0.15)
        given = {"data_collator": collator, "train_dataset": Rows(), "callbacks": [Stop()]}
        Trainer(model, arguments, optimizers=(optimizer, schedule), **given).train()


SIDES = {"biomlm": ours, "run_mlm tuned": tuned, "run_mlm defaults": defaults}


def follow() -> dict[str, list[tuple[float, int, float]]]:
    """Run all sides beside each other; of each its points: processor seconds, steps, held-out loss."""
    mine = [sys.executable, __file__, *sys.argv[1:], "--side"]
    with tempfile.TemporaryDirectory() as folder:
        logs = {name: Path(folder) / name for name in SIDES}
        running = {name: subprocess.Popen([*mine, name], stdout=log.open("w")) for name, log in logs.items()}
        failed = [name for name, process in running.items() if process.wait()]
        if failed:
            sys.exit(f"failed: {', '.join(failed)}")
        lines = {name: log.read_text().splitlines() for name, log in logs.items()}
    return {name: [json.loads(x[6:]) for x in said if x.startswith("POINT ")] for name, said in lines.items()}


def draw(path: Path, what: str, found: dict[str, list[tuple[float, int, float]]], entropy: float) -> None:
    """The curves as a picture that stands by itself."""
    lines = [
        Line(name, [(seconds / 60, loss) for seconds, _, loss in points], i)
        for i, (name, points) in enumerate(found.items())
    ]
    chart = line_chart(
        f"Held-out masked-LM loss after the same processor time, {what}",
        lines,
        x_label="minutes of one core in training",
        y_label="held-out masked-LM loss (nats)",
        levels=[Level("unigram entropy", entropy)],
    )
    style = tag("style", Markup(STYLE.read_text(encoding="utf-8") + FONT))
    write_text(path, chart.replace("<title>", f"{style}<title>", 1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards")
    parser.add_argument("--minutes", type=float, default=6)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--hidden", type=int, default=192)
    shared = "of ours and of the tuned side"
    parser.add_argument("--tokens", type=int, default=1024, help=f"of a step {shared}")
    parser.add_argument("--length", type=int, default=512, help=f"of sequences {shared}")
    parser.add_argument("--mask_rate", type=float, default=0.4, help=shared)
    parser.add_argument("--lr", type=float, default=1.5e-3, help=f"peak, {shared}")
    parser.add_argument("--picture", type=Path, help="draw the curves here, as SVG")
    parser.add_argument("--side", choices=list(SIDES), help=argparse.SUPPRESS)
    args = parser.parse_args()
    valid = Shards([args.shards], "valid")
    what = f"{args.layers} × {args.hidden}, {args.minutes:g} minutes of one core each"
    if args.side is None:
        print(f"{what}, unigram entropy {valid.unigram_entropy:.3f}", flush=True)
        found = follow()
        for name, points in found.items():
            for seconds, steps, loss in points:
                print(f"{name:18}{seconds:6.0f} s {steps:6} steps   held-out loss {loss:.3f}")
        if args.picture:
            draw(args.picture, what, found, valid.unigram_entropy)
        return
    torch.set_num_threads(1)
    torch.manual_seed(0)
    shards = Shards([args.shards], "train")
    model = ModelConfig("roberta", "mini", args.layers, args.hidden, max(1, args.hidden // 64))
    config = model.resolve(shards.vocab_size, POSITIONS, shards.tokenizer.ids.pad)
    evaluator = Evaluator(valid, BatchConfig(8192, 1, args.length), 0.15, HELD_OUT)
    SIDES[args.side](args, config, shards, evaluator)


if __name__ == "__main__":
    main()
