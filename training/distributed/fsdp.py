"""torch's FSDP2 (`fully_shard`): every rank holds some rows of each tensor, and gathers a layer's whole weights while it computes there.

In 16 bits a layer's weights travel as such, those of its norms too; gradients are summed in float32, once a step: until its last
micro-batch every rank keeps them whole.

Rows are cut as `torch.chunk` cuts the first dimension, so a checkpoint's parts laid end to end are the whole tensors.
"""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from biomlm.core.checkpoint import Groups
from biomlm.model.compute import DTYPES
from biomlm.model.encoder import EncoderModel
from biomlm.training.distributed.ddp import DDPEngine


class FSDPEngine(DDPEngine):
    """Weights, gradients and optimizer state sharded over the ranks."""

    sharded = True

    def _wrap(self) -> nn.Module:
        mesh = init_device_mesh(self.device.torch.type, (self.world.size,))
        dtype = None if self.device.precision == "fp32" else DTYPES[self.device.precision]
        policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
        for layer in self.model.encoder.layers:
            fully_shard(layer, mesh=mesh, mp_policy=policy)
        fully_shard(self.loss, mesh=mesh)
        return self.loss

    def _synchronised(self, last: bool) -> AbstractContextManager[None]:
        assert isinstance(self.wrapped, FSDPModule)
        self.wrapped.set_is_last_backward(last)
        self.wrapped.set_requires_gradient_sync(last)
        return nullcontext()

    def state_tensors(self) -> Groups:
        """Return this rank's rows; a tensor without rows belongs to rank 0."""
        return {group: dict(self._rows(named)) for group, named in super().state_tensors().items()}

    def _rows(self, named: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
        for name, tensor in named.items():
            if not isinstance(tensor, DTensor):
                if self.world.is_main:
                    yield name, tensor
            elif len(tensor.to_local()):
                yield name, tensor.to_local()

    def load_weights(self, groups: Groups) -> None:
        """See `DDPEngine.load_weights`."""
        own = {n: p for n, p in self.loss.objective.named_parameters() if p.requires_grad}
        for held, saved in ((self.model.state_dict(), groups["model"]), (own, groups["objective"])):
            if odd := sorted(held.keys() ^ saved.keys()):
                raise KeyError(odd[0])
            for name, tensor in held.items():
                self._take(tensor, saved[name])

    def load_moments(self, moments: Mapping[str, Tensor]) -> None:
        """See `DDPEngine.load_moments`."""
        parts = {}
        for key in moments:
            name = key.partition(".")[2]
            parts[key] = torch.zeros_like(self.trained[name])
            self._take(parts[key], moments[key])
        super().load_moments(parts)

    def _take(self, held: Tensor, saved: Tensor) -> None:
        """Copy this rank's rows of a whole tensor."""
        if held.shape != saved.shape:
            raise RuntimeError(f"shape {tuple(saved.shape)} for {tuple(held.shape)}")
        if isinstance(held, DTensor):
            parts = saved.chunk(self.world.size)
            saved = parts[self.world.rank] if self.world.rank < len(parts) else saved[:0]
            held = held.to_local()
        with torch.no_grad():
            held.copy_(saved)

    @contextmanager
    def summon_full_params(self) -> Iterator[EncoderModel]:
        """See `Engine.summon_full_params`; what belongs to no layer is gathered here, layers gather themselves."""
        assert isinstance(self.wrapped, FSDPModule)
        self.wrapped.unshard()
        try:
            yield self.model
        finally:
            self.wrapped.reshard()
