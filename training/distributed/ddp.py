"""torch with a whole model on every rank: alone, or as DistributedDataParallel, which all-reduces gradients during the backward pass."""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from biomlm.core.checkpoint import Groups
from biomlm.core.errors import CheckpointError
from biomlm.model.compute import DTYPES
from biomlm.model.half_weights import HalfWeights
from biomlm.model.optim.config import OptimConfig
from biomlm.model.optim.optimizer import Optimizer
from biomlm.training.distributed.engine import Engine, LossModule
from biomlm.training.distributed.process_group import World
from biomlm.training.objective import LossDenominators, MicroBatch


def average_in(dtype: torch.dtype, bucket: Any) -> torch.futures.Future[Tensor]:
    """Average a bucket of gradients (`GradBucket`) over the ranks in another precision; torch's own hook for bf16 asks for NCCL."""
    buffer = bucket.buffer()
    narrow = torch.div(buffer, dist.get_world_size()).to(dtype)  # divided before: fp16 would overflow sooner
    future = dist.all_reduce(narrow, async_op=True).get_future()
    return future.then(lambda done: buffer.copy_(done.value()[0]))  # type: ignore[no-any-return]


class DDPEngine(Engine):
    """Every rank holds the whole model and moves it by the same gradient.

    Args:
        loss: Model and objective.
        world: The ranks.
        optim: How the weights move.
        steps: Of the whole run.
        half_gradients: Exchange gradients in the device's 16 bits.
    """

    def __init__(self, loss: LossModule, world: World, optim: OptimConfig, steps: int, *, half_gradients: bool = False):
        super().__init__(loss, world)
        self.half_gradients = half_gradients
        self.half = HalfWeights(self.model, DTYPES[self.device.precision]) if self._casts else None
        self.wrapped = self._wrap()
        self.trained = self.loss.trained()
        self.optimizer = Optimizer(self.trained, loss.model.config.num_hidden_layers, optim, steps)

    @property
    def _casts(self) -> bool:
        """Whether whole float32 weights are there to be cast."""
        return self.device.precision != "fp32" and not self.sharded

    def _wrap(self) -> nn.Module:
        """Return the module that forward passes go through."""
        if self.world.size == 1:
            return self.loss
        wrapped = DistributedDataParallel(self.loss, gradient_as_bucket_view=True)
        if (
            self.half_gradients
        ):  # of losses times the loss scale, if there is one: a lower scale ends an overflow here too
            wrapped.register_comm_hook(DTYPES[self.device.precision], average_in)
        return wrapped

    def begin(self, step: int, timed: bool) -> None:
        """See `Engine.begin`."""
        super().begin(step, timed)
        self._forget_copies()

    def _forget_copies(self) -> None:
        if self.half is not None:
            self.half.forget()

    def backward(self, batch: MicroBatch, totals: LossDenominators, weight: float, last: bool) -> dict[str, Tensor]:
        """See `Engine.backward`."""
        with self._synchronised(last), nullcontext() if self.half is None else self.half.lent():
            scale = self.scaled()
            terms = self.wrapped(batch, totals)
            if last:
                self.before_collective()
            (terms["loss"] * (weight * scale)).backward()
        return {name: value.detach() * weight for name, value in terms.items()}

    def _synchronised(self, last: bool) -> AbstractContextManager[None]:
        """Return the context in which gradients are all-reduced in the step's last backward pass only."""
        waits = isinstance(self.wrapped, DistributedDataParallel) and not last
        return self.wrapped.no_sync() if waits else nullcontext()  # type: ignore[operator]

    def _norm(self) -> Tensor:
        return self.optimizer.norm(self.factor)

    def _move(self, norm: Tensor) -> float:
        self._forget_copies()
        self.optimizer.lr_factor = self.lr_factor
        return self.optimizer.update(self.at, norm)

    def zero_grad(self) -> None:
        """See `Engine.zero_grad`."""
        self.optimizer.clear()

    def ema_weights(self) -> AbstractContextManager[None]:
        """See `Engine.ema_weights`."""
        return self.optimizer.averaged()

    def state_tensors(self) -> Groups:
        """See `Engine.state_tensors`."""
        own = {n: p for n, p in self.loss.objective.named_parameters() if p.requires_grad}
        return {"model": self.model.state_dict(), "objective": own, "optimizer": self.optimizer.tensors()}

    def state(self) -> dict[str, Any]:
        """See `Engine.state`."""
        before = {"mean_before": self.optimizer.mean_before} if self.optimizer.mean_before else {}
        return {**super().state(), **before}

    def load(self, groups: Groups, state: dict[str, Any]) -> None:
        """See `Engine.load`."""
        super().load(groups, state)
        self.optimizer.mean_before = state.get("mean_before", 0) if self.optimizer.mean else 0

    def load_tensors(self, groups: Groups) -> None:
        """See `Engine.load_tensors`."""
        try:
            self.load_weights(groups)
        except (RuntimeError, KeyError) as error:
            problem = f"the checkpoint is of another model ({str(error).splitlines()[0]})"
            raise CheckpointError(problem, remedy="Give another --out.") from None
        self.load_moments(groups["optimizer"])

    def load_moments(self, moments: Mapping[str, Tensor]) -> None:
        """Load the optimizer's state."""
        self.optimizer.load(moments, self.updates)

    def load_weights(self, groups: Groups) -> None:
        """Take over the model's and the objective's tensors; whoever has other names or shapes raises KeyError or RuntimeError."""
        self.model.load_state_dict(dict(groups["model"]))
        own = dict(self.loss.objective.named_parameters())
        with torch.no_grad():
            for name, tensor in groups.get("objective", {}).items():
                own[name].copy_(tensor)
