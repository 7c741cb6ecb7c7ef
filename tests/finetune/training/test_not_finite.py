"""Gradients that are not finite move no weights, and end a run before a checkpoint holds what came of them."""

from pathlib import Path

import pytest
from torch import Tensor

from biomlm.core import checkpoint, cli
from biomlm.finetune.tasks.heads import Classifier
from biomlm.model.packed import Packed


def test_a_gradient_that_is_not_finite_is_named(
    tiny_model: Path, toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The loss is finite, as where a square root of 0 is differentiated."""
    plain = Classifier.forward

    def forward(self: Classifier, packed: Packed, positions_m: Tensor) -> Tensor:
        logits_mk = plain(self, packed, positions_m)
        if logits_mk.requires_grad:
            logits_mk.register_hook(lambda gradient: gradient * float("nan"))
        return logits_mk

    monkeypatch.setattr(Classifier, "forward", forward)
    where = ["--model", str(tiny_model), "--task", "ner", "--data", str(toy), "--out", str(tmp_path / "run")]
    for _ in range(2):
        assert cli.run(["finetune", *where, "--epochs", "1", "--batch.size", "8"]) == 2
        said = capsys.readouterr().err
        assert "the gradient is not finite (step 1 of epoch 1): this step is left out" in said
        assert "10 bad steps in a row up to step 10, and there is no checkpoint to go back to" in said
    assert not checkpoint.steps(tmp_path / "run" / "seed_1")
