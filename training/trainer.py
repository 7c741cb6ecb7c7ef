"""The one training loop: pretraining and distillation differ in the objective they give it, the machines in the engine.

All of a run's state is listed in `Trainer._checkpoint`: the weights, the objective's own weights, the optimiser's state, and a few
numbers. Batches, masks and dropout are functions of the step, so nothing else has to be saved, and a run that was killed ends
with the same bits as one that was not; on another number of processes it sees the same batches and masks.
"""

import math
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from biomlm.core import checkpoint, rng
from biomlm.core.checkpoint import Checkpoint
from biomlm.core.errors import DataError, StoppedError
from biomlm.model.flops import peak
from biomlm.pretrain.config import PretrainConfig
from biomlm.pretrain.data.batches import Batch
from biomlm.pretrain.data.curriculum import Curriculum, End, end_of
from biomlm.pretrain.training.evaluate import EvalResult, Evaluator
from biomlm.pretrain.training.filled_examples import Examples
from biomlm.training.anomaly_guard import Guard
from biomlm.training.distributed.engine import Engine
from biomlm.training.distributed.hang_detector import HangDetector, is_lost
from biomlm.training.distributed.preemption import PreemptionHandler
from biomlm.training.metrics import MetricsLogger
from biomlm.training.objective import LossDenominators
from biomlm.training.out_of_memory import is_out_of_memory, largest, too_large
from biomlm.training.prefetch import Prefetcher
from biomlm.training.rank_batches import RankBatches, batches_of_rank
from biomlm.training.saver import Saver

DIVERGED = 2.0  # times the loss of a blind guess among all pieces: beginnings are near 1


@dataclass
class TrainResult:
    """What a finished run has to show.

    Args:
        step: Optimiser steps done.
        tokens: Real tokens trained on.
        seconds: Wall time of the run, over all its parts up to their last checkpoints.
        tokens_per_second: Of this process's part; 0 if nothing was left to do.
        mfu: Model FLOPs utilisation of this process's part, from 0 to 1.
        data_wait: Share of this process's time that the loop waited for batches, from 0 to 1.
        save_wait: Share of this process's time that the loop waited for checkpoints, from 0 to 1.
        guard: What the guards did.
        valid: The last evaluation, or None without a held-out split.
    """

    step: int
    tokens: int
    seconds: float
    tokens_per_second: float
    mfu: float
    data_wait: float
    save_wait: float
    guard: dict[str, Any]
    valid: EvalResult | None


class Trainer:
    """Trains a model in a run folder, from its newest checkpoint to the last step.

    Args:
        run: The run folder.
        engine: The model with its initial weights, its objective and its optimiser, on one or several processes.
        batches: The training split.
        evaluator: The held-out split, or None.
        config: Steps, rates and intervals.
        what: The verb, as the progress bar shows it.
    """

    def __init__(
        self,
        run: Path,
        engine: Engine,
        batches: Curriculum,
        evaluator: Evaluator | None,
        config: PretrainConfig,
        what: str,
    ):
        self.run, self.engine, self.batches, self.evaluator = run, engine, batches, evaluator
        self.config, self.what, self.world = config, what, engine.world
        self.guard = Guard(config.guard if engine.can_skip_step else replace(config.guard, spike=0.0))
        best = peak(engine.device) * self.world.size
        self.logger = MetricsLogger(run, what, config.steps, batches.work, self.world.is_main, best)
        ranks = self.world.size if engine.sharded else 1
        token = self.world.broadcast(f"{time.time_ns():x}")
        self.saver = Saver(run, config.keep, config.keep_every, self.world.rank, ranks, token, config.timeout)
        self.hang_detector, self.preemption = HangDetector(self.world, what), PreemptionHandler()
        engine.heartbeat = self.hang_detector.heartbeat
        self.done, self.tokens, self.seconds = 0, 0, 0.0
        self.save_due = self.stopping = self.broken = False
        self.valid: EvalResult | None = None
        self.examples = Examples(evaluator, config.examples) if evaluator and config.examples.count else None

    def train(self) -> TrainResult:
        """Run the steps that are left.

        Raises:
            TemporaryError: A rank was lost, or, as StoppedError, a signal came.
            DataError: Losses, gradients or weights are not finite however often the run goes back, or nothing was learnt.
        """
        self._resume()
        self.engine.loss.train()
        with self.logger, self.saver, self.preemption, self.hang_detector:
            self.logger.begin(self.done)
            try:
                while self.done < self.config.steps:
                    self._steps()
                    if self._must_go_back:
                        self._go_back()
                if self.valid is None:
                    self._evaluate()
                self._require_learnt()
            except RuntimeError as error:
                if not is_lost(error):
                    raise
                raise self.hang_detector.diagnose(error) from None
        seconds = self.logger.seconds
        return TrainResult(
            self.done,
            self.tokens,
            self.seconds + seconds,
            self.logger.speed,
            self.logger.mfu,
            self.logger.waited / max(seconds, 1e-9),
            self.saver.stalled / max(seconds, 1e-9),
            self.guard.state(),
            self.valid,
        )

    def _steps(self) -> None:
        """Run the steps up to the last one, or up to where the run has to go back."""
        with Prefetcher(self._load, self.done, self.config.steps) as prefetcher:
            while self.done < self.config.steps and not self._must_go_back:
                stage = self.batches.stage(self.done)
                self.logger.stage(self.done, stage.batch, stage.tokens_per_step)
                waited = prefetcher.waited
                self._step(next(prefetcher))
                self.logger.waited += prefetcher.waited - waited
                self._after_step()

    def _load(self, step: int) -> RankBatches:
        """Make this rank's part of a step, in memory from which a copy to the device need not wait."""
        shape = self.engine.model.config
        all_rows = self.engine.loss.objective.reads_all_rows
        part = batches_of_rank(self.batches, step, self.world.rank, self.world.size, shape, all_rows)
        return part.pin() if self.engine.device.torch.type == "cuda" else part

    def _step(self, part: RankBatches) -> None:
        """Run one optimiser step, or a bad one that leaves the weights as they are."""
        self.hang_detector.heartbeat()
        wish = int(bool(self.preemption.signal_name))
        *counts, flops, fingerprint, wishes = self.world.all_reduce_counts(
            [*part.totals, part.flops, part.fingerprint, wish]
        )
        totals, self.stopping = LossDenominators(*(max(count, 1) for count in counts)), wishes > 0
        last = len(part.batches) - 1
        sums: dict[str, Tensor] = {}
        self.engine.begin(self.done, timed=(self.done + 1) % self.config.log_every == 0)
        for number, (batch, weight) in enumerate(zip(part.batches, part.weights, strict=True)):
            torch.manual_seed(rng.key(self.config.seed, "dropout", batch.epoch, batch.index) >> 1)
            terms = self._backward(batch, totals, weight, number == last)
            for name, value in terms.items():
                sums[name] = sums[name] + value if name in sums else value
        self.done += 1
        tokens = LossDenominators(*counts).tokens
        self.tokens += tokens
        self.logger.log_work(tokens, flops)
        if sums:  # a step of a tiny corpus may be empty on all ranks
            self._decide(sums, LossDenominators(*counts), fingerprint)

    def _backward(self, batch: Batch, totals: LossDenominators, weight: float, last: bool) -> dict[str, Tensor]:
        """See `Engine.backward`.

        Raises:
            ConfigError: Memory ran out.
        """
        try:
            return self.engine.backward(batch.to(self.engine.device.torch), totals, weight, last)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        # Only here, where the error and all that its traceback holds are gone, is there memory to try with.
        self.engine.zero_grad()
        fitting = 0 if self.world.size > 1 else largest(batch, self._fits)
        raise too_large(batch, fitting, self.batches.stage(self.done).batch)

    def _fits(self, batch: Batch) -> bool:
        """Whether a micro-batch could be computed beside the optimiser's state, which the first step does not have yet."""
        device = self.engine.device.torch
        if device.type == "cuda":
            torch.cuda.empty_cache()
        try:
            moments = torch.empty(0 if self.engine.updates else 2 * self.engine.parameters, device=device)
            self.engine.backward(batch.to(device), LossDenominators.of([batch]), 1.0, True)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            return False
        else:
            del moments
            return True
        finally:
            self.engine.zero_grad()

    def _decide(self, sums: dict[str, Tensor], counts: LossDenominators, fingerprint: int) -> None:
        """Move the weights by the step's gradient, unless the guard objects.

        The one place where a step waits for the device: every figure is read at once.
        """
        norm = self.engine.grad_norm()
        added = self.world.all_reduce(torch.stack([value.float() for value in sums.values()]))
        *values, size = torch.cat([added, norm.float().reshape(1)]).tolist()
        figures = {**dict(zip(sums, values, strict=True)), "gradient_norm": size}
        wrong = self.guard.judge(figures["loss"], size, self.engine.scale)
        if wrong:
            self.engine.zero_grad()
            self.logger.log_batches(fingerprint)
            words = f"{wrong} ({self._named(self.done - 1)}): this step is left out"
            self.logger.event(self.done, words, {"skipped": self.guard.skipped})
        else:
            means = {name: value for name, value in figures.items() if self._counts(name, counts)}
            self.logger.step(self.done, {**means, "learning_rate": self.engine.optimizer_step()}, fingerprint)

    def _counts(self, figure: str, counts: LossDenominators) -> bool:
        """Whether a figure of a step is a mean over something; the gradient is the loss's."""
        over = self.engine.loss.objective.over("loss" if figure == "gradient_norm" else figure)
        return all(getattr(counts, field) for field in over)

    def _named(self, step: int) -> str:
        """Name the micro-batches of a step, counted from 0."""
        names = self.batches.names(step)
        return "micro-batch " + ", ".join(f"{index} of epoch {epoch}" for epoch, index in names)

    @property
    def _must_go_back(self) -> bool:
        return self.guard.must_go_back or self.broken

    def _after_step(self) -> None:
        """Do what is due after a step: a record, an evaluation, a checkpoint, the end."""
        if self._must_go_back:
            return
        config, ended = self.config, self.done == self.config.steps
        if self.done % config.log_every == 0:
            self.logger.log(self.done, self.tokens, self.world.gather(self.engine.busy))
        if ended or self.done % config.eval_every == 0:
            self._evaluate()
        self.save_due |= self.done % config.save_every == 0
        self.saver.check()
        # In the middle of bad steps nothing is saved: the run may have to go back behind them.
        if ended or self.stopping or (self.save_due and not self.guard.streak):
            self._save(wait=ended or self.stopping)
        if self.stopping and not ended and not self.broken:
            raise StoppedError(
                f"stopped by {self.preemption.signal_name or 'a signal to another rank'} after step {self.done}, which is saved",
                remedy="The same command goes on from there.",
            )

    def _evaluate(self) -> None:
        if self.evaluator is None:
            return
        with self.engine.summon_full_params() as model:
            self.valid = self.evaluator(model, self.engine.device)
            if self.examples is not None:
                self.examples.write(self.run, self.done, model, self.engine.device)
        figures = self.valid.as_metrics()
        if self.config.optim.ema:
            with self.engine.ema_weights(), self.engine.summon_full_params() as model:
                ema = self.evaluator(model, self.engine.device)
            ema_figures = ema.as_metrics()
            figures |= {f"ema_{name}": ema_figures[name] for name in ("loss", "accuracy") if name in ema_figures}
        epochs = {f"epochs/{name}": round(count, 4) for name, count in self.batches.passes(self.done).items()}
        self.logger.valid(self.done, {**figures, **epochs})

    def _save(self, *, wait: bool) -> None:
        snapshot, self.save_due = self._checkpoint(), False
        self.broken = self.world.all_reduce_counts([int(not checkpoint.is_finite(snapshot))]) != [0]
        if self.broken:  # a run that took it up would have nothing to go on with
            self.logger.event(self.done, "the weights are not finite: they are not saved", {})
            return
        if self.engine.sharded or self.world.is_main:
            self.saver.save(snapshot, wait=wait)
        if wait:
            self.world.barrier()

    def _checkpoint(self) -> Checkpoint:
        state = {
            "tokens": self.tokens,
            "seconds": self.seconds + self.logger.seconds,
            "engine": self.engine.state(),
            "guard": self.guard.state(),
            "data": asdict(self.batches.end(self.done)),
            **self.logger.state(),
        }
        return Checkpoint(self.done, self.engine.state_tensors(), state)

    def _resume(self) -> None:
        step = self._newest(self.run)
        if step is not None:
            last = self._load_checkpoint(step)
            self.guard.load(last.state["guard"])
            self._remove_behind(step)
            if "data" in last.state:
                self.batches.go_on(step, End(**last.state["data"]))
            elif self.guard.shift:  # of a version that counted the steps of the run before as stepped over
                self.batches.step_over(step, self.guard.shift)
            if self.world.is_main:
                print(f"{self.what}: going on from step {self.done} of {self.config.steps}", file=sys.stderr)
        elif self.config.longer is not None:
            self._train_longer(Path(self.config.longer))

    def _train_longer(self, run: Path) -> None:
        """Take up another run's weights and optimizer state, and the batches that follow its last one.

        Raises:
            DataError: It has no whole checkpoint, or one without optimizer state or a place in the data.
        """
        step = self._newest(run)
        if step is None:
            raise DataError("this run has no whole checkpoint", file=run, remedy="Give a run to --longer that has one.")
        last = checkpoint.load(path := checkpoint.path_of(run, step), verify=False)
        if not {"engine", "guard"} <= last.state.keys():
            raise DataError(
                "it holds a model, and no moments or place in the data to train on from",
                file=path,
                remedy="Start a new run from the model by --init.",
            )
        self.engine.take_over(last.tensors, last.state["engine"], last.step)
        self.batches.go_on(0, end_of(run, last))

    def _newest(self, run: Path, most: int | None = None) -> int | None:
        """Find the step of the newest checkpoint that a run can go on from, up to `most`, on rank 0, and broadcast it."""
        step: int | None = self.world.broadcast(checkpoint.latest_usable(run, most) if self.world.is_main else None)
        return step

    def _load_checkpoint(self, step: int) -> Checkpoint:
        loaded = checkpoint.load(checkpoint.path_of(self.run, step), verify=False)
        self.engine.load(loaded.tensors, loaded.state["engine"])
        self.done, self.tokens, self.seconds = loaded.step, loaded.state["tokens"], loaded.state["seconds"]
        self.logger.load(loaded.state)
        return loaded

    def _remove_behind(self, step: int) -> None:
        """Remove the checkpoints that the run went back behind."""
        if self.world.is_main:
            for later in [s for s in checkpoint.steps(self.run) if s > step]:
                checkpoint.remove(self.run, later)

    def _go_back(self) -> None:
        """Take up the last checkpoint before the bad steps, with the batches behind them."""
        bad, streak = self.done, max(self.guard.streak, 1)
        wrong = f"{streak} bad steps in a row up to step {bad}"
        if self.broken:
            wrong = f"the weights after step {bad} are not finite"
        self.saver.finish()
        self.world.barrier()
        step = self._newest(self.run, bad - streak)
        if step is None or self.guard.rewinds == self.config.guard.rewinds:
            why = (
                "there is no checkpoint to go back to" if step is None else f"{self.guard.rewinds} returns did not help"
            )
            raise DataError(
                f"{wrong}, and {why}",
                file=self.run,
                remedy="Lower --optim.lr or give --precision fp32; metrics.jsonl says what was wrong with each step.",
            )
        self._remove_behind(step)
        earlier = self._load_checkpoint(step)
        self.guard.go_back(earlier.state["guard"], bad - step)
        self.batches.step_over(step, bad - step)
        self.broken = False
        self.logger.truncate(step)
        words = f"went back from step {bad} to {step}, and steps over the batches between"
        self.logger.event(step + 1, words, {"rewinds": self.guard.rewinds, "shift": self.guard.shift})

    def _require_learnt(self) -> None:
        """Refuse to call a run done that went nowhere; the same command says so again.

        Raises:
            DataError: It diverged, or no step moved the weights.
        """
        guess = math.log(self.engine.model.config.vocab_size)
        loss = None if self.valid is None or not self.valid.masked_tokens else self.valid.loss
        problem = ""
        if self.engine.updates == self.engine.updates_before and self.guard.skipped + self.guard.overflows:
            problem = f"none of {self.done} steps moved the weights"
        elif loss is not None and not loss <= DIVERGED * guess:
            problem = f"the run diverged: its held-out loss is {loss:.3g}, and a blind guess has {guess:.3g}"
        if problem:
            raise DataError(
                problem,
                file=self.run,
                remedy="Lower --optim.lr, lengthen --optim.warmup or give --precision fp32, and another --out.",
            )


def seed_weights(seed: int) -> None:
    """Seed the generator that initial weights are drawn from."""
    torch.manual_seed(rng.key(seed, "weights") >> 1)


def deterministic() -> None:
    """Ask torch for kernels that give the same bits in every run, on the CPU; on a GPU those cost speed and are left off."""
    torch.use_deterministic_algorithms(not torch.cuda.is_available())
