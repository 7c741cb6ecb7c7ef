"""Which sequences an epoch reads: passes over the shards, by `batch.form` and the pair objective, mixed by source and joined.

A pure function of configuration, shards, seed and epoch.
"""

import itertools
import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np

from biomlm.core import rng
from biomlm.core.errors import DataError
from biomlm.pretrain.data.config import BatchConfig, MixConfig
from biomlm.pretrain.data.dataset import Shards
from biomlm.pretrain.data.masking import mask_epoch
from biomlm.pretrain.data.mixture import Mixture, Sources
from biomlm.pretrain.data.segment_pairs import Pairs, longest_unit, read_links
from biomlm.pretrain.data.sequences import (
    I64,
    SPECIALS,
    Reading,
    Sequences,
    join,
    pack_sentences,
    pair_specials,
    split_long,
)
from biomlm.pretrain.objectives.config import MlmConfig, Pairing

SequenceBuilder = Callable[[int], Sequences]  # key of seed and pass → sequences

NEARLY = 0.95  # of the tokens that a step is asked to have


class EpochBuilder:
    """Builds what an epoch reads.

    Args:
        reader: The split's shards.
        mlm: Whose static masks come round again, and pairs with them.
        batch: Form and lengths of sequences, and the size of a step.
        seed: Of pairs, and of the order in which each source is read.
        pairing: Which pairs, if `batch.form` says pairs.
        segments: Whether the model has token types, which decides on a pair's special tokens.
        mix: How sources are mixed.
        join_passes: Join passes over the shards to one epoch where a single one cannot be cut into steps of nearly the size that is
            asked for.
    """

    def __init__(
        self,
        reader: Shards,
        mlm: MlmConfig,
        batch: BatchConfig,
        seed: int,
        *,
        pairing: Pairing | None,
        segments: bool,
        mix: MixConfig,
        join_passes: bool,
    ):
        by_source = mix.active or (pairing is not None and pairing.from_elsewhere)
        sources = Sources.read(reader, mix.by) if by_source else None
        of_document = None if sources is None else sources.of_document
        build = sequence_builder(reader, batch, pairing, segments, source_of=of_document, apart=mix.active)
        self.sequences_of = lru_cache(maxsize=2)(lambda number: build(rng.key(seed, "pairs", mask_epoch(mlm, number))))
        self.mixture = Mixture(self.sequences_of, sources, mix, seed) if sources and mix.active else None
        self.epoch = lru_cache(maxsize=2)(self._epoch)
        self.joined = 1  # passes in an epoch
        # Special tokens of sequences included; with pairs, of the first pass, and the others are about as long.
        self.tokens_per_pass = int(self(0).sequences.tokens.sum())
        if join_passes:
            self.joined = passes_to_join(self.tokens_per_pass, batch.tokens * batch.accumulation)
        if self.joined > 1:
            self.epoch.cache_clear()

    def __call__(self, epoch: int) -> Reading:
        """Return what an epoch reads, in no particular order."""
        return self.epoch(epoch)

    def _epoch(self, epoch: int) -> Reading:
        return join([self._pass(epoch * self.joined + i) for i in range(self.joined)])

    def _pass(self, number: int) -> Reading:
        if self.mixture is not None:
            return self.mixture(number)
        sequences = self.sequences_of(number)
        return Reading(sequences, np.full(len(sequences), number))

    def passes_by(self, epoch: int) -> int:
        """Return a number of passes that no source has begun before the end of an epoch."""
        passes = (epoch + 1) * self.joined
        return passes if self.mixture is None else math.ceil(passes * max(self.mixture.passes.values()))

    def epoch_behind(self, passes: int) -> int:
        """Return the first epoch that belongs to no earlier pass over any source."""
        least = 1.0 if self.mixture is None else min(filter(None, self.mixture.passes.values()))
        return math.ceil(passes / (least * self.joined))

    def passes_read(self, epoch: int, before: int, read: I64) -> dict[str, float]:
        """Count how often each mixed source has been read: in `before` whole epochs, and by the sequences of `epoch` that were read."""
        if self.mixture is None:
            return {}
        passes = self.mixture.passes_read(self(epoch), before, read)
        return {name: count * self.joined for name, count in passes.items()}


def passes_to_join(pass_: int, step: int) -> int:
    """Find the fewest passes that divide into equal steps of `step` tokens or little less; 1 where a pass is shorter than a step."""
    if pass_ < step:
        return 1
    return next(n for n in itertools.count(1) if n * pass_ >= NEARLY * step * -(-n * pass_ // step))


def sequence_builder(
    reader: Shards,
    batch: BatchConfig,
    pairing: Pairing | None,
    segments: bool,
    *,
    source_of: I64 | None = None,
    apart: bool = False,
) -> SequenceBuilder:
    """Return the function that builds the sequences of a pass over the shards from a key; only pairs differ between keys.

    Args:
        reader: The split's shards.
        batch: Form and lengths.
        pairing: Which pairs, if `batch.form` says pairs.
        segments: Whether the model has token types, which decides on a pair's special tokens.
        source_of: The source of each document, which a random document of a pair shares.
        apart: Whether no sequence may hold two sources, because they are read more or less often.

    Raises:
        DataError: There are no tokens, or fewer documents than pairs need.
    """
    specials = SPECIALS if pairing is None else pair_specials(segments)
    longest = batch.max_length - SPECIALS if pairing is None else longest_unit(batch.max_length, specials)
    units = split_long(reader.sizes, reader.doc_index, longest)
    documents = int(np.count_nonzero(np.diff(units.bounds)))
    if not documents:
        raise DataError("the shards hold no tokens", file=reader.folder, remedy="Encode a larger corpus.")
    if pairing is None:
        borders = source_of if apart else None
        sequences = pack_sentences(units, batch.max_length, across=batch.form == "full", source_of=borders)
        return lambda _: sequences
    if documents < 2 and pairing.from_elsewhere:
        raise DataError(
            f"{pairing.objective} needs two documents, and the {reader.split} split has one",
            file=reader.folder,
            remedy="Encode a larger corpus.",
        )
    usable = np.diff(units.bounds) > 0
    links = read_links(reader.documents(), usable, source_of if apart else None) if pairing.linked else None
    return Pairs(
        units,
        pairing,
        batch.max_length,
        specials,
        short_seq_prob=batch.short_seq_prob,
        links=links,
        source_of=source_of,
    )
