"""Small models, a micro-batch, and the runs that several of this room's tests stand on."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from biomlm.core import cli
from biomlm.model.config import EncoderConfig
from biomlm.model.encoder import MaskedLM
from biomlm.model.packed import pack
from biomlm.pretrain.data.batches import Batch

MakeModel = Callable[..., MaskedLM]


@pytest.fixture
def make_model() -> MakeModel:
    """A two-layer model of a given width over 50 pieces; equal arguments give equal weights."""

    def make(width: int, heads: int = 2, layers: int = 2, **other: object) -> MaskedLM:
        torch.manual_seed(width)
        shape = EncoderConfig(
            vocab_size=50,
            hidden_size=width,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            intermediate_size=32,
            **other,  # type: ignore[arg-type]
        )
        return MaskedLM(shape)

    return make


@pytest.fixture
def batch() -> Batch:
    """Two sequences of nine tokens together, three of them masked."""
    return Batch(pack([[0, 5, 6, 7, 2], [0, 8, 9, 2]]), torch.tensor([1, 3, 6]), torch.tensor([4, 9, 30]))


@pytest.fixture(scope="session")
def distill_words(tiny_shards: Path) -> list[str]:
    """Options of every small run."""
    small = ["--batch.tokens", "256", "--batch.max_length", "32", "--optim.lr", "3e-3", "--seed", "1"]
    return ["--shards", str(tiny_shards), *small]


@pytest.fixture(scope="session")
def student_words() -> list[str]:
    """The student's shape."""
    return ["--model.num_hidden_layers", "1", "--model.hidden_size", "32", "--model.num_attention_heads", "2"]


@pytest.fixture(scope="session")
def teacher_run(distill_words: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher of two layers and 48 dimensions that has learnt a little."""
    run = tmp_path_factory.mktemp("teacher") / "teacher"
    shape = ["--model.num_hidden_layers", "2", "--model.hidden_size", "48", "--model.num_attention_heads", "2"]
    assert cli.run(["pretrain", *distill_words, *shape, "--steps", "150", "--out", str(run)]) == 0
    return run
