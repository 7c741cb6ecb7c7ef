"""FSDP2: weights travel in 16 bits, gradients are summed in float32 once a step, and the losses are those of one process."""

from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode

from biomlm.core import cli
from biomlm.model.config import ModelConfig
from biomlm.model.device import Device
from biomlm.model.encoder import MaskedLM
from biomlm.model.optim.config import OptimConfig
from biomlm.model.packed import Packed
from biomlm.pretrain.data.batches import Batch
from biomlm.pretrain.objectives.base import PretrainObjective
from biomlm.pretrain.objectives.config import ObjectiveConfig
from biomlm.training.distributed.engine import LossModule
from biomlm.training.distributed.fsdp import FSDPEngine
from biomlm.training.distributed.process_group import RankInfo, World
from biomlm.training.objective import LossDenominators

LAYERS, MICRO_BATCHES = 2, 3


@pytest.fixture
def pair() -> Iterator[World]:
    """Rank 0 of two, whose partner answers nothing: enough to see what is exchanged."""
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
    world = World(RankInfo())
    world.size = 2
    yield world
    dist.destroy_process_group()


class Exchanges(TorchDispatchMode):
    """Notes the precision of what ranks exchange."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[str, list[torch.dtype]] = defaultdict(list)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "c10d":
            self.seen[func.overloadpacket.__name__].append(args[1].dtype)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("precision", "travels"), [("bf16", torch.bfloat16), ("fp32", torch.float32)])
def test_a_step_reduces_once_in_float32(precision: str, travels: torch.dtype, pair: World) -> None:
    model = MaskedLM(ModelConfig(size="tiny", num_hidden_layers=LAYERS).resolve(97, 40, 1)).train()
    loss = LossModule(model, PretrainObjective(ObjectiveConfig(), model.config), Device(torch.device("cpu"), precision))  # type: ignore[arg-type]
    engine = FSDPEngine(loss, pair, OptimConfig(), 10)
    ids_t = torch.randint(4, 97, (40,))
    batch = Batch(Packed(ids_t, (15, 25)), torch.arange(0, 40, 5), ids_t[::5])
    engine.begin(0, timed=False)
    with Exchanges() as exchanges:
        for number in range(MICRO_BATCHES):
            engine.backward(batch, LossDenominators(24, 120), 1.0, last=number == MICRO_BATCHES - 1)
    reduced, gathered = exchanges.seen["_reduce_scatter_base_"], exchanges.seen["_allgather_base_"]
    assert reduced == [torch.float32] * (LAYERS + 1), "of each layer and of the rest, in the last micro-batch alone"
    assert {*gathered} == {travels, torch.float32}, "embeddings stay float32"


@pytest.mark.slow
def test_two_ranks_in_16_bits_lose_what_one_process_does(
    tiny_shards: Path,
    small_run: Callable[..., list[str]],
    start_ranks: Callable[..., Any],
    records: Any,
    tmp_path: Path,
) -> None:
    words = ["--log_every", "1", "--batch.accumulation", "3", "--precision", "bf16"]
    assert cli.run(small_run(tiny_shards, tmp_path / "alone", 6, *words)) == 0
    expected = list(records(tmp_path / "alone", "loss").values())
    for name, more in (("fsdp", ["--engine", "fsdp"]), ("torch", ["--half_gradients"])):
        run = tmp_path / name
        ranks = start_ranks(2, small_run(tiny_shards, run, 6, *words, *more))
        assert ranks.wait() == [0, 0], ranks.said()
        assert list(records(run, "loss").values()) == pytest.approx(expected, rel=2e-3), name
