"""Cross-entropy, all at once or by blocks, equals torch's from whole logits: value, count of right labels, every gradient."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from biomlm.model.config import ModelConfig
from biomlm.model.encoder import MaskedLM
from biomlm.model.kernels import cross_entropy as module
from biomlm.model.kernels.cross_entropy import NO_LABEL, cross_entropy, is_predicted, linear_cross_entropy, logits

M, H, V = 11, 8, 29


def leaves() -> tuple[nn.Parameter, nn.Parameter, nn.Parameter, Tensor]:
    torch.manual_seed(0)
    x, weight, bias = (nn.Parameter(torch.randn(*size)) for size in ((M, H), (V, H), (V,)))
    return x, weight, bias, torch.randint(0, V, (M,))


@pytest.mark.parametrize("block", [1, 3 * V, 1000], ids=["row", "three rows", "all"])
def test_it_is_torchs_cross_entropy(block: int) -> None:
    x, weight, bias, labels = leaves()
    logits = F.linear(x, weight, bias)
    expected = F.cross_entropy(logits, labels, reduction="sum")
    gradients = torch.autograd.grad(expected / 3, (x, weight, bias))
    loss, right = linear_cross_entropy(x, weight, bias, labels, block)
    torch.testing.assert_close(loss, expected)
    assert int(right) == int((logits.argmax(-1) == labels).sum())
    for mine, theirs in zip(torch.autograd.grad(loss / 3, (x, weight, bias)), gradients, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_in_half_precision_it_is_as_near_as_that_allows(dtype: torch.dtype) -> None:
    x, weight, bias, labels = leaves()
    gradients = torch.autograd.grad(F.cross_entropy(F.linear(x, weight, bias), labels, reduction="sum"), (x, weight))
    with torch.autocast("cpu", dtype):
        loss, _ = linear_cross_entropy(x, weight, bias, labels, 4 * V)
    for mine, theirs in zip(torch.autograd.grad(loss, (x, weight)), gradients, strict=True):
        assert mine.dtype == torch.float32
        torch.testing.assert_close(mine, theirs, atol=0.05, rtol=0.05)


def test_without_gradients_it_computes_none() -> None:
    x, weight, bias, labels = leaves()
    with torch.no_grad():
        loss, _ = linear_cross_entropy(x, weight, bias, labels)
    assert not loss.requires_grad


@pytest.mark.parametrize("block", [3 * V, 1000], ids=["blocks", "all"])
def test_rows_without_a_label_do_not_count(block: int) -> None:
    x, weight, bias, labels = leaves()
    labels[::3] = module.NO_LABEL
    logits = F.linear(x, weight, bias)
    expected = F.cross_entropy(logits, labels, reduction="sum")
    loss, right = linear_cross_entropy(x, weight, bias, labels, block)
    torch.testing.assert_close(loss, expected)
    assert int(right) == int((logits.argmax(-1) == labels).sum()) == int(module.cross_entropy(logits, labels)[1])
    gradients = torch.autograd.grad(expected, (x, weight, bias))
    for mine, theirs in zip(torch.autograd.grad(loss, (x, weight, bias)), gradients, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("block", [module.BLOCK, 4 * V], ids=["whole", "blocks"])
def test_a_models_masked_loss(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = MaskedLM(ModelConfig(size="tiny").resolve(V, 16, 1))
    hidden, labels = torch.randn(M, 128, requires_grad=True), torch.randint(0, V, (M,))
    logits = model.logits(hidden)
    expected = F.cross_entropy(logits, labels, reduction="sum"), (logits.argmax(-1) == labels).sum()
    monkeypatch.setattr(linear_cross_entropy, "__defaults__", (block,))
    found = model.masked_loss(hidden, labels)
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs)
    wanted = (hidden, model.encoder.word_embeddings.weight, *model.head.parameters())
    pairs = zip(*(torch.autograd.grad(loss, wanted) for loss, _ in (found, expected)), strict=True)
    for mine, theirs in pairs:
        torch.testing.assert_close(mine, theirs, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("block", [3 * V, 1000], ids=["blocks", "all"])
def test_of_equal_scores_the_first_one_is_the_prediction(block: int) -> None:
    """bf16 has many ties: a label counts as right where NumPy's argmax of the same logits says so, and nowhere else."""
    random = np.random.default_rng(0)
    scores = torch.from_numpy(random.integers(0, 3, (40, V))).to(torch.bfloat16)
    labels = torch.from_numpy(random.integers(0, V, 40))
    labels[::7] = NO_LABEL
    expected = scores.double().numpy().argmax(1) == labels.numpy()
    ties = (scores == scores.amax(1, keepdim=True)).sum(1)
    assert (ties > 1).all()
    assert is_predicted(scores, labels).tolist() == expected.tolist()
    assert cross_entropy(scores, labels)[1] == expected.sum()
    identity = torch.eye(V, dtype=torch.bfloat16)
    assert linear_cross_entropy(scores, identity, torch.zeros(V), labels, block)[1] == expected.sum()


def test_what_is_summed_over_rows_for_the_decoder_leaves_fp16s_range_and_is_finite() -> None:
    """Rows of a common label: 4,096 products of 40."""
    x_mh, weight_vh, bias_v = torch.full((4096, 8), 4.0), torch.zeros(3, 8), torch.zeros(3)
    leaves = [leaf.requires_grad_() for leaf in (x_mh, weight_vh, bias_v)]
    with torch.autocast("cpu", torch.float16):
        logits_mv = logits(x_mh, weight_vh, bias_v)
    assert logits_mv.dtype == torch.float16
    grads = torch.autograd.grad(logits_mv, leaves, torch.full_like(logits_mv, 10.0))
    assert grads[1].dtype == grads[2].dtype == torch.float32
    assert grads[1].unique().tolist() == [4096 * 40.0]
    assert grads[2].unique().tolist() == [4096 * 10.0]
