"""A linear-chain conditional random field over the words of each window (Lafferty et al. 2001), with learnt transitions.

The score of a row of labels is the sum of its words' logits and of a learnt number for each pair of neighbouring labels. Windows are
chains of their own: no transition reaches from one to the next. Shape suffixes: m words of all windows, b windows, l words of
the longest, k labels.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from biomlm.finetune.tasks.heads import TokenClassifier
from biomlm.model.encoder import MaskedLM
from biomlm.model.packed import Packed

# Adam moves a weight by about the learning rate a step: too little for transitions, which start at 0 and end near ±3.
STRIDE = 100.0

Combine = Callable[[Tensor, int], Tensor]


class CrfClassifier(TokenClassifier):
    """A token classifier whose labels depend on their neighbours.

    Args:
        lm: The pretrained model.
        labels: Number of labels.
    """

    def __init__(self, lm: MaskedLM, labels: int):
        super().__init__(lm, labels)
        self.transitions = nn.Parameter(torch.zeros(labels, labels))

    def forward(self, packed: Packed, positions_m: Tensor) -> Tensor:
        """Compute in training the chain's log-probabilities [m, k, k] (see `conditionals`), else its max-marginals [m, k].

        The labels with the largest max-marginals are the best row.
        """
        logits_mk = super().forward(packed, positions_m).float()
        owner_m = torch.searchsorted(packed.cu_seqlens[1:], positions_m.int(), right=True)
        chains = Chains.of(owner_m, len(packed.lengths), packed.max_seqlen)
        transitions_kk = self.transitions.float() * STRIDE
        return (conditionals if self.training else max_marginals)(logits_mk, transitions_kk, chains)


@dataclass(frozen=True)
class Chains:
    """Where each word stands in padded windows.

    Args:
        owner_m: Its window.
        place_m: Its number among the window's words.
        real_bl: Which places are words.
    """

    owner_m: Tensor
    place_m: Tensor
    real_bl: Tensor

    @staticmethod
    def of(owner_m: Tensor, windows: int, most: int) -> "Chains":
        """Place words by their windows.

        Args:
            owner_m: The window of each word, ascending.
            windows: How many there are, also without words.
            most: Words that one may have: how far a GPU goes, whose host would have to wait to know better.
        """
        counts_b = owner_m.new_zeros(windows).index_add(0, owner_m, torch.ones_like(owner_m))
        place_m = torch.arange(len(owner_m), device=owner_m.device) - (counts_b.cumsum(0) - counts_b)[owner_m]
        longest = int(counts_b.max()) if owner_m.device.type == "cpu" else most
        return Chains(owner_m, place_m, torch.arange(longest, device=owner_m.device) < counts_b[:, None])

    def pad(self, logits_mk: Tensor) -> Tensor:
        """Lay words' logits out by windows, [b, l, k], 0 elsewhere."""
        empty_blk = logits_mk.new_zeros(*self.real_bl.shape, logits_mk.shape[-1])
        return empty_blk.index_put((self.owner_m, self.place_m), logits_mk)

    def unpad(self, values_bl: Tensor) -> Tensor:
        """Pick the words' values, [m, …]."""
        return values_bl[self.owner_m, self.place_m]


def conditionals(logits_mk: Tensor, transitions_kk: Tensor, chains: Chains) -> Tensor:
    """Compute log P(label j | label i before) at every word: [m, i, j]; for a window's first word the same for every i.

    Their sum along a row of labels is its log-probability under the field.
    """
    logits_blk = chains.pad(logits_mk)
    rest_blk = _backward(logits_blk, chains.real_bl, transitions_kk, torch.logsumexp)
    here_blk = logits_blk + rest_blk
    first_bk = here_blk[:, 0].log_softmax(-1)
    k = logits_mk.shape[-1]
    later = transitions_kk + here_blk[:, 1:, None, :] - rest_blk[:, :-1, :, None]  # [b, l - 1, k, k]
    return chains.unpad(torch.cat([first_bk[:, None, None, :].expand(-1, 1, k, -1), later], dim=1))


def max_marginals(logits_mk: Tensor, transitions_kk: Tensor, chains: Chains) -> Tensor:
    """Compute the score of the best row of labels that has label j at a word: [m, j]. The best of each word form the Viterbi row."""
    logits_blk = chains.pad(logits_mk)
    rest_blk = _backward(logits_blk, chains.real_bl, transitions_kk, torch.amax)
    prefix_bk = logits_blk[:, 0]
    prefixes = [prefix_bk]
    for logits_bk in logits_blk.unbind(1)[1:]:
        prefix_bk = logits_bk + (prefix_bk[:, :, None] + transitions_kk).amax(1)
        prefixes.append(prefix_bk)
    return chains.unpad(torch.stack(prefixes, dim=1) + rest_blk)


def negative_log_likelihood(conditionals_mkk: Tensor, labels_m: Tensor) -> Tensor:
    """Compute the negative log-likelihood of the given labels, summed; before a window's first word any label will do."""
    before_m = labels_m.roll(1)
    return -conditionals_mkk[torch.arange(len(labels_m), device=labels_m.device), before_m, labels_m].sum()


def _backward(logits_blk: Tensor, real_bl: Tensor, transitions_kk: Tensor, combine: Combine) -> Tensor:
    """Combine what comes behind each word over all its labels: [b, l, k], 0 behind a window's last word."""
    rest_bk = torch.zeros_like(logits_blk[:, 0])
    suffixes = [rest_bk]
    for logits_bk, real_b in zip(reversed(logits_blk.unbind(1)), reversed(real_bl.unbind(1)), strict=True):
        behind_bk = combine(transitions_kk + (logits_bk + rest_bk)[:, None, :], -1)
        rest_bk = torch.where(real_b[:, None], behind_bk, 0.0)
        suffixes.append(rest_bk)
    return torch.stack(suffixes[-2::-1], dim=1)
