"""Compare the predictions of a student and its teacher, and with the masked tokens. Shape suffixes: see `biomlm.model.packed`."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from biomlm.distill.losses.config import LossConfig, weight_at
from biomlm.distill.losses.targets import Targets
from biomlm.model.kernels.cross_entropy import is_predicted

# Logits worked on at a time: as float32 they fit a core's cache; a GPU is to compute longer than it takes to be asked, in 64 MB a matrix.
BLOCK = 1 << 18
GPU_BLOCK = 1 << 24


@dataclass(frozen=True)
class Weighting:
    """Weights of the two losses of a prediction.

    Args:
        kl: Of the soft cross-entropy.
        mlm: Of the masked-LM loss.
        temperature: T, which the soft one's predictions are softened by; its value is multiplied by T², so that the gradient's size
            does not depend on it (Hinton et al. 2015, arXiv 1503.02531).
    """

    kl: float
    mlm: float
    temperature: float


class _Predictions(torch.autograd.Function):
    """Both losses and their gradient in one pass over blocks of rows."""

    @staticmethod
    def forward(
        ctx: Any, logits_mv: Tensor, labels_m: Tensor, targets: Targets | None, weighting: Weighting
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        temperature = weighting.temperature
        kl, mlm, right = (torch.zeros((), device=logits_mv.device) for _ in range(3))
        # bf16 has float32's range; a gradient in fp16 would lose its small values before they are scaled
        dtype = torch.bfloat16 if logits_mv.dtype == torch.bfloat16 else torch.float32
        gradient_mv = torch.empty_like(logits_mv, dtype=dtype)
        block = BLOCK if logits_mv.device.type == "cpu" else GPU_BLOCK
        size = max(1, block // logits_mv.shape[1])
        for start in range(0, len(logits_mv), size):
            rows = slice(start, start + size)
            labels_m1 = labels_m[rows, None]
            log_q_mv = F.log_softmax(logits_mv[rows].float(), dim=-1)
            at_label_m1 = log_q_mv.gather(1, labels_m1)
            mlm -= at_label_m1.sum()
            right += is_predicted(logits_mv[rows], labels_m[rows]).sum()
            block_mv = torch.zeros_like(log_q_mv)
            if weighting.mlm:
                torch.exp(log_q_mv, out=block_mv)
                block_mv.scatter_add_(1, labels_m1, torch.full_like(at_label_m1, -1.0)).mul_(weighting.mlm)
            if targets is not None:
                soft_mv = log_q_mv if temperature == 1 else F.log_softmax(log_q_mv / temperature, dim=-1)
                value, slope_mv = targets.divergence(rows, soft_mv)
                kl += value * temperature**2
                block_mv.add_(slope_mv, alpha=weighting.kl * temperature)
            gradient_mv[rows] = block_mv
        ctx.gradient_mv = gradient_mv
        ctx.mark_non_differentiable(kl, mlm, right)
        return weighting.kl * kl + weighting.mlm * mlm, kl, mlm, right

    @staticmethod
    def backward(ctx: Any, slope: Tensor, *_: Tensor) -> tuple[Tensor, None, None, None]:
        return ctx.gradient_mv * slope, None, None, None


def prediction_losses(
    logits_mv: Tensor, labels_m: Tensor, targets: Targets | None, weighting: Weighting
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Compute the weighted sum of soft cross-entropy and masked-LM loss, and its parts.

    Autograd would keep several float32 matrices [m, v] of each loss and pass through main memory for each; here a block's
    loss and gradient are computed while it is in the cache (docs/log.md has the figures).

    Args:
        logits_mv: The student's.
        labels_m: The masked tokens.
        targets: The teacher's softened predictions; None for no soft cross-entropy.
        weighting: Of the sum.

    Returns:
        The sum, which alone has a gradient; KL(teacher ‖ student) × T², the masked-LM loss (nats) and the number of right predictions,
        each summed over the m positions.
    """
    result: tuple[Tensor, Tensor, Tensor, Tensor] = _Predictions.apply(logits_mv, labels_m, targets, weighting)  # type: ignore[no-untyped-call]
    return result


class PredictionPart:
    """Computes the parts of the loss that look at the student's predictions, both in one pass.

    Args:
        config: Weights and temperature.
    """

    figures = ("mlm", "accuracy", "kl")  # that it gives, each a sum over the masked positions

    def __init__(self, config: LossConfig):
        self.config = config

    def __call__(
        self, logits_mv: Tensor, labels_m: Tensor, targets: Targets | None, progress: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the weighted sum, which alone has a gradient, and the figures, after a share `progress` of the run's steps."""
        kl, mlm = (weight_at(weight, progress) for weight in (self.config.kl, self.config.mlm))
        weighting = Weighting(kl, mlm, self.config.temperature)
        weighted, *sums = prediction_losses(logits_mv, labels_m, targets, weighting)
        figures = dict(zip(("kl", "mlm", "accuracy"), sums, strict=True))
        return weighted, figures if targets is not None else {name: figures[name] for name in ("mlm", "accuracy")}
