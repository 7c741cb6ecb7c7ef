"""The linear layer equals torch's, forward and backward, whatever computes it."""

import pytest
import torch
from torch import nn

from biomlm.model.kernels import linear as module
from biomlm.model.kernels.linear import Linear


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("outputs", [40, 24, 16, 400], ids=["wide", "square", "narrow", "vocabulary"])
@pytest.mark.parametrize("rows", [0, 1, 37, module.ROWS + 6])
def test_it_is_torchs_linear(rows: int, outputs: int, bias: bool) -> None:
    torch.manual_seed(0)
    mine, theirs = Linear(24, outputs, bias=bias), nn.Linear(24, outputs, bias=bias)
    theirs.load_state_dict(mine.state_dict())
    x, y = torch.randn(rows, 24, requires_grad=True), torch.empty(rows, 24, requires_grad=True)
    y.data.copy_(x.data)
    weight = torch.randn(rows, outputs)
    for layer, leaf in ((mine, x), (theirs, y)):
        (layer(leaf) * weight).sum().backward()
    torch.testing.assert_close(mine(x), theirs(y), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(x.grad, y.grad, atol=1e-5, rtol=1e-5)
    for a, b in zip(mine.parameters(), theirs.parameters(), strict=True):
        assert a.grad.is_contiguous()
        torch.testing.assert_close(a.grad, b.grad, atol=1e-5 if rows < module.ROWS else 1e-4, rtol=1e-5)


@pytest.mark.parametrize(
    ("dtype", "able"),
    [
        (torch.bfloat16, True),
        (torch.bfloat16, False),  # a processor without such products
        (torch.float16, True),
    ],
)
def test_under_autocast_it_is_torchs_linear(dtype: torch.dtype, able: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not able:
        monkeypatch.setattr(module, "DTYPES", {torch.float32})
    torch.manual_seed(0)
    mine, theirs = Linear(24, 40), nn.Linear(24, 40)
    theirs.load_state_dict(mine.state_dict())
    x, weight = torch.randn(37, 24), torch.randn(37, 40)
    leaves = [x.clone().requires_grad_() for _ in range(2)]
    with torch.autocast("cpu", dtype):
        outs = [layer(leaf) for layer, leaf in zip((mine, theirs), leaves, strict=True)]
    for out in outs:
        (out.float() * weight).sum().backward()
    assert outs[0].dtype == dtype
    torch.testing.assert_close(outs[0], outs[1], atol=1e-2, rtol=1e-2)
    for a, b in zip((leaves[0], *mine.parameters()), (leaves[1], *theirs.parameters()), strict=True):
        assert a.grad.dtype == torch.float32
        torch.testing.assert_close(a.grad, b.grad, atol=5e-2, rtol=2e-2)


def test_other_shapes_go_to_torch() -> None:
    assert Linear(8, 4)(torch.randn(2, 3, 8)).shape == (2, 3, 4)


def test_a_frozen_layer_passes_the_gradient_on() -> None:
    layer = Linear(8, 4).requires_grad_(False)
    x = torch.randn(3, 8, requires_grad=True)
    layer(x).sum().backward()
    torch.testing.assert_close(x.grad, layer.weight.sum(0).expand(3, 8))
