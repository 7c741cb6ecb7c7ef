"""Held-out masked-LM loss after the same minutes: ours, run_mlm with its defaults, and run_mlm tuned.

    python benchmarks/quality.py SHARDS [--minutes 3 --layers 4 --hidden 256]

One after the other on the same machine, each for the same wall time of training, the rate falling linearly with that time; the clock stands
still while the held-out split is read, the same tokens and masks for all. Defaults are run_mlm's: blocks of 512 tokens, 8 a batch, 5e-5,
float32, no warm-up. Tuned: bf16, the batch and rate that ours has, 10% warm-up. Needs `pip install accelerate`.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from peers import roberta
from sides import LONGEST, Case, rows_of

from biolm.convert.load import load_model
from biolm.model import device
from biolm.model.config import ModelConfig
from biolm.model.encoder import MaskedLM
from biolm.model.optim import OptimConfig, Optimizer
from biolm.pretrain.batches import Batches
from biolm.pretrain.config import BatchConfig, MlmConfig
from biolm.pretrain.evaluate import Evaluator
from biolm.pretrain.objective import Totals
from biolm.pretrain.shards import Shards

POINTS = 6  # evaluations of a side
WARMUP = 0.1
FP32 = device.Device(torch.device("cpu"), "fp32")


class Clock:
    """Seconds of training; evaluations stop it."""

    def __init__(self, side: str, minutes: float, evaluate: Callable[[], float]):
        self.side, self.limit, self.evaluate = side, 60 * minutes, evaluate
        self.gone, self.since, self.points = 0.0, time.perf_counter(), 0

    @property
    def share(self) -> float:
        """Of the time, what is over."""
        return (self.gone + time.perf_counter() - self.since) / self.limit

    def rate(self, warmup: float) -> float:
        """Share of the peak learning rate at this time."""
        share = self.share
        return share / warmup if share < warmup else max(0.0, (1 - share) / (1 - warmup))

    def tick(self, steps: int) -> bool:
        """After a step: evaluate if it is time to; whether the time is over."""
        if self.share * POINTS < self.points + 1:
            return False
        self.gone += time.perf_counter() - self.since
        self.points += 1
        print(f"{self.side:18}{self.gone:6.0f} s {steps:6} steps   held-out loss {self.evaluate():.3f}", flush=True)
        self.since = time.perf_counter()
        return self.points == POINTS


def ours(args: argparse.Namespace, config: ModelConfig, shards: Shards, evaluator: Evaluator) -> None:
    """bf16, packed documents, head on masked positions only."""
    where = device.choose("auto")
    torch.manual_seed(0)
    model = MaskedLM(config.resolve(shards.vocab_size, LONGEST, shards.tokenizer.ids.pad)).train()
    optimizer = Optimizer(
        dict(model.named_parameters()),
        config.num_hidden_layers or 0,
        OptimConfig(schedule="constant", warmup=0, lr=args.lr),
        10**9,
    )
    batches = Batches(shards, MlmConfig(), BatchConfig(args.tokens, 1, LONGEST), 0)
    clock, step = Clock("biolm", args.minutes, lambda: evaluator(model, FP32).loss), 0
    while True:
        batch = batches.step(step)[0]
        totals = Totals.of([batch])
        with where.autocast():
            loss, _ = model.masked_loss(model.encoder(batch.packed)[-1][batch.positions_m], batch.labels_m)
        (loss / totals.masked).backward()
        for group in optimizer.inner.param_groups:
            group["scale"] = clock.rate(WARMUP)
        optimizer.step(step)
        step += 1
        if clock.tick(step):
            return


def theirs(args: argparse.Namespace, config: ModelConfig, shards: Shards, evaluator: Evaluator, *, tuned: bool) -> None:
    """What run_mlm builds, stopped by the clock."""
    from torch.utils.data import Dataset
    from transformers import AutoTokenizer, DataCollatorForLanguageModeling, Trainer, TrainerCallback, TrainingArguments

    case = Case(args.shards, 0, 0, 0, 0, "", "full", 0, 0.0)
    rows = rows_of(case, shards.readers[0])
    size = max(1, args.tokens // LONGEST) if tuned else 8
    torch.manual_seed(0)
    model = roberta(config.resolve(shards.vocab_size, LONGEST, shards.tokenizer.ids.pad))
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

    clock = Clock("run_mlm tuned" if tuned else "run_mlm defaults", args.minutes, held_out)

    class Stop(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, _args: object, state: object, control: object, **_kwargs: object) -> None:
            control.should_training_stop = clock.tick(state.global_step)  # type: ignore[attr-defined]

    peak, warmup = (args.lr, WARMUP) if tuned else (5e-5, 1e-9)
    optimizer = torch.optim.AdamW(model.parameters(), lr=peak, betas=(0.9, 0.98) if tuned else (0.9, 0.999), fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _step: clock.rate(warmup))
    with tempfile.TemporaryDirectory() as out:
        arguments = TrainingArguments(
            output_dir=out,
            per_device_train_batch_size=size,
            max_steps=10**6,
            bf16=tuned and device.choose("auto").precision == "bf16",
            use_cpu=True,
            save_strategy="no",
            report_to="none",
            logging_strategy="no",
            disable_tqdm=True,
        )
        collator = DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.15)
        Trainer(
            model,
            arguments,
            data_collator=collator,
            train_dataset=Rows(),
            callbacks=[Stop()],
            optimizers=(optimizer, schedule),
        ).train()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards")
    parser.add_argument("--minutes", type=float, default=3)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--tokens", type=int, default=2048, help="of a step of ours and of the tuned side")
    parser.add_argument("--lr", type=float, default=1e-3, help="of ours and of the tuned side")
    args = parser.parse_args()
    shards, valid = Shards([args.shards], "train"), Shards([args.shards], "valid")
    evaluator = Evaluator(valid, BatchConfig(8192, 1, LONGEST), 0.15, 40_000)
    heads = max(1, args.hidden // 64)
    config = ModelConfig("roberta", "mini", args.layers, args.hidden, heads)
    print(
        f"{args.layers} × {args.hidden}, {args.minutes:g} minutes of training each, unigram entropy {valid.unigram_entropy:.3f}"
    )
    ours(args, config, shards, evaluator)
    theirs(args, config, shards, evaluator, tuned=True)
    theirs(args, config, shards, evaluator, tuned=False)


if __name__ == "__main__":
    main()
