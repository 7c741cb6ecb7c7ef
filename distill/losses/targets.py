"""Hold a teacher's predictions at the masked positions, whole or in excerpts, with the loss of a student's prediction against each.

With q the student's softened distribution and z its logits over the temperature, the gradient of every loss in z is written out
here, so that a step computes it block by block, in the cache, without autograd's copies of [m, v] matrices.

Shape suffixes: see `biomlm.model.packed`; k entries kept of a distribution.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor

TINY = 1e-8  # a mass below this counts as this: its logarithm stays finite


class Targets(ABC):
    """The teacher's softened predictions at the masked positions of a micro-batch."""

    @abstractmethod
    def divergence(self, rows: slice, log_q_mv: Tensor) -> tuple[Tensor, Tensor]:
        """Sum KL(teacher ‖ student), or an estimate of it, over some rows, and give its gradient in z.

        Args:
            rows: Which positions.
            log_q_mv: The student's log-probabilities there, float32; the gradient may be computed in its place.

        Returns:
            A scalar and [m, v].
        """


@dataclass(frozen=True)
class Whole(Targets):
    """All logits of one or more teachers; several are averaged as probabilities (Hinton et al. 2015, arXiv 1503.02531, section 1).

    Args:
        logits: Of each teacher, [m, v].
        temperature: What they are softened by.
    """

    logits: tuple[Tensor, ...]
    temperature: float

    def log_probabilities(self, rows: slice) -> Tensor:
        """Average the teachers' softened probabilities; log-probabilities [m, v], float32."""
        each = [F.log_softmax(logits_mv[rows].float() / self.temperature, dim=-1) for logits_mv in self.logits]
        return each[0] if len(each) == 1 else reduce(torch.logaddexp, each) - each[0].new_full((), len(each)).log()

    def divergence(self, rows: slice, log_q_mv: Tensor) -> tuple[Tensor, Tensor]:
        """See `Targets`."""
        log_p_mv = self.log_probabilities(rows)
        p_mv = log_p_mv.exp()
        value = (p_mv * log_p_mv.sub_(log_q_mv)).sum()
        return value, log_q_mv.exp_().sub_(p_mv)


@dataclass(frozen=True)
class Top(Targets):
    """The k largest probabilities; what remains is one more class, for teacher and student alike.

    Without that class the k largest would have to be scaled up to 1, which biases the student towards them; with it the loss is the KL
    of distributions coarsened alike, and never more than the whole one (the "ghost token" of Anshumann et al. 2025, arXiv 2503.16870).

    Args:
        ids_mk: Which pieces, int64.
        log_p_mk: Their softened log-probabilities, float32.
        log_rest_m: The logarithm of what remains, float32; minus infinity where the k are all.
    """

    ids_mk: Tensor
    log_p_mk: Tensor
    log_rest_m: Tensor

    def divergence(self, rows: slice, log_q_mv: Tensor) -> tuple[Tensor, Tensor]:
        """See `Targets`; in z the gradient is q (1 - p_rest / q_rest), and q - p at the k pieces."""
        ids_mk, log_p_mk = self.ids_mk[rows], self.log_p_mk[rows]
        p_mk, log_q_mk = log_p_mk.exp(), log_q_mv.gather(1, ids_mk)
        q_mk = log_q_mk.exp()
        value = (p_mk * (log_p_mk - log_q_mk)).sum()
        q_mv = log_q_mv.exp_()
        if ids_mk.shape[1] == q_mv.shape[1]:  # nothing remains
            return value, q_mv.scatter_(1, ids_mk, q_mk - p_mk)
        log_rest_m1 = self.log_rest_m[rows, None]
        p_rest_m1, q_rest_m1 = log_rest_m1.exp(), (1 - q_mk.sum(1, keepdim=True)).clamp_(min=TINY)
        value = value + (p_rest_m1 * (log_rest_m1 - q_rest_m1.log())).sum()
        return value, q_mv.mul_(1 - p_rest_m1 / q_rest_m1).scatter_(1, ids_mk, q_mk - p_mk)


@dataclass(frozen=True)
class Sampled(Targets):
    """Pieces drawn at random from the teacher's distribution: loss and gradient are right on average, whatever is left out
    (Anshumann et al. 2025, arXiv 2503.16870, section 4, with the teacher itself as the proposal).

    Args:
        ids_mk: Distinct pieces drawn, int64; what is left of a row has share 0.
        shares_mk: The share of draws that fell on each, float32; a row sums to 1.
        entropy_m: Of the teacher's whole distribution (nats), so that the value is a KL and not a cross-entropy.
    """

    ids_mk: Tensor
    shares_mk: Tensor
    entropy_m: Tensor

    def divergence(self, rows: slice, log_q_mv: Tensor) -> tuple[Tensor, Tensor]:
        """See `Targets`."""
        ids_mk, shares_mk = self.ids_mk[rows], self.shares_mk[rows]
        value = -(shares_mk * log_q_mv.gather(1, ids_mk)).sum() - self.entropy_m[rows].sum()
        return value, log_q_mv.exp_().scatter_add_(1, ids_mk, -shares_mk)


def top(log_p_mv: Tensor, k: int) -> Top:
    """Keep the k largest entries of each row, by rising id."""
    ids_mk = log_p_mv.topk(k, dim=-1).indices.sort(1).values
    log_p_mk = log_p_mv.gather(1, ids_mk)
    rest_m = log_p_mv.exp().scatter(1, ids_mk, 0.0).sum(1)
    floor = TINY if k < log_p_mv.shape[1] else 0.0
    return Top(ids_mk, log_p_mk, rest_m.clamp(min=floor).log())


def sample(log_p_mv: Tensor, k: int, uniform_mk: Tensor) -> Sampled:
    """Draw k pieces of each row with replacement; equal draws are counted together.

    Args:
        log_p_mv: The distributions.
        k: Draws of a row.
        uniform_mk: A random number in [0, 1) for each draw, float64, which determines the draws.
    """
    p_mv = log_p_mv.exp()
    reached_mv = p_mv.double().cumsum(1)
    draws_mk = torch.searchsorted(reached_mv, uniform_mk.sort(1).values * reached_mv[:, -1:], right=True)
    draws_mk.clamp_(max=p_mv.shape[1] - 1)
    first_mk = torch.ones_like(draws_mk, dtype=torch.bool)
    first_mk[:, 1:] = draws_mk[:, 1:] != draws_mk[:, :-1]
    column_mk = first_mk.cumsum(1) - 1  # equal draws stand side by side and share a column
    share_mk = torch.full_like(draws_mk, 1 / k, dtype=torch.float32)
    shares_mk = torch.zeros_like(share_mk).scatter_add_(1, column_mk, share_mk)
    ids_mk = torch.zeros_like(draws_mk).scatter_(1, column_mk, draws_mk)
    entropy_m = -(p_mv * log_p_mv).sum(1)
    return Sampled(ids_mk, shares_mk, entropy_m)
