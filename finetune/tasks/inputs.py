"""Texts and pairs of texts as sequences of tokens, in windows where they are too long.

A text is `<s> a </s>`; a pair `<s> a </s></s> b </s>` for models without segments, as RoBERTa, and `[CLS] a [SEP] b [SEP]` with segments 0
and 1 for those that have them, as BERT. A classifier's outputs for the windows of one record are averaged; nothing is cut off.
"""

from collections.abc import Sequence

from biomlm.finetune.tasks.windows import windows
from biomlm.tokenizer.formats.folder import SpecialIds


def text_windows(ids: Sequence[int], special: SpecialIds, max_length: int, overlap: int) -> list[list[int]]:
    """Cut one text into windows."""
    cuts = windows(len(ids), max_length - 2, overlap)
    return [[special.bos, *ids[w.start : w.stop], special.eos] for w in cuts]


def pair_windows(
    a: Sequence[int], b: Sequence[int], special: SpecialIds, *, max_length: int, overlap: int, segments: bool
) -> list[list[int]]:
    """Cut a pair into windows: each of `a` with each of `b`. A text that fits half of the room is never cut."""
    between = [special.eos] if segments else [special.eos, special.eos]
    room = max_length - 2 - len(between)
    size_a = min(len(a), max(room // 2, room - len(b)))
    cuts_a, cuts_b = _cut(a, size_a, overlap), _cut(b, room - size_a, overlap)
    return [[special.bos, *part_a, *between, *part_b, special.eos] for part_a in cuts_a for part_b in cuts_b]


def segment_ids(ids: Sequence[int], eos: int) -> list[int]:
    """Number the segments: 0 up to the first end, 1 behind it."""
    first = ids.index(eos) + 1
    return [0] * first + [1] * (len(ids) - first)


def _cut(ids: Sequence[int], size: int, overlap: int) -> list[Sequence[int]]:
    size = max(size, 1)
    return [ids[w.start : w.stop] for w in windows(len(ids), size, min(overlap, size // 4))]
