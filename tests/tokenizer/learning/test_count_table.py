"""Counting in columns is counting in a dictionary, and splitting ASCII at once is splitting word by word."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from biomlm.tokenizer.formats import bert, bytelevel
from biomlm.tokenizer.learning import count, count_table, sentencepiece
from biomlm.tokenizer.learning.count_table import CountTable, padded

STRINGS = st.lists(st.binary(min_size=1, max_size=40).map(lambda b: b.replace(b"\0", b"x")), max_size=30)


def add(into: CountTable, strings: list[bytes], times: list[int]) -> None:
    length = np.array([len(string) for string in strings], dtype=np.int64)
    into.count(padded(b"".join(strings)), np.cumsum(length) - length, length, np.array(times, dtype=np.int64))


def content(found: CountTable) -> dict[bytes, int]:
    text, length, times = found.flat()
    start = np.cumsum(length) - length
    strings = [text[a : a + n].tobytes() for a, n in zip(start.tolist(), length.tolist(), strict=True)]
    assert len(set(strings)) == len(strings)
    return dict(zip(strings, times.tolist(), strict=True))


def check(batches: list[list[bytes]]) -> None:
    found, expected = CountTable(), Counter[bytes]()
    for n, strings in enumerate(batches):
        times = [n + i * 7 + 1 for i in range(len(strings))]
        add(found, strings, times)
        for string, number in zip(strings, times, strict=True):
            expected[string] += number
    assert content(found) == expected


@settings(max_examples=200, deadline=None)
@given(st.lists(STRINGS, max_size=5))
def test_columns_count_as_a_dictionary_does(batches: list[list[bytes]]) -> None:
    check(batches)


def test_strings_that_share_a_hash_stay_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(count_table, "ODD", np.zeros(4, dtype=np.uint64))
    check([[b"nine bytes", b"other bytes", b"nine bytes", b"seventeen bytes ..", b"seventeen bytes ,,"]] * 3)


def test_counts_beyond_32_bits() -> None:
    found = CountTable()
    add(found, [b"the", b"a word of more than thirty-two bytes"], [1 << 40, 1 << 40])
    add(found, [b"the", b"a word of more than thirty-two bytes"], [1, 1])
    assert set(content(found).values()) == {(1 << 40) + 1}


@settings(max_examples=300, deadline=None)
@given(st.lists(st.text(alphabet="ab1'sstmdrevell.,(-X9\x07", min_size=1, max_size=9), min_size=1, max_size=8))
def test_ascii_is_split_as_tokenizers_splits_it(words: list[str]) -> None:
    chunks = [words[0], *(f" {word}" for word in words[1:])]
    text = "".join(chunks).encode()
    first = np.cumsum([0, *map(len, chunks[:-1])])
    start = bytelevel.ascii_starts(padded(text)[: len(text) + 2], first).tolist()
    found = [text[a:b].decode() for a, b in zip(start, [*start[1:], len(text)], strict=True)]
    assert found == ["".join(chunks)[a:b] for _, (a, b) in bytelevel.SPLITTER.pre_tokenize_str("".join(chunks))]


SPACES = [chr(c) for c in range(0x3001) if chr(c).isspace()]


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.text(alphabet=st.sampled_from([*SPACES, *"ab\u00e9\u2019\ue000\U0001f600,"]), max_size=25), max_size=4)
)
def test_what_stands_between_white_space_is_what_str_split_finds(texts: list[str]) -> None:
    found, expected = CountTable(), Counter[bytes]()
    count._count_between(found, b"".join(b"\xff" + text.lstrip().encode() for text in texts), 3)
    for text in texts:
        for i, word in enumerate(text.split()):
            expected[f"{' ' if i else ''}{word}".encode()] += 3
    assert content(found) == expected


def test_a_long_document_is_counted_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(count, "BUFFER", 10)
    text = b"\xff" + b" ".join(b"word%d" % n for n in range(50)) + b" a-word-of-more-than-ten-bytes and one"
    pieces = list(count._pieces(text))
    assert b"".join(pieces) == text
    assert len(pieces) > 20
    whole, parts = CountTable(), CountTable()
    count._count_between(whole, text, 1)
    for piece in pieces:
        count._count_between(parts, piece, 1)
    assert content(parts) == content(whole)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.text(alphabet=st.characters(exclude_categories=["Zs", "Zl", "Zp", "Cc", "Cs"]), min_size=1), max_size=8)
)
@pytest.mark.parametrize("split", [bytelevel.split, bert.split_cased, bert.split_uncased, sentencepiece.split])
def test_a_text_is_split_as_what_stands_between_its_blanks_is(split: count.Split, words: list[str]) -> None:
    expected = [word for text in words for word in split(f" {text}")]
    assert list(split("".join(f" {text}" for text in words))) == expected
