"""The one training loop: pretraining and distillation differ in the objective they give it.

All of a run's state is listed in `Trainer.checkpoint`: the weights, the objective's own weights, the optimiser's moments, and a few
numbers. Batches, masks and dropout are functions of the step, so nothing else has to be saved, and a run that was killed ends
with the same bits as one that was not.
"""

import math
import sys
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from biolm.core import checkpoint, rng
from biolm.core.checkpoint import Checkpoint
from biolm.core.errors import CheckpointError, DataError
from biolm.core.metrics import MetricsWriter
from biolm.core.progress import progress
from biolm.model.device import Device
from biolm.model.encoder import MaskedLM
from biolm.model.optim import AdamW
from biolm.pretrain.batches import Batch, Batches
from biolm.pretrain.config import PretrainConfig
from biolm.pretrain.evaluate import Evaluator, HeldOut
from biolm.pretrain.loader import Loader
from biolm.pretrain.objective import Objective, Totals


@dataclass
class Unread:
    """Figures of a micro-batch that have not been read from the device yet.

    Args:
        step: The optimiser step, from 1.
        batch: The micro-batch, in words.
        terms: Name → scalar.
    """

    step: int
    batch: str
    terms: dict[str, Tensor]


@dataclass
class Outcome:
    """What a finished run has to show.

    Args:
        step: Optimiser steps done.
        tokens: Real tokens trained on.
        seconds: Wall time of the run, over all its parts up to their last checkpoints.
        tokens_per_second: Of this process's part; 0 if nothing was left to do.
        data_wait: Share of this process's time that the loop waited for batches, from 0 to 1.
        valid: The last evaluation, or None without a held-out split.
    """

    step: int
    tokens: int
    seconds: float
    tokens_per_second: float
    data_wait: float
    valid: HeldOut | None


class Trainer:
    """Trains a model in a run folder, from its newest checkpoint to the last step.

    Args:
        run: The run folder.
        model: Initial weights; replaced by a checkpoint's if there is one.
        objective: What is minimised; its own parameters are trained too.
        batches: The training split.
        evaluator: The held-out split, or None.
        config: Steps, rates and intervals.
        device: Where to run.
        what: The verb, as the progress bar shows it.
    """

    def __init__(
        self,
        run: Path,
        model: MaskedLM,
        objective: Objective,
        batches: Batches,
        evaluator: Evaluator | None,
        config: PretrainConfig,
        device: Device,
        what: str,
    ):
        self.run, self.config, self.device, self.what = run, config, device, what
        self.model, self.objective = model.to(device.torch), objective.to(device.torch)
        self.batches, self.evaluator = batches, evaluator
        own = {f"objective.{n}": p for n, p in objective.named_parameters() if p.requires_grad}
        named = {**dict(model.named_parameters()), **own}
        self.optimizer = AdamW(named, model.config.num_hidden_layers, config.optim, config.steps)
        self.done, self.tokens, self.seconds = 0, 0, 0.0
        self.started = time.monotonic()
        self.window: dict[str, float] = defaultdict(float)  # sums since the last record of the training loss
        self.window_steps = 0
        self.unread: list[Unread] = []  # figures still on the device: reading one makes the host wait for it
        self.loss = math.nan  # of the last step that was read

    def train(self) -> Outcome:
        """Run the steps that are left."""
        self._resume()
        self.model.train()
        self.objective.train()
        self.started, tokens_before, valid = time.monotonic(), self.tokens, None
        with (
            MetricsWriter(self.run, self.done) as metrics,
            progress(self.what, self.config.steps, "steps", self.done) as bar,
            Loader(self._load, self.done, self.config.steps) as loader,
        ):
            while self.done < self.config.steps:
                self._step(loader.take())
                bar.advance(1, note=f"loss {self.loss:.3f}")
                if self.done % self.config.log_every == 0:
                    self._log(metrics, tokens_before, loader.waited)
                if self.done % self.config.eval_every == 0 or self.done == self.config.steps:
                    valid = self._evaluate(metrics)
                if self.done % self.config.save_every == 0 or self.done == self.config.steps:
                    checkpoint.save(self.run, self._checkpoint(), self.config.keep)
        seconds = time.monotonic() - self.started
        if valid is None and self.evaluator is not None:
            valid = self.evaluator(self.model, self.device)
        speed = (self.tokens - tokens_before) / max(seconds, 1e-9)
        wait = loader.waited / max(seconds, 1e-9)
        return Outcome(self.done, self.tokens, self.seconds + seconds, speed, wait, valid)

    def _load(self, step: int) -> list[Batch]:
        """A step's micro-batches, where a copy to the device need not wait."""
        batches = self.batches.step(step)
        return [batch.pin() for batch in batches] if self.device.torch.type == "cuda" else batches

    def _step(self, batches: list[Batch]) -> None:
        """One optimiser step."""
        totals = Totals.of(batches)
        torch.manual_seed(rng.key(self.config.seed, "dropout", self.done) >> 1)
        for batch in batches:
            terms = self._backward(batch.to(self.device.torch), totals)
            self.unread.append(Unread(self.done + 1, f"micro-batch {batch.index} of epoch {batch.epoch}", terms))
        norm, rate = self.optimizer.step(self.done)
        self.unread.append(Unread(self.done + 1, "its gradient", {"gradient_norm": norm}))
        self.window["learning_rate"] += rate
        self.window_steps += 1
        self.done += 1
        self.tokens += totals.tokens

    def _backward(self, batch: Batch, totals: Totals) -> dict[str, Tensor]:
        with self.device.autocast():
            terms = self.objective(self.model, batch, totals)
        terms["loss"].backward()
        return {name: value.detach() for name, value in terms.items()}

    def _read(self) -> None:
        """Bring the figures of the last steps to the host and add them up.

        Raises:
            DataError: A loss is not finite; nothing of it has been saved.
        """
        if not self.unread:
            return
        values = iter(torch.stack([value.float() for one in self.unread for value in one.terms.values()]).tolist())
        losses: dict[int, float] = defaultdict(float)
        for one in self.unread:
            for name in one.terms:
                value = next(values)
                self.window[name] += value
                if name == "loss":
                    losses[one.step] += value
                    if not math.isfinite(value):
                        raise DataError(
                            f"the loss of step {one.step} is not finite ({one.batch})",
                            file=self.run,
                            remedy="Lower --optim.lr or give --precision fp32; the last checkpoint is whole.",
                        )
        self.loss = losses[self.unread[-1].step]
        self.unread.clear()

    def _log(self, metrics: MetricsWriter, tokens_before: int, waited: float) -> None:
        self._read()
        means = {name: value / self.window_steps for name, value in self.window.items()}
        seconds = time.monotonic() - self.started
        speed, wait = (self.tokens - tokens_before) / seconds, waited / seconds
        figures = {"tokens": self.tokens, "tokens_per_second": round(speed, 1), "data_wait": round(wait, 4)}
        metrics.write(self.done, "train", {**means, **figures})
        self.window.clear()
        self.window_steps = 0

    def _evaluate(self, metrics: MetricsWriter) -> HeldOut | None:
        if self.evaluator is None:
            return None
        valid = self.evaluator(self.model, self.device)
        metrics.write(self.done, "valid", valid.as_metrics())
        return valid

    def _checkpoint(self) -> Checkpoint:
        self._read()
        tensors = {
            "model": self.model.state_dict(),
            "objective": {n: p for n, p in self.objective.named_parameters() if p.requires_grad},
            "optimizer": self.optimizer.tensors(),
        }
        state = {
            "tokens": self.tokens,
            "seconds": self.seconds + time.monotonic() - self.started,
            "window": dict(self.window),
            "window_steps": self.window_steps,
        }
        return Checkpoint(self.done, tensors, state)

    def _resume(self) -> None:
        found = checkpoint.load_latest(self.run)
        if found is None:
            return
        try:
            self.model.load_state_dict(dict(found.tensors["model"]))
            own = dict(self.objective.named_parameters())
            with torch.no_grad():
                for name, tensor in found.tensors["objective"].items():
                    own[name].copy_(tensor)
        except (RuntimeError, KeyError) as error:
            problem = str(error).splitlines()[0]
            raise CheckpointError(
                f"the checkpoint is of another model ({problem})", file=self.run, remedy="Give another --out."
            ) from None
        self.optimizer.load(found.tensors["optimizer"], found.step)
        self.done, self.tokens, self.seconds = found.step, found.state["tokens"], found.state["seconds"]
        self.window.update(found.state["window"])
        self.window_steps = found.state["window_steps"]
        print(f"{self.what}: going on from step {self.done} of {self.config.steps}", file=sys.stderr)


def seed_weights(seed: int) -> None:
    """Seed the generator that initial weights are drawn from."""
    torch.manual_seed(rng.key(seed, "weights") >> 1)


def deterministic() -> None:
    """Ask torch for kernels that give the same bits in every run, on the CPU; on a GPU those cost speed and are left off."""
    torch.use_deterministic_algorithms(not torch.cuda.is_available())
