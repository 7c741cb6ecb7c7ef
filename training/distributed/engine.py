"""The interface between the one training loop and what distributes its computation over processes.

A step's micro-batches go to the ranks round-robin; each loss is a share of the whole step's mean, so the ranks' losses and gradients
sum to those of one process, whatever their number. Weights, batches and masks are the same in every engine.
"""

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from biomlm.core.checkpoint import Groups
from biomlm.model.device import Device
from biomlm.model.encoder import EncoderModel, parameter_count
from biomlm.training.distributed.loss_scale import LossScale
from biomlm.training.distributed.process_group import World
from biomlm.training.objective import LossDenominators, MicroBatch, Objective

Accept = Callable[[float, float], bool]  # a step's loss and the norm of its gradient → whether it may move the weights


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """What became of a step, the same on every rank.

    Args:
        figures: Its means by name, over all ranks; `loss` is what was minimised.
        norm: Of its gradient over all ranks, before clipping.
        moved: Whether it moved the weights.
        overflowed: Whether it did not because its gradient left fp16's range, so that the loss scale was lowered.
        scale: The loss scale that the next step is computed with; 1 where the precision needs none.
        rate: The learning rate that it moved the weights by, of layers without a decay; 0 if it did not.
    """

    figures: dict[str, float]
    norm: float
    moved: bool
    overflowed: bool
    scale: float
    rate: float


class LossModule(nn.Module):
    """Model and objective as one module, since engines wrap exactly one; its forward pass is one micro-batch's losses."""

    def __init__(self, model: EncoderModel, objective: Objective[Any, Any], device: Device):
        super().__init__()
        self.model, self.objective, self.device = model, objective, device

    def forward(self, batch: MicroBatch, totals: LossDenominators) -> dict[str, Tensor]:
        """See `Objective.forward`."""
        with self.device.autocast():
            return self.objective(self.model, batch, totals)  # type: ignore[no-any-return]

    def trained(self) -> dict[str, nn.Parameter]:
        """Return every trained parameter, by its name in a checkpoint."""
        own = {f"objective.{n}": p for n, p in self.objective.named_parameters()}
        return {n: p for n, p in {**dict(self.model.named_parameters()), **own}.items() if p.requires_grad}


class Engine(ABC):
    """Forward, backward and update of one model on all processes of a run.

    Args:
        loss: The model and its objective, the same on every rank, and where this rank computes.
        world: The ranks.
    """

    sharded = False  # whether `state_tensors` gives each rank a part of its own

    def __init__(self, loss: LossModule, world: World):
        self.loss, self.device, self.world = loss.to(loss.device.torch), loss.device, world
        self.scale = LossScale() if self.device.precision == "fp16" else None
        self.parameters = parameter_count(loss.model)
        self.updates = self.at = 0
        self.lr_factor = 1.0  # of the schedule's learning rate
        self.updates_before = 0  # of these, by the run that this one trains longer
        self.timed, self.started, self.busy = False, 0.0, 0.0
        self.heartbeat: Callable[[], None] | None = None  # called before every collective operation

    @property
    def model(self) -> EncoderModel:
        """The model inside."""
        return self.loss.model

    @property
    def factor(self) -> float:
        """The loss scale; 1 where the precision needs none."""
        return 1.0 if self.scale is None else self.scale.factor

    def scaled(self) -> float:
        """Return the factor of a micro-batch's loss before its backward pass, and pass it to the objective, which may use fp16 itself.

        Gradients are averaged over ranks, but losses are shares of one mean: hence the number of ranks.
        """
        scale = self.loss.objective.scale = self.world.size * self.factor
        return scale

    def begin(self, step: int, timed: bool) -> None:
        """Start the step that follows `step` others; if `timed`, `busy` will be this rank's seconds until it meets the others."""
        self.at, self.timed, self.started = step, timed, time.perf_counter()

    def before_collective(self) -> None:
        """Record that this rank enters a collective operation next."""
        if self.timed and self.device.torch.type == "cuda":
            torch.cuda.synchronize()
        self.busy = time.perf_counter() - self.started
        if self.heartbeat is not None:
            self.heartbeat()

    @abstractmethod
    def backward(self, batch: MicroBatch, totals: LossDenominators, weight: float, last: bool) -> dict[str, Tensor]:
        """Add one micro-batch's gradients.

        Args:
            batch: On this rank's device.
            totals: Of the whole step, over all ranks.
            weight: 1, or 0 for a batch that only keeps a rank in time with the others.
            last: Whether it is the step's last one on this rank.

        Returns:
            Its shares of the step's means, detached.
        """

    def step(self, sums: Mapping[str, Tensor], accept: Accept) -> StepResult:
        """End the step: compute the gradient's norm, ask whether it may move the weights, and update or leave them; clear the gradient.

        The one place where a step waits for the device: every figure is read at once. A gradient that overflows in fp16 is not asked
        about: it lowers the loss scale.

        Args:
            sums: This rank's shares of the step's means, summed over its micro-batches.
            accept: Is asked once, with figures that every rank has alike. ZeRO moves the weights and clips in one call, so there it is
                asked afterwards, and `StepResult.moved` says what happened.
        """
        norm = self._norm()
        figures, size = self._read(sums, norm)
        overflowed = self._overflows(figures["loss"], size)
        moved = not overflowed and accept(figures["loss"], size)
        rate = self._move(norm) if moved else 0.0
        if not moved:
            self.zero_grad()
        return self._result(figures, size, moved=moved, overflowed=overflowed, rate=rate)

    def _read(self, sums: Mapping[str, Tensor], norm: Tensor) -> tuple[dict[str, float], float]:
        """Sum figures over the ranks, and read them and the norm from the device."""
        added = self.world.all_reduce(torch.stack([value.float() for value in sums.values()]))
        *values, size = torch.cat([added, norm.float().reshape(1)]).tolist()
        return dict(zip(sums, values, strict=True)), size

    def _overflows(self, loss: float, norm: float) -> bool:
        """Whether a gradient that is not finite is a matter of the loss scale."""
        return self.scale is not None and math.isfinite(loss) and not math.isfinite(norm)

    def _result(
        self, figures: dict[str, float], norm: float, *, moved: bool, overflowed: bool, rate: float
    ) -> StepResult:
        """Count the step, and adapt the loss scale."""
        self.updates += moved
        if self.scale is not None and overflowed:
            self.scale.overflowed()
        elif self.scale is not None and moved:
            self.scale.good()
        return StepResult(figures=figures, norm=norm, moved=moved, overflowed=overflowed, scale=self.factor, rate=rate)

    @abstractmethod
    def _norm(self) -> Tensor:
        """Divide the gradient by the loss scale; return its norm over all ranks, still on the device, not finite if any of it is not."""

    @abstractmethod
    def _move(self, norm: Tensor) -> float:
        """Clip the gradient, of this norm, update the weights and clear the gradient; return the learning rate."""

    @abstractmethod
    def zero_grad(self) -> None:
        """Clear the gradient without updating the weights."""

    @abstractmethod
    def state_tensors(self) -> Groups:
        """Return all that a checkpoint holds: whole on rank 0, or this rank's rows if the engine is `sharded`; called on every rank.

        The optimizer's own are in `Optimizer.tensors`, but for ZeRO, which gathers them itself.
        """

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint holds beside the tensors."""
        scale = None if self.scale is None else [self.scale.factor, self.scale.good_steps]
        before = {"updates_before": self.updates_before} if self.updates_before else {}
        lowered = {"lr_factor": self.lr_factor} if self.lr_factor != 1 else {}
        return {"updates": self.updates, "scale": scale, **before, **lowered}

    def load(self, groups: Groups, state: dict[str, Any]) -> None:
        """Take over a checkpoint's whole tensors and what `state` said, of whatever engine and number of ranks.

        Raises:
            CheckpointError: They are of another model.
        """
        self.updates, self.updates_before = state["updates"], state.get("updates_before", 0)
        self.lr_factor = state.get("lr_factor", 1.0)
        if self.scale is not None and state["scale"] is not None:
            self.scale.factor, self.scale.good_steps = state["scale"]
        self.load_tensors(groups)

    def take_over(self, groups: Groups, state: dict[str, Any], step: int) -> None:
        """Start from the end of another run: as `load`, of what it held after `step` steps."""
        before = {"updates_before": state["updates"], "mean_before": state.get("mean_before", 0) + step}
        self.load(groups, {**state, **before})

    @abstractmethod
    def load_tensors(self, groups: Groups) -> None:
        """Load the tensors, after `updates` has its value."""

    @abstractmethod
    def ema_weights(self) -> AbstractContextManager[None]:
        """Put the running mean of the weights in their place, where `optim.ema` keeps one; on every rank at once."""

    @contextmanager
    def summon_full_params(self) -> Iterator[EncoderModel]:
        """Give the model with whole parameters, so that it can be called by itself, on every rank at once."""
        yield self.model
