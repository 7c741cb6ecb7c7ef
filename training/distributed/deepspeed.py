"""DeepSpeed's ZeRO (arXiv 1910.02054), stages 0 to 3, with its offloading to the host's memory.

Its states are put together tensor by tensor for our own checkpoints, so any of them goes on in any engine on any number of ranks, and
none is a pickle. ZeRO looks at gradients in the same call that moves the weights: it leaves out those that are not finite by itself,
but large ones cannot be left out afterwards, so the guard does not look for spikes here (`PretrainConfig.guard`).
"""

import math
import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from biomlm.convert.load import build
from biomlm.core.checkpoint import Groups
from biomlm.core.errors import CheckpointError, ConfigError
from biomlm.model.encoder import EncoderModel
from biomlm.model.optim.config import OptimConfig
from biomlm.model.optim.optimizer import Optimizer, schedule
from biomlm.training.config import DeepSpeedConfig
from biomlm.training.distributed.deepspeed_config import settings
from biomlm.training.distributed.engine import Accept, Engine, LossModule, StepResult
from biomlm.training.distributed.process_group import World
from biomlm.training.objective import LossDenominators, MicroBatch


class DeepSpeedEngine(Engine):
    """A model that DeepSpeed trains.

    Args:
        loss: Model and objective.
        world: The ranks.
        optim: How the weights move.
        steps: Of the whole run.
        config: DeepSpeed's part.
    """

    def __init__(self, loss: LossModule, world: World, *, optim: OptimConfig, steps: int, config: DeepSpeedConfig):
        super().__init__(loss, world)
        deepspeed = _imported()
        self.optim, self.steps = optim, steps
        self.settings = settings(config, optim, self.parameters, self.device.precision)
        self.stage = self.settings["zero_optimization"]["stage"]
        if self.settings["fp16"]["enabled"] and not deepspeed.accelerator.get_accelerator().is_fp16_supported():
            raise ConfigError("DeepSpeed computes no fp16 on this device", remedy="Give --precision bf16 or fp32.")
        self.trained = self.loss.trained()
        grouped = Optimizer(self.trained, loss.model.config.num_hidden_layers, optim, steps)
        self.state_names = grouped.state_names
        if not dist.is_initialized():
            _group_of_one()
        self.inner, *_ = deepspeed.initialize(
            model=self.loss, optimizer=grouped.inner, config=self.settings, dist_init_required=False
        )
        self.base = getattr(self.inner.optimizer, "optimizer", self.inner.optimizer)
        if self.stage:
            self._make_moments()
        self._count(0)

    def _make_moments(self) -> None:
        """Create ZeRO's optimizer state, which would only be created in the first update, so that a checkpoint can be loaded into it."""
        zero = self.inner.optimizer
        for flat in zero.fp32_partitioned_groups_flat if self.stage == 3 else zero.single_partition_of_fp32_groups:
            zeros = {moment: torch.zeros_like(flat) for moment in self.state_names}
            self.base.state[flat] = {"step": torch.zeros((), device=flat.device), **zeros}
        if self.stage < 3:
            zero._lazy_init_hp_params_optimizer_state()  # parameters find their stretches of them

    def backward(self, batch: MicroBatch, totals: LossDenominators, weight: float, last: bool) -> dict[str, Tensor]:
        """See `Engine.backward`."""
        self.inner.set_gradient_accumulation_boundary(last)
        scale = self.scaled()
        if self.stage and self.scale is not None:  # ZeRO multiplies and divides by a loss scale itself: by ours
            self.inner.optimizer.override_loss_scale(self.factor)
            scale = self.world.size
        terms = self.inner(batch, totals)
        if last:
            self.before_collective()
        self.inner.backward(terms["loss"] * (weight * scale))
        if not last:
            self.inner.step()
        return {name: value.detach() * weight for name, value in terms.items()}

    def step(self, sums: Mapping[str, Tensor], accept: Accept) -> StepResult:
        """See `Engine.step`; ZeRO leaves out by itself what is not finite, and `accept` is told of what has moved the weights."""
        if not self.stage:
            return super().step(sums, accept)
        self._set_rates()
        self.inner.step()
        # a plain number if it is not finite
        norm = torch.as_tensor(self.inner.get_global_grad_norm(), dtype=torch.float32, device=self.device.torch)
        figures, size = self._read(sums, norm)
        overflowed, moved = self._overflows(figures["loss"], size), math.isfinite(size)
        if not overflowed:
            accept(figures["loss"], size)
        rate = self._rate if moved else 0.0
        return self._result(figures, size, moved=moved, overflowed=overflowed, rate=rate)

    def _norm(self) -> Tensor:
        grads = [p.grad for p in self.trained.values() if p.grad is not None]
        if self.scale is not None:
            torch._foreach_mul_(grads, 1 / self.factor)
        return nn.utils.get_total_norm(grads)

    def _move(self, norm: Tensor) -> float:  # noqa: ARG002 DeepSpeed clips by a norm of its own
        self._set_rates()
        self.inner.step()
        return self._rate

    def zero_grad(self) -> None:
        """See `Engine.zero_grad`."""
        self.inner.zero_grad()

    def _set_rates(self) -> None:
        for group in self.inner.optimizer.param_groups:
            group["lr"] = self._rate * group.get("scale", 1.0)

    @property
    def _rate(self) -> float:
        return self.lr_factor * self.optim.lr * schedule(self.at, self.steps, self.optim)

    def state_tensors(self) -> Groups:
        """See `Engine.state_tensors`."""
        groups: dict[str, dict[str, Tensor]] = {"model": {}, "objective": {}, "optimizer": {}}
        for group, name, parameter in self._everything():
            self._keep(groups[group], name, self._weight(parameter))
            for moment in self.state_names if parameter.requires_grad else ():
                key = name if group == "model" else f"objective.{name}"
                self._keep(groups["optimizer"], f"{moment}.{key}", self._moment(parameter, moment))
        return groups

    def _everything(self) -> Iterator[tuple[str, str, nn.Parameter]]:
        """Give group, name and parameter of all that a checkpoint holds."""
        for name, parameter in self.model.named_parameters():
            yield "model", name, parameter
        for name, parameter in self.loss.objective.named_parameters():
            if parameter.requires_grad:
                yield "objective", name, parameter

    def _keep(self, held: dict[str, Tensor], name: str, tensor: Tensor) -> None:
        """Keep a whole tensor on rank 0; the others only helped to put it together."""
        if self.world.is_main:
            held[name] = tensor.detach().to("cpu", torch.float32, copy=True)

    def _weight(self, parameter: nn.Parameter) -> Tensor:
        from deepspeed.utils import safe_get_full_fp32_param

        value = safe_get_full_fp32_param(parameter) if self.stage and parameter.requires_grad else None
        if value is not None:
            return value  # type: ignore[no-any-return]
        with self._gathered([parameter]):
            return parameter.detach().clone()

    def _moment(self, parameter: nn.Parameter, name: str) -> Tensor:
        from deepspeed.utils import safe_get_full_optimizer_state

        if self.stage:
            return safe_get_full_optimizer_state(parameter, name)  # type: ignore[no-any-return]
        return self.base.state[parameter].get(name, torch.zeros_like(parameter))  # type: ignore[no-any-return]

    def load_tensors(self, groups: Groups) -> None:
        """See `Engine.load_tensors`."""
        for group, name, parameter in self._everything():
            shape = tuple(getattr(parameter, "ds_shape", parameter.shape))
            saved = groups[group].get(name)
            if saved is None or tuple(saved.shape) != shape:
                raise CheckpointError(f"the checkpoint is of another model ({name})", remedy="Give another --out.")
            key = name if group == "model" else f"objective.{name}"
            self._put(
                parameter,
                saved,
                {m: groups["optimizer"][f"{m}.{key}"] for m in self.state_names if parameter.requires_grad},
            )
        self._count(self.updates)

    def _put(self, parameter: nn.Parameter, saved: Tensor, moments: Mapping[str, Tensor]) -> None:
        """Write a whole tensor and its optimizer state into every place that DeepSpeed keeps them in."""
        from deepspeed.utils import safe_set_full_fp32_param, safe_set_full_optimizer_state

        saved = saved.to(self.device.torch)
        with torch.no_grad(), self._gathered([parameter], changed=True):
            parameter.copy_(saved)
        if not self.stage:
            self.base.state[parameter].update({m: value.to(saved) for m, value in moments.items()})
            self.base.state[parameter].setdefault("step", torch.zeros(()))
            return
        if moments:
            safe_set_full_fp32_param(parameter, saved)
        for moment, value in moments.items():
            safe_set_full_optimizer_state(parameter, value.to(saved), moment)

    def _count(self, updates: int) -> None:
        """Set Adam's own count of updates; DeepSpeed's preparation of its state may have counted one."""
        for state in self.base.state.values():
            if "step" in state:
                state["step"] = torch.full_like(torch.as_tensor(state["step"]), float(updates))
        for group in self.base.param_groups:
            if "step" in group:
                group["step"] = updates

    def _gathered(self, parameters: list[nn.Parameter], *, changed: bool = False) -> AbstractContextManager[Any]:
        """Gather whole parameters on every rank."""
        if self.stage < 3:
            return nullcontext()
        from deepspeed.runtime.zero import GatheredParameters

        return GatheredParameters(parameters, modifier_rank=0 if changed else None)  # type: ignore[no-any-return]

    def ema_weights(self) -> AbstractContextManager[None]:
        """See `Engine.ema_weights`; `settings` refuses to keep one."""
        return nullcontext()

    @contextmanager
    def summon_full_params(self) -> Iterator[EncoderModel]:
        """See `Engine.summon_full_params`; of sharded weights it is a copy, since the original can be called through DeepSpeed only."""
        if self.stage < 3:
            yield self.model
        else:
            named = dict(self.model.named_parameters())
            yield build(self.model.config, {name: self._weight(p).to(self.device.torch) for name, p in named.items()})


def _imported() -> Any:
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if torch.cuda.is_available() else "cpu")  # else it looks, and warns
    try:
        import deepspeed
    except ImportError:
        raise ConfigError("DeepSpeed is not installed", remedy="pip install 'biomlm[deepspeed]'") from None
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # compiles for half a minute; gloo does without
    deepspeed.utils.logger.setLevel("ERROR")
    return deepspeed


def _group_of_one() -> None:
    """Initialize the process group and the variables that DeepSpeed needs even for a single process (without them it asks for MPI)."""
    alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
    os.environ.update({name: value for name, value in alone.items() if name not in os.environ})
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)  # type: ignore[attr-defined]
