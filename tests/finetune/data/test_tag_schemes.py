"""IOBES and BIOUL say what IOB2 says: against rows made from spans, and against conlleval's own tables of where a chunk begins and ends."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from biomlm.core.errors import DataError
from biomlm.finetune.data.iob_tags import Span, entities, iob
from biomlm.finetune.data.readers.iob import read_iob

SPANS = st.lists(st.tuples(st.integers(0, 2), st.integers(1, 4), st.sampled_from("XY")), max_size=6)
LETTERS = {"IOBES": "BIES", "BIOUL": "BILU"}


def rows(drawn: list[tuple[int, int, str]], letters: str) -> tuple[list[Span], list[str], list[str]]:
    """Spans with gaps before them, the row in a scheme with marked ends, and the row in IOB2."""
    begin, inner, end, single = letters
    spans, marked, plain = [], list[str](), list[str]()
    for gap, length, kind in drawn:
        marked += ["O"] * gap
        plain += ["O"] * gap
        spans.append(Span(len(plain), len(plain) + length, kind))
        row = single if length == 1 else begin + inner * (length - 2) + end
        marked += [f"{letter}-{kind}" for letter in row]
        plain += [f"B-{kind}"] + [f"I-{kind}"] * (length - 1)
    return spans, [*marked, "O"], [*plain, "O"]


def written(folder: Path, tags: list[str]) -> Path:
    path = folder / "train.tsv"
    path.write_text("".join(f"w{i}\t{tag}\n" for i, tag in enumerate(tags)))
    return path


@pytest.mark.parametrize("scheme", LETTERS)
@given(drawn=SPANS)
def test_the_same_entities_as_in_iob2(scheme: str, drawn: list[tuple[int, int, str]]) -> None:
    spans, marked, plain = rows(drawn, LETTERS[scheme])
    assert iob(marked) == plain
    assert entities(iob(marked)) == spans


def conlleval(tags: list[str]) -> list[Span]:
    """`startOfChunk` and `endOfChunk` of conlleval.pl (Tjong Kim Sang and Buchholz 2000), for the letters B, I, O, E and S."""
    found, start = [], 0
    before, kind_before = "O", ""
    for i, tag in enumerate([*tags, "O"]):
        letter, _, kind = tag.partition("-")
        ends = (before in "BI" and letter in "BSO") or before in "ES" or (before != "O" and kind_before != kind)
        begins = letter in "BS" or (before in "ESO" and letter in "EI") or (letter != "O" and kind_before != kind)
        if before != "O" and ends:
            found.append(Span(start, i, kind_before))
        if begins:
            start = i
        before, kind_before = letter, kind
    return found


TAGS = st.lists(st.sampled_from(["O", *(f"{letter}-{kind}" for letter in "BIES" for kind in "XY")]), max_size=12)


@given(TAGS)
def test_any_row_is_read_as_conlleval_reads_it(tags: list[str]) -> None:
    assert entities(iob(tags)) == conlleval(tags)


@pytest.mark.parametrize("letters", LETTERS.values())
def test_a_file_is_read_in_its_scheme(letters: str, tmp_path: Path) -> None:
    _, marked, plain = rows([(1, 3, "X"), (0, 1, "X"), (2, 2, "Y"), (0, 2, "Y")], letters)
    (record,) = read_iob(written(tmp_path, marked), "train")
    assert list(record.tags) == plain


@pytest.mark.parametrize(
    ("tags", "where"),
    [
        ("B-X O S-X", "line 2"),
        ("S-X I-X E-X", "line 2"),
        ("B-X E-Y", "line 2"),
        ("S-X B-X", "line 2"),
        ("O L-X", "line 2"),
        ("S-X U-X", "both IOBES and BIOUL"),
    ],
)
def test_a_broken_row_is_named_or_read_as_conlleval(tags: str, where: str, tmp_path: Path) -> None:
    path = written(tmp_path, tags.split())
    with pytest.raises(DataError) as caught:
        read_iob(path, "train")
    assert where in str(caught.value)
    (record,) = read_iob(path, "train", repair=True)
    assert record.spans == conlleval([tag.replace("L-", "E-").replace("U-", "S-") for tag in tags.split()])


def test_blanks_around_a_tag_and_words_that_are_odd_blanks(tmp_path: Path) -> None:
    path = tmp_path / "train.tsv"
    path.write_text("give\tO \n\u00a0\tO\naspirin \tB-X \n\u2009\tI-X\n", encoding="utf-8")
    (record,) = read_iob(path, "train")
    assert [record.text[a:b] for a, b in record.words] == ["give", "\u00a0", "aspirin", "\u2009"]
    assert record.tags == ("O", "O", "B-X", "I-X")
    path.write_text("5\u00a0mg  B-X\ndaily O \n", encoding="utf-8")
    (record,) = read_iob(path, "train")
    assert [record.text[a:b] for a, b in record.words] == ["5\u00a0mg", "daily"]
