"""The one training loop: pretraining, distillation and fine-tuning differ in what they give it, the machines in the engine.

A verb gives it an engine with its model and objective, batches, an evaluation, and a rule by which it ends (`training.selection`).

All of a run's state is listed in `Trainer._checkpoint`: the weights, the objective's own weights, the optimiser's state, and a few
numbers. Batches, masks and dropout are functions of the step, so nothing else has to be saved, and a run that was killed ends
with the same bits as one that was not; on another number of processes it sees the same batches and masks.
"""

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from biomlm.core import checkpoint, rng
from biomlm.core.checkpoint import Checkpoint
from biomlm.core.errors import DataError
from biomlm.training.anomaly_guard import Guard
from biomlm.training.batches import Batches
from biomlm.training.config import LoopConfig
from biomlm.training.distributed.engine import Engine, StepResult
from biomlm.training.distributed.hang_detector import cuda_mark
from biomlm.training.distributed.process_group import BrokenOffError, World
from biomlm.training.divergence import Divergence
from biomlm.training.metrics import MetricsLogger
from biomlm.training.objective import LossDenominators, MicroBatch
from biomlm.training.out_of_memory import is_out_of_memory, largest, too_large
from biomlm.training.preemption import PreemptionHandler
from biomlm.training.prefetch import Prefetcher
from biomlm.training.rank_batches import RankBatches, batches_of_rank
from biomlm.training.result import TrainResult
from biomlm.training.saver import Saver
from biomlm.training.selection import Evaluation, Selection


class Trainer:
    """Trains a model in a run folder, from its newest checkpoint to the last step.

    Args:
        run: The run folder.
        engine: The model with its initial weights, its objective and its optimiser, on one or several processes.
        batches: What it is trained on.
        evaluation: What is computed between steps, or None.
        selection: When the run ends, and which weights are kept.
        config: Steps and intervals.
        what: The verb, as the progress bar shows it.
        peak: Floating-point operations a second at best, of all ranks together; None to log no utilisation.
    """

    def __init__(
        self,
        run: Path,
        engine: Engine,
        batches: Batches[Any],
        *,
        evaluation: Evaluation | None,
        selection: Selection,
        config: LoopConfig,
        what: str,
        peak: float | None = None,
    ):
        self.run, self.engine, self.batches, self.evaluation = run, engine, batches, evaluation
        self.selection, self.config, self.what, self.world = selection, config, what, engine.world
        self.guard, self.divergence = Guard(config.guard), Divergence(config.guard.spike)
        self.logger = MetricsLogger(run, what, config.steps, batches.work, speaks=self.world.is_main, peak=peak)
        ranks = self.world.size if engine.sharded else 1
        token = self.world.broadcast(f"{time.time_ns():x}")
        self.saver = Saver(
            run, config.keep, config.keep_every, rank=self.world.rank, ranks=ranks, token=token, patience=config.timeout
        )
        self.preemption, self.hang_detector = PreemptionHandler(), self.world.hang_detector
        self.hang_detector.what, engine.heartbeat = what, self.hang_detector.heartbeat
        self.hang_detector.mark = cuda_mark if engine.device.torch.type == "cuda" else None
        self.done, self.tokens, self.seconds = 0, 0, 0.0
        self.save_due = self.stopping = self.broken = self.evaluation_due = False

    def resume(self) -> bool:
        """Take up the newest checkpoint, if there is one."""
        step = newest_usable(self.run, self.world)
        if step is None:
            return False
        state = self._load_checkpoint(step)
        self.guard.load(state["guard"])
        self._remove_behind(step)
        if "data" in state:
            self.batches.resume(step, state["data"])
        elif self.guard.shift:  # of a version that counted the steps of the run before as stepped over
            self.batches.step_over(step, self.guard.shift)
        if self.world.is_main:
            print(f"{self.what}: going on from step {self.done} of {self.config.steps}", file=sys.stderr)
        return True

    def train(self) -> TrainResult:
        """Run the steps that are left.

        Raises:
            TemporaryError: A rank was lost, or, as StoppedError, a signal came.
            DataError: Losses, gradients or weights are not finite however often the run goes back, or nothing was learnt.
        """
        self.engine.loss.train()
        self.world.is_asked_to_stop = lambda: bool(self.preemption.signal_name)
        with self.logger, self.saver, self.preemption:
            self.logger.begin(self.done)
            if self.evaluation_due:
                self._evaluate()
                self._leave_if_asked()
            while not self._ended:
                self._steps()
                if self._must_go_back:
                    self._go_back()
            if self.selection.evaluated != self.done:
                self._evaluate()
                self._leave_if_asked()
            self._require_learnt()
        seconds = self.logger.seconds
        return TrainResult(
            step=self.done,
            tokens=self.tokens,
            seconds=self.seconds + seconds,
            tokens_per_second=self.logger.speed,
            mfu=self.logger.mfu,
            data_wait=self.logger.waited / max(seconds, 1e-9),
            save_wait=self.saver.stalled / max(seconds, 1e-9),
            guard=self.guard.state(),
        )

    @property
    def _ended(self) -> bool:
        return self.done == self.config.steps or self.selection.finished

    def _steps(self) -> None:
        """Run the steps up to the last one, or up to where the run has to go back."""
        with Prefetcher(self._load, self.done, self.config.steps) as prefetcher:
            while not self._ended and not self._must_go_back:
                self.logger.sizes(self.done, self.batches.sizes(self.done))
                waited = prefetcher.waited
                self._step(next(prefetcher))
                self.logger.waited += prefetcher.waited - waited
                self._after_step()

    def _load(self, step: int) -> RankBatches[Any]:
        """Make this rank's part of a step, in memory from which a copy to the device need not wait."""
        shape, all_rows = self.engine.model.config, self.engine.loss.objective.reads_all_rows
        part = batches_of_rank(self.batches, step, self.world.rank, self.world.size, model=shape, all_rows=all_rows)
        return part.pin() if self.engine.device.torch.type == "cuda" else part

    def _step(self, part: RankBatches[Any]) -> None:
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
            torch.manual_seed(rng.key(self.config.seed, "dropout", *batch.name) >> 1)
            terms = self._backward(batch, totals, weight, number == last)
            for name, value in terms.items():
                sums[name] = sums[name] + value if name in sums else value
        self.done += 1
        tokens = LossDenominators(*counts).tokens
        self.tokens += tokens
        self.logger.log_work(tokens, flops)
        if sums:  # a step of a tiny corpus may be empty on all ranks
            result = self.engine.step(sums, self.guard.accepts)
            self._record(result, LossDenominators(*counts), fingerprint)

    def _backward(self, batch: MicroBatch, totals: LossDenominators, weight: float, last: bool) -> dict[str, Tensor]:
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
        tokens, title = len(batch.packed.input_ids_t), self.batches.title(batch.name)
        raise too_large(tokens, title, fitting, self.batches.smaller(self.done, fitting))

    def _fits(self, batch: MicroBatch) -> bool:
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

    def _record(self, result: StepResult, counts: LossDenominators, fingerprint: int) -> None:
        """Log what became of a step."""
        if result.overflowed:
            self.guard.overflowed(result.scale)
        if self.guard.problem:
            self.logger.log_batches(fingerprint)
            outcome = "the weights have moved by it all the same" if result.moved else "this step is left out"
            words = f"{self.guard.problem} ({self._titles(self.done - 1)}): {outcome}"
            self.logger.event(self.done, words, {"skipped": self.guard.skipped})
        else:
            figures = {**result.figures, "gradient_norm": result.norm}
            means = {name: value for name, value in figures.items() if self._counts(name, counts)}
            self.logger.step(self.done, {**means, "learning_rate": result.rate}, fingerprint)
            self.selection.after_step(result.figures["loss"])
            if result.moved and "loss" in means:
                self.divergence.after_step(self.done, result.figures["loss"], result.norm)

    def _counts(self, figure: str, counts: LossDenominators) -> bool:
        """Whether a figure of a step is a mean over something; the gradient is the loss's."""
        over = self.engine.loss.objective.over("loss" if figure == "gradient_norm" else figure)
        return all(getattr(counts, field) for field in over)

    def _titles(self, step: int) -> str:
        """Name the micro-batches of a step, counted from 0."""
        return ", ".join(self.batches.title(name) for name in self.batches.names(step))

    @property
    def _must_go_back(self) -> bool:
        return self.guard.must_go_back or self.broken or bool(self.divergence.problem)

    def _after_step(self) -> None:
        """Do what is due after a step: a record, an evaluation, a checkpoint, the end."""
        if self._must_go_back:
            return
        config = self.config
        if self.done % config.log_every == 0:
            self.logger.log(self.done, self.tokens, self.world.gather(self.engine.busy))
        if self._ended or self.done % config.eval_every == 0:
            self._evaluate()
        if self.divergence.problem:
            return
        ended = self._ended and not self.evaluation_due
        self.save_due |= self.done % config.save_every == 0
        self.saver.check()
        # In the middle of bad steps nothing is saved: the run may have to go back behind them.
        if ended or self.stopping or (self.save_due and not self.guard.streak):
            self._save(wait=ended or self.stopping)
        if not ended and not self.broken:
            self._leave_if_asked()

    def _leave_if_asked(self) -> None:
        if self.stopping:
            raise self.preemption.error(f"after step {self.done}, which is saved")

    def _evaluate(self) -> None:
        """Evaluate, unless a signal breaks it off: then it is due when the run goes on."""
        if self.evaluation is None:
            return
        try:
            figures = self.evaluation(self.engine, self.done)
        except BrokenOffError:
            self.evaluation_due = self.stopping = True
            return
        self.evaluation_due = False
        self.logger.valid(self.done, {name: v for name, v in figures.items() if isinstance(v, (int, float))})
        self.divergence.after_evaluation(self.done, figures.get("loss"), self.evaluation.ceiling)
        self.selection.after_evaluation(self.done, figures, self.engine.model)

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
            "divergence": self.divergence.state(),
            "data": self.batches.place(self.done),
            "evaluation_due": self.evaluation_due,
            **self.logger.state(),
            **self.selection.state(),
        }
        return Checkpoint(self.done, {**self.engine.state_tensors(), **self.selection.tensors()}, state)

    def _load_checkpoint(self, step: int) -> Mapping[str, Any]:
        """Take up a checkpoint's weights and figures; return its state."""
        loaded = checkpoint.load(checkpoint.path_of(self.run, step), verify=False)
        state = loaded.state if "engine" in loaded.state else {**self._former_state(step), **loaded.state}
        self.engine.load(loaded.tensors, state["engine"])
        self.done, self.tokens, self.seconds = loaded.step, state["tokens"], state["seconds"]
        self.logger.load(state)
        self.divergence.load(state.get("divergence", {}))
        self.evaluation_due = bool(state.get("evaluation_due"))
        self.selection.load(loaded.tensors, state, step)
        return state

    def _former_state(self, step: int) -> dict[str, Any]:
        """Return what checkpoints of fine-tuning's former loop do not say: there every step moved the weights, and none was in fp16."""
        engine = {"updates": step, "scale": None}
        loop = {"tokens": round(self.batches.work(step)), "seconds": 0.0, "engine": engine}
        return {**loop, "guard": Guard(self.config.guard).state(), **MetricsLogger.fresh()}

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
        factor, diverged, before = self.engine.lr_factor, self.divergence.problem, bad - streak
        if diverged:
            factor *= self.divergence.way_back(self.run, bad, self.config.guard)
            wrong, before = f"the run diverges: {diverged}", self.divergence.before
        self.saver.finish()
        self.world.barrier()
        step = newest_usable(self.run, self.world, before)
        if step is None and diverged:  # those of its best time are gone
            step = newest_usable(self.run, self.world, bad - 1)
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
        self.guard.go_back(earlier["guard"], bad - step)
        self.batches.step_over(step, bad - step)
        self.broken, self.engine.lr_factor = False, factor
        self.logger.truncate(step)
        words = f"went back from step {bad} to {step}, and steps over the batches between"
        words += f" at {factor:g} of the learning rate" * (factor != 1) + f" ({wrong})" * bool(diverged)
        figures = {
            "rewinds": self.guard.rewinds,
            "shift": self.guard.shift,
            **({"lr_factor": factor} if factor != 1 else {}),
        }
        self.logger.event(step + 1, words, figures)

    def _require_learnt(self) -> None:
        """Refuse to call a run done that went nowhere; the same command says so again.

        Raises:
            DataError: Its evaluation objects, or no step moved the weights.
        """
        problem = "" if self.evaluation is None else self.evaluation.objection() or self.divergence.problem
        if self.engine.updates == self.engine.updates_before and self.guard.skipped + self.guard.overflows:
            problem = f"none of {self.done} steps moved the weights"
        if problem:
            raise DataError(
                problem,
                file=self.run,
                remedy="Lower --optim.lr, lengthen --optim.warmup or give --precision fp32, and another --out.",
            )


def newest_usable(run: Path, world: World, most: int | None = None) -> int | None:
    """Find the step of the newest checkpoint that a run can go on from, up to `most`, on rank 0, and broadcast it."""
    step: int | None = world.broadcast(checkpoint.latest_usable(run, most) if world.is_main else None)
    return step


def seed_weights(seed: int) -> None:
    """Seed the generator that initial weights are drawn from."""
    torch.manual_seed(rng.key(seed, "weights") >> 1)


def deterministic() -> None:
    """Ask torch for kernels that give the same bits in every run, on the CPU; on a GPU those cost speed and are left off."""
    torch.use_deterministic_algorithms(not torch.cuda.is_available())
