"""The float32 linear layer equals torch's, forward and backward, whatever computes it."""

import pytest
import torch
from torch import nn

from biolm.model.linear import Linear


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [0, 1, 37])
def test_it_is_torchs_linear(rows: int, bias: bool) -> None:
    torch.manual_seed(0)
    mine, theirs = Linear(24, 40, bias=bias), nn.Linear(24, 40, bias=bias)
    theirs.load_state_dict(mine.state_dict())
    x, y = torch.randn(rows, 24, requires_grad=True), torch.empty(rows, 24, requires_grad=True)
    y.data.copy_(x.data)
    weight = torch.randn(rows, 40)
    for layer, leaf in ((mine, x), (theirs, y)):
        (layer(leaf) * weight).sum().backward()
    torch.testing.assert_close(mine(x), theirs(y), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(x.grad, y.grad, atol=1e-5, rtol=1e-5)
    for a, b in zip(mine.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, atol=1e-5, rtol=1e-5)


def test_half_precision_and_other_shapes_go_to_torch() -> None:
    layer = Linear(8, 4)
    assert layer(torch.randn(2, 3, 8)).shape == (2, 3, 4)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(torch.randn(3, 8)).dtype == torch.bfloat16


def test_a_frozen_layer_passes_the_gradient_on() -> None:
    layer = Linear(8, 4).requires_grad_(False)
    x = torch.randn(3, 8, requires_grad=True)
    layer(x).sum().backward()
    torch.testing.assert_close(x.grad, layer.weight.sum(0).expand(3, 8))
