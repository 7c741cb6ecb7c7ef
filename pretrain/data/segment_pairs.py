"""Pairs of segments for next-sentence, sentence-order and document-relation prediction.

After `create_pretraining_data.py` of google-research/bert: a document's sentences are gathered up to the target length, and the chunk is
cut at a random sentence into A and the rest. With B from elsewhere, the rest opens the next chunk. Two things differ, so that no
token is lost. BERT adds the sentence that reaches the target, then truncates; here a chunk ends before a sentence that does not
fit. And A and B hold half of the room at least, as sentences longer than that are cut. Only tokens of a B from elsewhere are read twice.

B's origin is one of those that the objective tells apart (`pretrain.objectives.config.Pairing`), each with the same probability: the
rest of the chunk (`next`), the rest with the two swapped (`before`), a random other document (`random`), or a linked one, citing or
cited (`linked`), which is drawn with probability ∝ 1 / in-degree. Where one of them does not exist, the others share its part: a chunk
of one sentence has no rest. Where none does, the chunk is a single segment without a label.

All choices are hashes of (key, place in the shard).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from biomlm.core import rng
from biomlm.model.kernels.cross_entropy import NO_LABEL
from biomlm.pretrain.data.sequences import I64, SPECIALS, SentenceSpans, Sequences, sequence_starts
from biomlm.pretrain.objectives.config import Origin, Pairing

DRAWS = 8  # of a first sentence for a B from elsewhere, until one fits; then it is cut


@dataclass(frozen=True)
class Links:
    """Which documents of a split cite each other, in both directions.

    Args:
        bounds: Where each document's neighbours begin, [documents + 1].
        targets: The neighbours' numbers, [links].
        reached: Running sum of 1 / in-degree of the neighbours, with a 0 in front, [links + 1].
    """

    bounds: I64
    targets: I64
    reached: npt.NDArray[np.float64]

    def draw(self, documents: I64, chance: npt.NDArray[np.float64]) -> I64:
        """Draw a neighbour of each document, all of which have one, with probability ∝ 1 / in-degree."""
        low, high = self.reached[self.bounds[documents]], self.reached[self.bounds[documents + 1]]
        at = np.searchsorted(self.reached, low + chance * (high - low), side="right") - 1
        neighbours: I64 = self.targets[np.clip(at, self.bounds[documents], self.bounds[documents + 1] - 1)]
        return neighbours


def read_links(
    documents: Iterable[Mapping[str, Any]], usable: npt.NDArray[np.bool_], source_of: I64 | None = None
) -> Links:
    """Read the links of a split.

    An article that nobody here cites, but that cites another, counts as cited once.

    Args:
        documents: `id` and `links` of each, in order.
        usable: Whether a document has tokens; links from and to others are left out.
        source_of: The source of each document, where links between two sources are left out.
    """
    number: dict[str, int] = {}
    named: list[list[str]] = []
    for document in documents:
        number[document["id"]] = len(named)
        named.append(document["links"])
    pairs = {(i, number[link]) for i, links in enumerate(named) for link in links if link in number}
    edges = np.array(sorted(pairs), dtype=np.int64).reshape(-1, 2)
    edges = edges[(edges[:, 0] != edges[:, 1]) & usable[edges].all(1)]
    if source_of is not None:
        edges = edges[source_of[edges[:, 0]] == source_of[edges[:, 1]]]
    degree = np.maximum(np.bincount(edges[:, 1], minlength=len(named)), 1)
    both = np.unique(np.concatenate([edges, edges[:, ::-1]]), axis=0)
    bounds = np.searchsorted(both[:, 0], np.arange(len(named) + 1))
    return Links(bounds, both[:, 1], np.concatenate([[0], np.cumsum(1 / degree[both[:, 1]])]))


def longest_unit(max_length: int, specials: int) -> int:
    """Return the most tokens of a sentence in a pair: half of the room, so that the other segment has some."""
    return (max_length - specials) // 2


class Pairs:
    """Makes the pairs of a split, anew for every key.

    Args:
        units: Of the split, no longer than `longest_unit`; of two documents at least.
        pairing: What the objective tells apart.
        max_length: Longest sequence in tokens, special ones included.
        specials: Special tokens of a pair.
        short_seq_prob: Share of documents whose target length is drawn uniformly from 2 on.
        links: Where linked documents are told apart.
        source_of: The source of each document; a random document is of the same one, if there is another, since its style would give
            another source away. None for one source.
    """

    def __init__(
        self,
        units: SentenceSpans,
        pairing: Pairing,
        max_length: int,
        specials: int,
        *,
        short_seq_prob: float,
        links: Links | None,
        source_of: I64 | None = None,
    ):
        self.units, self.pairing, self.specials = units, pairing, specials
        self.room, self.short_seq_prob, self.links = max_length - specials, short_seq_prob, links
        self.before = np.concatenate([[0], np.cumsum(units.length)])  # tokens in front of each unit
        filled = np.flatnonzero(np.diff(units.bounds))
        source = np.zeros(len(filled), np.int64) if source_of is None else source_of[filled]
        order = np.argsort(source, kind="stable")
        self.documents = filled[order]  # those that have tokens, source after source
        self.rank = np.zeros(len(units.bounds) - 1, np.int64)
        self.rank[self.documents] = np.arange(len(filled))
        low, high = (np.searchsorted(source[order], source[order], side=side) for side in ("left", "right"))
        alone = high - low < 2
        self.low, self.high = np.where(alone, 0, low), np.where(alone, len(filled), high)  # of its source, by rank

    def __call__(self, key: int) -> Sequences:
        """Make the pairs for one key, of a seed and an epoch."""
        units, number = self.units, np.arange(len(self.units.length))
        target = self._targets(key)[units.document]

        # The chunk that would begin at each unit: where it stops, where A does, and what the pair is.
        stop = self._gather(number, target)
        cuts = rng.uniform(rng.key(key, "cut"), units.start) * (stop - number - 1)
        split = number + 1 + np.floor(cuts).astype(np.int64)
        label = self._labels(stop - number > 1, key)
        elsewhere = self._from(label, "random", "linked")

        first = sequence_starts(np.where(elsewhere, split, stop))
        a_stop, b_first, b_stop, outside = split[first], split[first], stop[first], elsewhere[first]
        chosen = first[outside]
        b_first[outside] = self._draw(chosen, split[chosen], label[chosen], key)
        rest = target[chosen] - self._tokens(chosen, split[chosen])
        b_stop[outside] = self._gather(b_first[outside], rest)
        return self._sequences((first, a_stop), (b_first, b_stop), label[first])

    def _targets(self, key: int) -> I64:
        """Draw the number of tokens to gather in each document, [documents]."""
        documents = np.arange(len(self.units.bounds) - 1)
        short = rng.uniform(rng.key(key, "short"), documents) < self.short_seq_prob
        return np.where(short, rng.integers(rng.key(key, "target"), documents, 2, self.room + 1), self.room)

    def _gather(self, first: I64, tokens: I64) -> I64:
        """Find the unit behind the last one that fits, from each first unit on within its document; at least one is taken."""
        fitting = np.searchsorted(self.before, self.before[first] + tokens, side="right") - 1
        stop: I64 = np.minimum(np.maximum(fitting, first + 1), self.units.document_end[first])
        return stop

    def _tokens(self, first: I64, stop: I64) -> I64:
        """Count the tokens of runs of units."""
        tokens: I64 = self.before[stop] - self.before[first]
        return tokens

    def _labels(self, parted: npt.NDArray[np.bool_], key: int) -> I64:
        """Draw the label of each chunk's pair, [units], each possible one with the same probability.

        Args:
            parted: Whether the chunk has more than one unit.
            key: As above.
        """
        chance = rng.uniform(rng.key(key, "label"), self.units.start)
        has: dict[Origin, npt.NDArray[np.bool_]] = {"next": parted, "before": parted, "random": np.ones_like(parted)}
        if self.links is not None:
            has["linked"] = (np.diff(self.links.bounds) > 0)[self.units.document]
        possible = np.array([has[origin] for origin in self.pairing.origins.values()])
        rank = np.cumsum(possible, axis=0) - 1
        wanted = np.floor(chance * (rank[-1] + 1)).astype(np.int64)
        return np.where(possible.any(0), np.argmax((rank == wanted) & possible, axis=0), NO_LABEL)

    def _from(self, label: I64, *origins: Origin) -> npt.NDArray[np.bool_]:
        """Tell which labels are of pairs whose B has one of these origins."""
        return np.isin(
            label, [number for number, origin in enumerate(self.pairing.origins.values()) if origin in origins]
        )

    def _draw(self, first: I64, stop: I64, label: I64, key: int) -> I64:
        """Draw the first unit of a B from elsewhere: another document, then a sentence of it that fits behind A if one is found.

        Args:
            first: First unit of A; `stop` is behind its last.
            stop: See there.
            label: Of the pair, which is from elsewhere.
            key: As above.
        """
        place, own = self.units.start[first], self.units.document[first]
        rank = self.rank[own]
        low, high = self.low[rank], self.high[rank]
        other = low + np.floor(rng.uniform(rng.key(key, "document"), place) * (high - low - 1)).astype(np.int64)
        document = self.documents[other + (other >= rank)]
        linked = self._from(label, "linked")
        if self.links is not None:
            document[linked] = self.links.draw(own[linked], rng.uniform(rng.key(key, "link"), place[linked]))
        low, units = self.units.bounds[document], np.diff(self.units.bounds)[document]
        room = self.room - self._tokens(first, stop)
        unit: I64 = low
        for draw in range(DRAWS):
            chance = rng.uniform(rng.key(key, "sentence", draw), place)
            drawn = low + np.floor(chance * units).astype(np.int64)
            unit = np.where((self.units.length[unit] <= room) & (draw > 0), unit, drawn)
        return unit

    def _sequences(self, a: tuple[I64, I64], b: tuple[I64, I64], labels: I64) -> Sequences:
        """Turn runs of units (first, stop) into places of the shard; a B that does not fit is one unit, and is cut."""
        a_tokens, b_tokens = self._tokens(*a), self._tokens(*b)
        fitting = np.minimum(b_tokens, self.room - a_tokens)
        there = b_tokens > 0
        b_start = np.append(self.units.start, self.units.stop[-1])[b[0]]
        b_stop = np.where(there, self.units.stop[b[1] - 1] - (b_tokens - fitting), b_start)
        start = np.stack([self.units.start[a[0]], b_start], axis=1)
        stop = np.stack([self.units.stop[a[1] - 1], b_stop], axis=1)
        swapped = self._from(labels, "before")
        start[swapped], stop[swapped] = start[swapped, ::-1], stop[swapped, ::-1]
        tokens = a_tokens + fitting + np.where(there, self.specials, SPECIALS)
        none = self.units.separators[:0]
        return Sequences(start=start, stop=stop, tokens=tokens, labels=labels, separators=none)
