"""Sources mixed by weight: every source is an endless row of passes, each in an order of its own, and an epoch takes the next stretch
of every row.

A source that shall be read more often than once an epoch has a stretch of several passes, one that shall be read less often a part
of a pass; either way each of its sequences is read once before any is read again. How many passes a stretch spans is the same in
every epoch, so nothing has to be remembered, and an epoch holds as many tokens as the shards. Shares are of tokens.

Temperature: Arivazhagan et al. 2019, "Massively multilingual neural machine translation in the wild" (arXiv 1907.05019), section 4.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from biomlm.core import rng
from biomlm.core.errors import DataError
from biomlm.pretrain.data.config import MixConfig
from biomlm.pretrain.data.dataset import Shards
from biomlm.pretrain.data.sequences import Reading, Sequences, chosen

I64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Sources:
    """Which source every document is of.

    Args:
        names: Of the sources, sorted.
        of_document: Index into `names`, [documents].
        bounds: Place of every document's first token, then the number of tokens, [documents + 1].
    """

    names: list[str]
    of_document: I64
    bounds: I64

    @staticmethod
    def read(shards: Shards, by: str) -> "Sources":
        """Read the sources of a split, by the `source` of its documents or by `folder`."""
        if by == "folder":
            counts = [len(reader.doc_index) - 1 for reader in shards.readers]
            named = np.repeat([str(reader.folder) for reader in shards.readers], counts)
        else:
            named = np.array([str(document["source"]) for document in shards.documents()], dtype=np.str_)
        names, of_document = np.unique(named, return_inverse=True)
        return Sources(names.tolist(), of_document, shards.bounds)

    def at(self, places: I64) -> I64:
        """Return the source of the document that each token stands in, by its place."""
        source_of: I64 = self.of_document[np.searchsorted(self.bounds, places, side="right") - 1]
        return source_of

    def of(self, sequences: Sequences) -> I64:
        """Return each sequence's source, that of its first token: [sequences]."""
        return self.at(sequences.start[:, 0])


def shares(tokens: Mapping[str, int], config: MixConfig) -> dict[str, float]:
    """Return each source's share of the tokens of an epoch; their sum is 1.

    Args:
        tokens: Of every source.
        config: Weights or temperature.

    Raises:
        DataError: A source is named that is not there, is there and not named, or holds no tokens.
    """
    names = ", ".join(tokens)
    for name in config.weights:
        if name not in tokens:
            raise DataError(f"there is no source {name}", remedy=f"The shards hold {names}: name these in mix.weights.")
    for name, count in tokens.items():
        if config.weights and name not in config.weights:
            raise DataError(
                f"the source {name} has no weight", remedy=f"Give mix.weights for {names}; 0 leaves one out."
            )
        if not count and config.weights.get(name, 1):
            raise DataError(f"the source {name} holds no tokens", remedy="Give it the weight 0 in mix.weights.")
    weights = config.weights or {name: count ** (1 / config.temperature) for name, count in tokens.items()}
    total = sum(weights.values())
    return {name: weights[name] / total for name in tokens}


class Mixture:
    """The sequences of every epoch.

    Args:
        form: Pass over the shards → all its sequences.
        sources: Of the documents.
        config: Weights or temperature.
        seed: Of the order in which each source is read.

    Raises:
        DataError: See `shares`.
    """

    def __init__(self, form: Callable[[int], Sequences], sources: Sources, config: MixConfig, seed: int):
        self.form, self.sources, self.seed = form, sources, seed
        self.of = lru_cache(maxsize=2)(lambda number: sources.of(form(number)))
        first = form(0)
        counts = np.bincount(self.of(0), first.tokens, len(sources.names))
        wanted = shares({name: int(n) for name, n in zip(sources.names, counts, strict=True)}, config)
        counted = zip(sources.names, counts, strict=True)
        self.passes = {name: float(wanted[name] * counts.sum() / max(n, 1)) for name, n in counted}  # of an epoch

    def __call__(self, epoch: int) -> Reading:
        """Collect an epoch's sequences, source after source."""
        taken: list[tuple[Sequences, I64, int]] = []
        for source, (name, passes) in enumerate(self.passes.items()):
            begin, end = epoch * passes, (epoch + 1) * passes
            for number in range(int(begin), math.ceil(end)):
                own = np.flatnonzero(self.of(number) == source)
                order = own[rng.permutation(rng.key(self.seed, "mix", name, number), len(own))]
                low, high = (int((min(max(at, number), number + 1) - number) * len(own)) for at in (begin, end))
                taken.append((self.form(number), order[low:high], number))
        passes_s = np.concatenate([np.full(len(read), number) for _, read, number in taken])
        return Reading(chosen(taken), passes_s)

    def passes_read(self, epoch: Reading, before: int, numbers: I64) -> dict[str, float]:
        """Count the passes over each source.

        Args:
            epoch: The one that is being read.
            before: Whole epochs read.
            numbers: The sequences of `epoch` that have been read.
        """
        of = self.sources.of(epoch.sequences)
        done, whole = (np.bincount(part, minlength=len(self.passes)) for part in (of[numbers], of))
        shares = done / np.maximum(whole, 1)
        return {name: float(before + shares[i]) * passes for i, (name, passes) in enumerate(self.passes.items())}
