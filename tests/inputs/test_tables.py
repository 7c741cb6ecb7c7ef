"""Tables as strangers write them: damage costs the rows it is in, whatever their first column is; delimiters, quotes, encodings."""

import csv
import gzip
import io
from collections import Counter
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from biomlm.core.errors import DataError
from biomlm.inputs.tables import rows, whole_lists, whole_objects, whole_rows

WORDS = [
    "pain",
    "no fever",
    'the "best"',
    "a, b",
    "5'10\"",
    "é",
    "日本",
    "\n",
    "\n\n",
    "plan:",
    "end.\n",
    "\t",
    "yes; no",
    "1,2",
]
FIRST: dict[str, Any] = {
    "number": str,
    "code": lambda i: f"N-{i}",
    "name": lambda i: f"Miss {['Ann', 'Bea', 'Cy'][i % 3]} {i}",
    "date": lambda i: f"2150-01-{i:02} 10:00",
    "text": lambda i: f"A first text,\nno. {i}",
}


def written(row: list[str], **dialect: Any) -> str:
    buffer = io.StringIO(newline="")
    csv.writer(buffer, **dialect).writerow(row)
    return buffer.getvalue()


def read(data: str | bytes, name: str = "x.csv") -> tuple[list[list[str]], list[tuple[str, str]]]:
    """The good rows; where the others are and what is wrong with them."""
    found = list(rows(io.BytesIO(data.encode() if isinstance(data, str) else data), name))
    good = [list(row.fields.values()) for row in found if isinstance(row.fields, dict)]
    return good, [(row.where, row.fields) for row in found if isinstance(row.fields, str)]


@st.composite
def damaged_tables(draw: st.DrawFn) -> tuple[str, list[list[str]]]:
    """A table with damage in one row, and its other rows; what `csv` writes is the reference."""
    first = FIRST[draw(st.sampled_from(sorted(FIRST)))]
    texts = st.lists(st.sampled_from(WORDS), min_size=1, max_size=12).map(" ".join)
    dialect = {
        "delimiter": draw(st.sampled_from(",\t;|")),
        "quoting": draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL])),
        "lineterminator": draw(st.sampled_from(["\n", "\r\n"])),
    }
    others = st.lists(st.sampled_from(["", "7", "Nursing", "Physician note"]), min_size=1, max_size=3)
    width = len(draw(others))
    good = [
        [first(i), *draw(st.lists(st.sampled_from(["", "7", "Nursing"]), min_size=width, max_size=width)), draw(texts)]
        for i in range(1, draw(st.integers(4, 16)))
    ]
    raw = [written(row, **dialect) for row in good]
    which = draw(st.integers(0, len(good) - 1))
    body = raw[which].rstrip("\r\n")
    quotes = [place for place, letter in enumerate(body) if letter == '"']
    place = draw(st.integers(1, len(body) - 1))
    kind = draw(st.sampled_from(["quote lost", "quote added", "cut", "fields added"]))
    if kind == "quote lost" and quotes:
        place = draw(st.sampled_from(quotes))
        body = body[:place] + body[place + 1 :]
    elif kind == "fields added":
        body += dialect["delimiter"] + "x"
    else:
        body = body[:place] if kind == "cut" else f'{body[:place]}"{body[place:]}'
    raw[which] = body + dialect["lineterminator"]
    header = written(["c"] * (width + 2), **dialect).replace("c", "{}").format(*range(width + 2))
    return header + "".join(raw), [*good[:which], *good[which + 1 :]]


@settings(max_examples=400, derandomize=True, deadline=None)
@given(damaged_tables())
def test_damage_costs_its_own_row_only(made: tuple[str, list[list[str]]]) -> None:
    data, undamaged = made
    good, lost = read(data)
    missing = Counter(map(tuple, undamaged)) - Counter(map(tuple, good))
    assert not missing
    assert len(good) + len(lost) > len(undamaged)  # the damaged row is told or, where its fields are still fields, read


@pytest.mark.parametrize("first", sorted(FIRST))
def test_a_stray_quote_costs_one_row_of_thirty(first: str) -> None:
    table = [[FIRST[first](i), f"Note {i},\nwith lines.\n"] for i in range(1, 31)]
    raw = [written(row, quoting=csv.QUOTE_ALL) for row in table]
    raw[4] = raw[4].replace("with", 'with"')
    good, lost = read('"who","text"\n' + "".join(raw))
    assert good == table[:4] + table[5:]
    assert len(lost) == 1


def test_each_lost_row_counts() -> None:
    raw = [written([f"Miss {i}", f"Note {i},\nwith lines"]) for i in range(1, 11)]
    for i in (3, 4, 5, 8):
        raw[i] = raw[i].replace("with", '"with')
    good, lost = read("who,text\n" + "".join(raw))
    assert [row[0] for row in good] == ["Miss 1", "Miss 2", "Miss 3", "Miss 7", "Miss 8", "Miss 10"]
    assert [where for where, _ in lost] == ["line 8", "line 10", "line 12", "line 18"]


def test_a_lost_opening_quote_takes_no_part_of_its_row_for_a_row() -> None:
    raw = [written([str(i), f"Note {i}\nwith lines"]) for i in range(1, 11)]
    raw[4] = raw[4].replace('"', "", 1)
    good, lost = read("id,text\n" + "".join(raw))
    assert [row[0] for row in good] == ["1", "2", "3", "4", "6", "7", "8", "9", "10"]
    assert [where for where, _ in lost] == ["line 10"]


@pytest.mark.parametrize("delimiter", ["\t", ";", "|"])
def test_other_delimiters(delimiter: str) -> None:
    table = [[str(i), "2150-01-01 10:00:00", f"Pain, {i};\nnone\t| else"] for i in range(5)]
    data = "".join(written(row, delimiter=delimiter) for row in (["row_id", "charttime", "text"], *table))
    assert read(data) == (table, [])


def test_quotes_behind_backslashes() -> None:
    texts = [f'He said "it hurts" {i}.\nC:\\temp, then "no"' for i in range(6)]
    escaped = [text.replace('"', '\\"') for text in texts]
    data = "".join(f'"{i}","{text}"\n' for i, text in enumerate(escaped))
    assert read('"row_id","text"\n' + data) == ([[str(i), text] for i, text in enumerate(texts)], [])


def test_a_text_may_end_in_a_backslash() -> None:
    table = [[str(i), f"see C:\\{i},\\"] for i in range(6)]
    data = "".join(written(row) for row in (["row_id", "text"], *table))
    assert read(data) == (table, [])


def test_a_table_without_quoting_may_have_quotes_in_its_fields() -> None:
    table = [[str(i), f'He is 5\'1{i}" tall and "well" today'] for i in range(9)]
    assert read("id\ttext\n" + "".join("\t".join(row) + "\n" for row in table)) == (table, [])


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-8-sig"])
@pytest.mark.parametrize("name", ["x.csv", "x.jsonl"])
def test_unicode_by_mark_or_by_zeros(encoding: str, name: str) -> None:
    table = [[str(i), f"Zoë's note {i},\nβ-blocker"] for i in range(2000)]
    if name == "x.csv":
        data = "".join(written(row) for row in (["row_id", "text"], *table))
    else:
        data = "".join(orjson.dumps(dict(zip(("id", "text"), row, strict=True))).decode() + "\n" for row in table)
    assert read(data.encode(encoding), name) == (table, [])


def test_cp1252_is_read_as_such_and_told() -> None:
    texts = ["naïve café – “quoted”", "plain", "Zoë’s"]
    data = b"id,text\n" + b"".join(f'{i},"{text}"\n'.encode("cp1252") for i, text in enumerate(texts))
    found = list(rows(io.BytesIO(data), "x.csv"))
    assert [row.fields for row in found] == [{"id": str(i), "text": text} for i, text in enumerate(texts)]
    assert [row.encoding for row in found] == ["cp1252", "", "cp1252"]
    lines = b"".join(f'{{"text": "{text}"}}\n'.encode("cp1252") for text in ("é", "e"))
    assert [(row.fields, row.encoding) for row in rows(io.BytesIO(lines), "x.jsonl")] == [
        ({"text": "é"}, "cp1252"),
        ({"text": "e"}, ""),
    ]


@pytest.mark.parametrize("text", ["café β".encode() + b"\xe9", b"caf\x81"])
def test_bytes_of_no_encoding_cost_their_row(text: bytes) -> None:
    data = b"id,text\n1,one\n2," + text + b"\n3,three\n"
    assert read(data) == ([["1", "one"], ["3", "three"]], [("line 3", "neither UTF-8 nor cp1252")])
    line = b'{"text": "' + text + b'"}\n{"text": "b"}\n'
    assert read(line, "x.jsonl") == ([["b"]], [("line 1", "neither UTF-8 nor cp1252")])


def test_a_header_that_cannot_be_read_is_refused() -> None:
    with pytest.raises(DataError, match=r"x\.csv \(line 1\): the header cannot be read"):
        read('"id"x,"text"\n1,secret\n')


def test_a_broken_stream_gives_what_stands_before() -> None:
    class Broken(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            found = super().read(size)
            if not found:
                raise EOFError
            return found

    data = "id,text\n" + "".join(f'{i},"note {i},\nmore"\n' for i in range(5)) + '5,"cut o'
    found = list(rows(Broken(data.encode()), "x.csv"))
    assert [row.where for row in found] == ["line 2", "line 4", "line 6", "line 8", "line 10", "line 12", "line 13"]
    assert [row.fields for row in found[-2:]] == ["broken quoting", "truncated"]


FIELDS = st.lists(st.sampled_from([*WORDS, "", "\r\n", "\x85", "\u2028"]), max_size=4).map(" ".join)


@settings(max_examples=200, derandomize=True, deadline=None)
@given(st.lists(st.tuples(FIELDS, FIELDS.filter(bool)), max_size=6), st.sampled_from(["\n", "\r\n"]))
def test_a_whole_table_is_read_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, records: list[tuple[str, str]], end: str
) -> None:
    """Each row with the line that it begins on, counted in the text in front of it; blank lines are none."""
    path = tmp_path_factory.mktemp("whole") / "x.CSV.gz"
    text, expected = f"one,two{end}{end}", []
    for record in records:
        expected.append((len(text.replace("\r\n", "\n").split("\n")), dict(zip(("one", "two"), record, strict=True))))
        text += written(list(record), lineterminator=end)
    path.write_bytes(gzip.compress(text.encode("utf-8-sig")))
    assert list(whole_rows(path)) == expected
    assert [row for _, row in whole_lists(path)][1:] == [list(row.values()) for _, row in expected]


def test_a_quotation_mark_in_a_whole_tsv_is_a_character(tmp_path: Path) -> None:
    path = tmp_path / "x.tsv"
    path.write_text('id\ttext\n1\t"He said\n\n2\tno" and "no\n')
    assert list(whole_rows(path)) == [(2, {"id": "1", "text": '"He said'}), (4, {"id": "2", "text": 'no" and "no'})]


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("x.csv", b"a,b\n1,2\n3\n", r"line 3\): this is a row with not as many fields as the head line's 2"),
        ("x.csv", b'a,b\n1,2\n\n"3,4\n5,6\n', r"line 4\): this is no valid table \(unexpected end of data\)"),
        ("x.tsv", b"a\ta\n1\t2\n", "two columns of the 2 in the first row have the same name"),
        ("x.csv", "a,b\n1,é\n".encode("cp1252"), r"line 2\): this is not UTF-8"),
        ("x.csv", "a,b\n1,2\n".encode("utf-16"), r"line 1\): this is not UTF-8"),
        ("x.jsonl", b'{"a": 1}\n\n[2]\n', r"line 3\): this is no JSON object"),
        ("x.ndjson", b"{", r"line 1\): this is no JSON object"),
        ("x.jsonl.gz", gzip.compress(b'{"a": 1}\n' * 99, mtime=0)[:-9], "this gzip file is damaged or cut off"),
    ],
)
def test_the_first_damage_of_a_whole_table_is_refused(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match=message):
        list(whole_rows(tmp_path / name))


def test_json_lines_may_have_another_suffix(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text('{"a": 1}\n \n{"b": "\u2028"}\n')
    assert list(whole_objects(tmp_path / "x.json")) == [(1, {"a": 1}), (3, {"b": "\u2028"})]


def test_json_arrays_are_tables() -> None:
    objects = [{"text": "one", "id": 1}, 5, {"text": "é\nтwo"}]
    data = orjson.dumps(objects, option=orjson.OPT_INDENT_2)
    found = list(rows(io.BytesIO(data), "x.json"))
    assert [row.fields for row in found] == [objects[0], "no JSON object", objects[2]]
    assert [row.where for row in found] == ["item 1", "item 2", "item 3"]
    assert list(rows(io.BytesIO(data.decode().encode("utf-16")), "x.json")) == found
    assert read(data[:-1], "x.json") == ([], [("byte 0", "no JSON array")])
    assert read(b'{"text": "one"}', "x.json") == ([], [("byte 0", "no JSON array")])
    with pytest.raises(DataError, match=r"over 64 MB(.|\n)*jq"):
        list(rows(io.BytesIO(b"[" + b" " * (64 << 20) + b"]"), "x.json"))
