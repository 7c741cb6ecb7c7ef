"""The IOB reader: what it takes, and how it refuses the rest."""

import gzip
from pathlib import Path

import pytest

from biomlm.core.errors import DataError
from biomlm.finetune.data.readers.iob import read_iob

NCBI = Path(__file__).parents[3] / "data/finetune/ncbi"


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "train.tsv"
    path.write_bytes(text.encode())
    return path


def test_real_sentences(tmp_path: Path) -> None:
    records = read_iob(NCBI / "train.tsv", "train")
    assert len(records) == 60
    assert records[0].id == "train:1"
    spans = records[0].characters(records[0].spans)
    assert [records[0].text[s.start : s.stop] for s in spans] == ["adenomatous polyposis coli tumour"]
    packed = tmp_path / "train.tsv.gz"
    packed.write_bytes(gzip.compress((NCBI / "train.tsv").read_bytes()))
    assert read_iob(packed, "train") == records


def test_lines_ends_documents_and_more_columns(tmp_path: Path) -> None:
    text = "-DOCSTART-\tX\tO\r\n\r\nA\tNN\tB-X\r\n\u2028b\tNN\tI-X\r\n\r\n\r\nc\tNN\tO\r\n"
    first, second = read_iob(write(tmp_path, text), "train")
    assert (first.text, first.tags, first.line) == ("A \u2028b", ("B-X", "I-X"), 3)
    assert (second.text, second.tags, second.line) == ("c", ("O",), 7)


def test_blanks_part_columns_where_there_is_no_tab(tmp_path: Path) -> None:
    (record,) = read_iob(write(tmp_path, "EU NNP I-NP B-ORG\nrejects VBZ I-VP O\n"), "train")
    assert record.tags == ("B-ORG", "O")


def test_iob1_is_read_as_iob2(tmp_path: Path) -> None:
    (record,) = read_iob(write(tmp_path, "a\tI-X\nb\tI-X\nc\tB-X\nd\tO\ne\tI-Y\n"), "train")
    assert record.tags == ("B-X", "I-X", "B-X", "O", "B-Y")


@pytest.mark.parametrize(
    ("text", "where", "what"),
    [
        ("a\tO\nb\n", "line 2", "missing"),
        ("a\tO\n\tO\n", "line 2", "missing"),
        ("a\tO\nb\tNN\tO\n", "line 2", "columns"),
        ("a\tO\nb\tX-Disease\n", "line 2", "no tag"),
        ("a\tB-X\nb\tO\nc\tI-X\n", "line 3", "continues no entity"),
        ("a\tB-X\nb\tI-Y\n", "line 2", "continues no entity"),
    ],
)
def test_a_malformed_line_is_named(tmp_path: Path, text: str, where: str, what: str) -> None:
    with pytest.raises(DataError, match=what) as caught:
        read_iob(write(tmp_path, text), "train")
    assert where in str(caught.value)


def test_stray_tags_begin_an_entity_when_told(tmp_path: Path) -> None:
    (record,) = read_iob(write(tmp_path, "a\tB-X\nb\tO\nc\tI-X\nd\tI-Y\n"), "train", repair=True)
    assert record.tags == ("B-X", "O", "B-X", "B-Y")


def test_damaged_files(tmp_path: Path) -> None:
    path = tmp_path / "train.tsv"
    path.write_bytes(b"a\tO\n\xff\tO\n")
    with pytest.raises(DataError, match=r"line 2\): this is not UTF-8"):
        read_iob(path, "train")
    packed = tmp_path / "train.tsv.gz"
    packed.write_bytes(gzip.compress((NCBI / "train.tsv").read_bytes())[:-100])
    with pytest.raises(DataError, match="damaged or cut off"):
        read_iob(packed, "train")
