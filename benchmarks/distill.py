"""A distillation step's price: cached and online against a plain MLM step, and against a plain loop of two Hugging Face models.

    python benchmarks/distill.py SHARDS [--student 4x256 --teacher 8x512 --tokens 4096 --steps 12]

All sides work on the same micro-batches in one process and take turns, step by step, so that a change of the machine's load meets all;
what is compared is the median over steps, in CPU time of the process (threads that unpack a cache included) and in wall time. The losses
are DistilBERT's, with DistilBioBERT's weights: 5 × KL at T = 2 on masked positions, 2 × MLM, 1 × cosine of the last hidden states. The
cached side has KL (64 samples a position) and MLM; the cache is written first, and its bytes a corpus token are counted at 15% masks.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from peers import roberta
from torch import Tensor, nn

from biomlm.core import cli
from biomlm.core.files import read_json
from biomlm.distill.losses.config import LossConfig
from biomlm.distill.objective import DistillObjective
from biomlm.distill.teachers.cached import CachedTeachers
from biomlm.distill.teachers.teacher import TeacherRequest, Teachers, TeacherSource
from biomlm.model.config import EncoderConfig, ModelConfig
from biomlm.model.device import Device, choose
from biomlm.model.encoder import MaskedLM
from biomlm.model.packed import pad
from biomlm.pretrain.data.batches import Batch, Batches
from biomlm.pretrain.data.config import BatchConfig
from biomlm.pretrain.data.dataset import Shards
from biomlm.pretrain.objectives.base import PretrainObjective
from biomlm.pretrain.objectives.config import MlmConfig, ObjectiveConfig
from biomlm.training.objective import LossDenominators

WARM = 2
SEED = 3


def shape(text: str, shards: Shards, length: int, dropout: float) -> EncoderConfig:
    """`4x256` → an encoder with heads of 64."""
    layers, hidden = map(int, text.split("x"))
    numbers = ModelConfig(size="tiny", num_hidden_layers=layers, hidden_size=hidden, num_attention_heads=hidden // 64)
    numbers = replace(numbers, hidden_dropout=dropout, attention_dropout=dropout)
    return numbers.resolve(shards.vocab_size, length, shards.ids.pad)


class PlainLoop(nn.Module):
    """Two models on padded batches and DistilBERT's losses on their outputs, as its released training script has them."""

    def __init__(self, student: EncoderConfig, teacher: EncoderConfig):
        super().__init__()
        self.student = roberta(student)
        self.project = nn.Linear(student.hidden_size, teacher.hidden_size, bias=False)
        self.teacher = [roberta(teacher).eval().requires_grad_(False)]  # in a list, so that it is not trained

    def forward(self, batch: Batch) -> Tensor:
        """The loss of a micro-batch."""
        labels_t = torch.full_like(batch.packed.input_ids_t, -100)
        labels_t[batch.positions_m] = batch.labels_m
        lengths = batch.packed.lengths
        mask_bl = pad(torch.ones_like(labels_t), lengths)
        ids_bl = pad(batch.packed.input_ids_t, lengths).masked_fill(mask_bl == 0, 1)
        labels_bl = pad(labels_t, lengths).masked_fill(mask_bl == 0, -100)
        inputs = {"input_ids": ids_bl, "attention_mask": mask_bl, "output_hidden_states": True}
        ours = self.student(**inputs)
        with torch.no_grad():
            theirs = self.teacher[0](**inputs)
        chosen, real = labels_bl != -100, mask_bl.bool()
        soft = [F.log_softmax(x.logits[chosen].float() / 2, -1) for x in (ours, theirs)]
        kl = F.kl_div(*soft, reduction="batchmean", log_target=True) * 4
        mlm = F.cross_entropy(ours.logits.view(-1, ours.logits.shape[-1]).float(), labels_bl.view(-1))
        last, wanted = self.project(ours.hidden_states[-1][real]), theirs.hidden_states[-1][real]
        cosine = F.cosine_embedding_loss(last.float(), wanted.float(), torch.ones(len(last), device=last.device))
        return 5 * kl + 2 * mlm + cosine  # type: ignore[no-any-return]


class Side:
    """One way to make a step.

    Args:
        loss: Of a micro-batch.
        trained: What it moves; None where it only computes.
        device: Where, and in which precision.
    """

    def __init__(self, loss: Callable[[Batch], Tensor], trained: nn.Module | None, device: Device):
        self.loss, self.device = loss, device
        self.optimizer = None if trained is None else torch.optim.AdamW(trained.parameters(), lr=1e-4, fused=True)
        self.cpu: list[float] = []
        self.wall: list[float] = []

    def step(self, batch: Batch) -> None:
        """Take a turn."""
        cpu, wall = time.process_time(), time.perf_counter()
        with self.device.autocast():
            value = self.loss(batch)
        if self.optimizer is not None:
            value.backward()
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
        if self.device.torch.type == "cuda":
            torch.cuda.synchronize()
        self.cpu.append(time.process_time() - cpu)
        self.wall.append(time.perf_counter() - wall)


def students_step(model: MaskedLM, objective: nn.Module) -> tuple[Callable[[Batch], Tensor], nn.Module]:
    """The loss of a student of ours, and what is trained."""
    return lambda batch: objective(model, batch, LossDenominators.of([batch]))["loss"], nn.ModuleList(
        [model, objective]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards")
    parser.add_argument("--student", default="4x256")
    parser.add_argument("--teacher", default="8x512")
    parser.add_argument("--max_length", type=int, default=128)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--steps", type=int, default=12)
    args = parser.parse_args()
    torch.manual_seed(0)
    shards, device = Shards([args.shards], "train"), choose("auto")
    assert device.precision != "fp16"
    small = shape(args.student, shards, args.max_length, args.dropout)
    large = shape(args.teacher, shards, args.max_length, args.dropout)
    steps = WARM + args.steps
    with tempfile.TemporaryDirectory() as folder:
        teacher = MaskedLM(large)
        cached, per_token = written(args, teacher, Path(folder), steps)
        compare(args, device, shards, small, teacher, cached, steps, per_token)


def written(args: argparse.Namespace, teacher: MaskedLM, folder: Path, steps: int) -> tuple[TeacherSource, float]:
    """A cache of the teacher's answers, made by the command, and its bytes a corpus token."""
    from biomlm.convert.formats import native
    from biomlm.convert.formats.source_checkpoint import SourceCheckpoint

    source = SourceCheckpoint("native", teacher.config, dict(teacher.state_dict()), folder)
    native.write(source, folder / "teacher", torch.float32)
    words = ["--shards", args.shards, "--teacher", folder / "teacher", "--steps", steps, "--seed", SEED, "--k", 64]
    words += ["--batch.tokens", args.tokens, "--batch.max_length", args.max_length, "--out", folder / "cache"]
    if cli.run(["distill", "cache", *map(str, words)]):
        raise SystemExit("the cache was not written")
    counts = read_json(folder / "cache" / "manifest.json")["counts"]
    assert isinstance(counts, dict)
    return CachedTeachers(folder / "cache"), counts["bytes"] / counts["tokens"]


def compare(
    args: argparse.Namespace,
    device: Device,
    shards: Shards,
    small: EncoderConfig,
    teacher: MaskedLM,
    cached: TeacherSource,
    steps: int,
    per_token: float,
) -> None:
    """Take turns, and print the medians and the issue's ratios."""
    where = device.torch
    plain, cheap, full = (MaskedLM(small).to(where).train() for _ in range(3))
    from_cache = DistillObjective(
        cached, small, LossConfig(hidden=0), vocab_size=shards.vocab_size, steps=steps, sources=["cache"]
    )
    teachers = Teachers([teacher], device, shards.vocab_size, 2.0)
    together = DistillObjective(
        teachers, small, LossConfig(), vocab_size=shards.vocab_size, steps=steps, sources=["teacher"]
    ).to(where)
    loop = PlainLoop(small, teacher.config).to(where).train()
    loop.teacher[0].to(where)
    wanted = [TeacherRequest(True, (teacher.config.num_hidden_layers,))]

    def forward(batch: Batch) -> Tensor:
        return teachers(batch, wanted).states[0].hidden[wanted[0].layers[0]]

    sides = {
        "plain MLM step": Side(*students_step(plain, PretrainObjective(ObjectiveConfig(), small).to(where)), device),
        "cached step": Side(*students_step(cheap, from_cache), device),
        "teacher's forward": Side(forward, None, device),
        "online step": Side(*students_step(full, together), device),
        "Hugging Face's loop": Side(loop, loop, device),
    }
    batches = Batches(shards, MlmConfig(), BatchConfig(tokens=args.tokens, max_length=args.max_length), SEED)
    tokens = []
    for step in range(steps):
        batch = batches.step(step)[0].to(where)
        tokens.append(len(batch.packed.input_ids_t))
        for side in sides.values():
            side.step(batch)
    print(
        f"student {args.student}, teacher {args.teacher}, vocabulary {shards.vocab_size}, {where} {device.precision}, "
    )
    print(
        f"dropout {args.dropout}, {args.tokens} tokens a step, {torch.get_num_threads()} threads, {args.steps} steps each"
    )
    for clock in ("cpu", "wall"):
        t = {name: statistics.median(getattr(side, clock)[WARM:]) for name, side in sides.items()}
        print(f"\n{clock} time:")
        for name, seconds in t.items():
            print(f"  {name:22}{seconds * 1e3:9.1f} ms   {statistics.mean(tokens) / seconds:9,.0f} real tokens/s")
        plain_step, ahead, fore, online, theirs = t.values()
        print(f"  cached / plain MLM                       {ahead / plain_step:6.3f}   (at most 1.15)")
        print(f"  online / (plain MLM + 1.05 × teacher)    {online / (plain_step + 1.05 * fore):6.3f}   (at most 1)")
        print(f"  online, times Hugging Face's loop        {theirs / online:6.2f}   (at least 1.5)")
    print(f"\ncache at k = 64, 15% masks: {per_token:.1f} bytes a corpus token (at most 60)")


if __name__ == "__main__":
    main()
