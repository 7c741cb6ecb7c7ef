"""Measure how similar two sets of hidden states are up to rotation and scale: linear CKA (Kornblith et al. 2019, arXiv 1905.00414)."""

from collections.abc import Sequence

import torch
from torch import Tensor


def linear_cka(x_th: Tensor, y_tu: Tensor) -> float:
    """Compute ‖YᵀX‖² / (‖XᵀX‖ ‖YᵀY‖) of centred states: 1 for the same states up to rotation and scale, near 0 for unrelated ones.

    Args:
        x_th: States of t tokens.
        y_tu: Other states of the same tokens.
    """
    x_th, y_tu = x_th - x_th.mean(0), y_tu - y_tu.mean(0)
    norms = (x_th.T @ x_th).norm() * (y_tu.T @ y_tu).norm()
    return float((y_tu.T @ x_th).square().sum() / norms.clamp(min=torch.finfo(norms.dtype).tiny))


def layer_similarities(students: Sequence[Tensor], teachers: Sequence[Tensor]) -> list[list[float]]:
    """Compute the CKA of every layer of the student (rows) with every layer of the teacher (columns), the embeddings' output first."""
    return [[linear_cka(student.float(), teacher.float()) for teacher in teachers] for student in students]
