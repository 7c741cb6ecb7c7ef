"""Loss and gradient of a batch equal those of the real fairseq's `masked_lm` criterion from the same weights."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from biomlm.convert.load import load_model
from biomlm.convert.names import fairseq
from biomlm.convert.names.table import to_native
from biomlm.model.packed import unpad
from biomlm.pretrain.data.batches import Batch
from biomlm.pretrain.objectives.base import PretrainObjective
from biomlm.pretrain.objectives.config import ObjectiveConfig
from biomlm.training.objective import LossDenominators

DATA = Path(__file__).parents[2] / "data"
SHARED = Path(__file__).parents[4] / "shared" / "data" / "fairseq_golden"
PAD = 1


def place(checkpoint: Path, files: Path, folder: Path) -> Path:
    """A checkpoint as published, its dictionary and its BPE beside it."""
    folder.mkdir()
    for file in [checkpoint, *files.iterdir()]:
        shutil.copy(file, folder)
    return folder


def batch_of(tokens: torch.Tensor, targets: torch.Tensor) -> Batch:
    real = tokens != PAD
    labels_t = targets[real]
    positions_m = (labels_t != PAD).nonzero()[:, 0]
    return Batch(unpad(tokens, real), positions_m, labels_t[positions_m])


def test_loss_and_gradient_equal_the_criterions(tmp_path: Path) -> None:
    golden = np.load(DATA / "pretrain" / "criterion.npz")
    checkpoint = DATA / "convert" / "fairseq-fixed-0.12.3.1" / "checkpoint_best.pt"
    model = load_model(place(checkpoint, DATA / "convert" / "bpe", tmp_path / "golden")).model
    batch = batch_of(torch.from_numpy(golden["tokens"]), torch.from_numpy(golden["targets"]))
    totals = LossDenominators.of([batch])
    assert totals.masked == golden["sample_size"]
    terms = PretrainObjective(ObjectiveConfig(), model.config)(model, batch, totals)
    assert terms["loss"].item() == pytest.approx(golden["loss"] / golden["sample_size"], abs=1e-5)
    terms["loss"].backward()
    theirs = {name.removeprefix("grad."): torch.from_numpy(golden[name]) for name in golden if name.startswith("grad.")}
    expected, _ = to_native(fairseq.TABLES[model.config.shape], theirs, model.config, checkpoint)
    ours = dict(model.named_parameters())
    assert ours.keys() == expected.keys()
    for name, parameter in ours.items():
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, expected[name], atol=1e-5, rtol=1e-4, msg=name)


@pytest.mark.shared
@pytest.mark.parametrize("version", ["fairseq-0.12.2", "fairseq-fixed-0.12.3.1"])
def test_loss_equals_that_of_both_versions_logits(version: str, tmp_path: Path) -> None:
    """What each version stored of its own forward pass, under cross-entropy at the masked tokens."""
    if not SHARED.is_dir():
        pytest.skip("the shared data set is not beside this checkout")
    stored = np.load(SHARED / version / "logits.npz")
    folder = place(SHARED / version / "checkpoint_best.pt", SHARED / "bpe", tmp_path / "golden")
    shutil.copy(SHARED / version / "dict.txt", folder)
    model = load_model(folder).model
    tokens = torch.from_numpy(stored["tokens"])
    targets = torch.full_like(tokens, PAD)
    masked = tokens == int(stored["mask"])
    targets[masked] = torch.arange(int(masked.sum())) % 400 + 4
    batch = batch_of(tokens, targets)
    terms = PretrainObjective(ObjectiveConfig(), model.config)(model, batch, LossDenominators.of([batch]))
    expected = F.cross_entropy(torch.from_numpy(stored["logits"])[masked], targets[masked])
    assert terms["loss"].item() == pytest.approx(expected.item(), abs=1e-5)
