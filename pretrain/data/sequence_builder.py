"""Which sequences an epoch has, by `batch.form` and the pair objective; a pure function of configuration, shards, seed and epoch."""

from collections.abc import Callable

import numpy as np

from biomlm.core.errors import DataError
from biomlm.pretrain.config import BatchConfig, PairKind
from biomlm.pretrain.data.collate import pair_specials
from biomlm.pretrain.data.dataset import Shards
from biomlm.pretrain.data.segment_pairs import Pairs, longest_unit, read_links
from biomlm.pretrain.data.sequences import I64, SPECIALS, Sequences, pack_sentences, split_long

SequenceBuilder = Callable[[int], Sequences]  # key of seed and epoch → sequences


def sequence_builder(
    reader: Shards,
    batch: BatchConfig,
    pair: PairKind | None,
    segments: bool,
    source_of: I64 | None = None,
    *,
    apart: bool = False,
) -> SequenceBuilder:
    """Return the function that builds an epoch's sequences from a key; only pairs differ between keys.

    Args:
        reader: The split's shards.
        batch: Form and lengths.
        pair: The pair objective, if `batch.form` says pairs.
        segments: Whether the model has token types, which decides on a pair's special tokens.
        source_of: The source of each document, which a random document of a pair shares.
        apart: Whether no sequence may hold two sources, because they are read more or less often.

    Raises:
        DataError: There are no tokens, or fewer documents than pairs need.
    """
    specials = SPECIALS if pair is None else pair_specials(segments)
    longest = batch.max_length - SPECIALS if pair is None else longest_unit(batch.max_length, specials)
    units = split_long(reader.sizes, reader.doc_index, longest)
    documents = int(np.count_nonzero(np.diff(units.bounds)))
    if not documents:
        raise DataError("the shards hold no tokens", file=reader.folder, remedy="Encode a larger corpus.")
    if pair is None:
        borders = source_of if apart else None
        sequences = pack_sentences(units, batch.max_length, across=batch.form == "full", source_of=borders)
        return lambda _: sequences
    if documents < 2 and pair != "sop":
        raise DataError(
            f"{pair} needs two documents, and the {reader.split} split has one",
            file=reader.folder,
            remedy="Encode a larger corpus.",
        )
    usable = np.diff(units.bounds) > 0
    links = read_links(reader.documents(), usable, source_of if apart else None) if pair == "drp" else None
    return Pairs(units, pair, batch.max_length, specials, batch.short_seq_prob, links, source_of)
