"""Distances of hidden states against their formulas in plain torch."""

import torch
import torch.nn.functional as F

from biomlm.distill.losses.states import distance, sequence_means


def test_cosine_distance_counts_from_0_to_2_a_token() -> None:
    x = torch.randn(5, 8)
    torch.testing.assert_close(distance(x, 3 * x, "cosine"), torch.zeros(5))
    torch.testing.assert_close(distance(x, -x, "cosine"), torch.full((5,), 2.0))


def test_mean_square_distance() -> None:
    x, y = torch.randn(2, 5, 8)
    torch.testing.assert_close(
        distance(x, y, "mse"), torch.stack([F.mse_loss(a, b) for a, b in zip(x, y, strict=True)])
    )


def test_the_mean_of_each_sequence_and_its_gradient() -> None:
    states, wanted = torch.randn(9, 8, requires_grad=True), torch.randn(3, 8)
    ours = sequence_means(states, torch.tensor([5, 1, 3]))
    plain = torch.stack([part.mean(0) for part in states.split([5, 1, 3])])
    torch.testing.assert_close(ours, plain)
    gradients = [torch.autograd.grad((means * wanted).sum(), states)[0] for means in (ours, plain)]
    torch.testing.assert_close(*gradients)
