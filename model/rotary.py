"""Rotary position embeddings (Su et al. 2021, arXiv 2104.09864), in the half-split form that ModernBERT and GPT-NeoX use."""

import torch
from torch import Tensor


def rotary_table(position_ids_t: Tensor, head_size: int, theta: float) -> tuple[Tensor, Tensor]:
    """Compute the cosines and sines [t, 1, d] of each token's angles, float32.

    Args:
        position_ids_t: Position of each token in its sequence.
        head_size: d, even; frequencies are theta^(-2i/d) for i in 0 … d/2 - 1.
        theta: Base of the frequencies.
    """
    exponents = torch.arange(0, head_size, 2, dtype=torch.float32, device=position_ids_t.device) / head_size
    angles = position_ids_t[:, None].float() / theta**exponents
    both = torch.cat([angles, angles], dim=-1)[:, None]
    return both.cos(), both.sin()


def rotate(x_tnd: Tensor, table: tuple[Tensor, Tensor]) -> Tensor:
    """Turn queries or keys by their positions, in float32."""
    cosine, sine = table
    x = x_tnd.float()
    left, right = x.chunk(2, dim=-1)
    return (x * cosine + torch.cat([-right, left], dim=-1) * sine).to(x_tnd.dtype)
