"""Compressed files, tar packages and inputs: members, padding, long names, damage, order."""

import gzip
import io
import lzma
import random
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from biomlm.core.errors import DataError
from biomlm.corpus.pipeline.inputs import TASK_BYTES, Input, find, tasks
from biomlm.corpus.readers.text import TextReader
from biomlm.inputs import streams
from biomlm.inputs.streams import COMPRESSIONS, Decompressed
from biomlm.inputs.tar import members


def read(data: bytes, suffix: str, size: int = 1000) -> tuple[bytes, str]:
    """All that a stream gives, and how it ends."""
    stream, found = Decompressed(io.BytesIO(data), COMPRESSIONS[suffix]), b""
    try:
        while block := stream.read(size):
            assert len(block) <= size
            found += block
    except (EOFError, zlib.error) as error:
        return found, type(error).__name__
    return found, ""


@given(st.lists(st.binary(max_size=3000), min_size=1, max_size=4), st.integers(1, 5000))
@settings(max_examples=60, deadline=None)
def test_members_are_read_one_after_another(parts: list[bytes], size: int) -> None:
    for suffix, compress in ((".gz", gzip.compress), (".xz", lzma.compress)):
        data = b"".join(compress(part) for part in parts)
        assert read(data, suffix, size) == (b"".join(parts), "")
    assert read(b"".join(map(gzip.compress, parts)) + bytes(100), ".gz", size) == (b"".join(parts), "")


@given(st.binary(min_size=1, max_size=4000), st.data())
@settings(max_examples=60, deadline=None)
def test_a_truncated_stream_says_so_and_gives_a_prefix(content: bytes, data: st.DataObject) -> None:
    whole = gzip.compress(content * 20)
    stop = data.draw(st.integers(1, len(whole) - 1))
    found, problem = read(whole[:stop], ".gz")
    assert problem == "EOFError"
    assert (content * 20).startswith(found)


def test_a_thousandfold_file_comes_in_blocks() -> None:
    whole = gzip.compress(bytes(50_000_000))
    assert len(whole) < 100_000
    stream = Decompressed(io.BytesIO(whole), COMPRESSIONS[".gz"])
    sizes = []
    while block := stream.read(1 << 20):
        sizes.append(len(block))
    assert sum(sizes) == 50_000_000
    assert max(sizes) <= 1 << 20


@pytest.mark.parametrize("kind", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
def test_packages_of_every_kind(kind: int) -> None:
    names = ["a.xml", f"{'folder/' * 12}b.xml" if kind == tarfile.USTAR_FORMAT else f"{'long' * 60}/b.xml", "c.xml"]
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:", format=kind) as tar:
        for i, name in enumerate(names):
            info = tarfile.TarInfo(name)
            info.size = 700 * i
            tar.addfile(info, io.BytesIO(bytes([65 + i]) * 700 * i))
        folder = tarfile.TarInfo("folder")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
    buffer.seek(0)
    found = {}
    for name, member in members(buffer):
        assert member is not None
        found[name] = member.read(5000)
    assert {name: len(content) for name, content in found.items()} == dict(zip(names, (0, 700, 1400), strict=True)) or (
        kind == tarfile.USTAR_FORMAT and [len(content) for content in found.values()] == [0, 700, 1400]
    )


def test_empty_files_are_counted(tmp_path: Path) -> None:
    from biomlm.corpus.readers.jats import JatsReader
    from biomlm.corpus.readers.notes import NotesReader
    from biomlm.corpus.readers.pubmed import PubMedReader

    for reader, names in (
        (PubMedReader(str(tmp_path)), ["e.xml", "e.xml.gz", "e.nbib"]),
        (JatsReader(str(tmp_path)), ["e.nxml", "e.tar", "e.tar.gz"]),
        (NotesReader(str(tmp_path), salt="s"), ["e.csv", "e.jsonl"]),
        (TextReader(str(tmp_path)), ["e.jsonl", "e.csv"]),
    ):
        for name in names:
            (tmp_path / name).touch()
            (document,) = reader.read_file(name)
            assert document.metadata["dropped"] == "damaged", name


def test_plain_text_is_one_document_with_its_paragraphs(tmp_path: Path) -> None:
    text = "A first line that is long enough to have been wrapped by some edi-\ntor.\n\nA second paragraph.\r\n"
    (tmp_path / "x.txt").write_text(text)
    (document,) = TextReader(str(tmp_path)).read_file("x.txt")
    assert document.text == "A first line that is long enough to have been wrapped by some editor.\nA second paragraph."
    assert document.id == "text:x.txt:0"


def test_rows_of_other_tables_keep_their_ids(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text('text,pmid,other\n"One, two.",12,x\n')
    (document,) = TextReader(str(tmp_path)).read_file("x.csv")
    assert document.text == "One, two."
    assert document.metadata["pmid"] == "12"
    assert "other" not in document.metadata


def test_inputs_are_found_once_and_in_the_order_of_their_names(tmp_path: Path) -> None:
    for name in ("b/1.xml", "a/2.xml.gz", "a/note.txt", "a/LICENCE"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = find("pubmed", [str(tmp_path / "a"), f"{tmp_path}/*/*.xml*", str(tmp_path / "b" / "1.xml")])
    assert [Path(item.path).name for item in found] == ["1.xml", "2.xml.gz"]
    with pytest.raises(DataError, match="nothing by that name"):
        find("pubmed", [str(tmp_path / "nowhere")])


def test_small_files_share_a_task_and_sources_do_not() -> None:
    sizes = [TASK_BYTES // 2, TASK_BYTES // 2, 1, 3 * TASK_BYTES, 1]
    inputs = [Input("pubmed", str(i), size, str(i)) for i, size in enumerate(sizes)] + [Input("pmc", "x", 1, "x")]
    assert [[item.path for item in job] for job in tasks(inputs)] == [["0", "1"], ["2"], ["3"], ["4"], ["x"]]


def test_damage_costs_no_more_than_with_zlib(monkeypatch: pytest.MonkeyPatch) -> None:
    """ISA-L alone would give up to a whole block less; without it everything is the same."""
    rng = random.Random(4)
    content = "".join(f"Line {i} of a file with the number {rng.random()}.\n" for i in range(20_000)).encode()
    whole = gzip.compress(content)
    for _ in range(5):
        at = rng.randrange(len(whole) // 10, len(whole))
        broken = whole[:at] + bytes(20) + whole[at + 20 :]
        found = read(broken, ".gz", 1 << 16)
        assert found[1] == "error"
        assert len(found[0]) > len(content) * at // len(whole) * 0.98
        with monkeypatch.context() as patched:
            patched.setattr(streams, "fast_zlib", zlib)
            assert read(broken, ".gz", 1 << 16) == found


def test_labels_have_as_many_folders_as_tell_files_apart(tmp_path: Path) -> None:
    names = ["a/x/t.txt", "b/x/t.txt", "b/u.txt"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("Text.")
    assert [item.label for item in find("text", [str(tmp_path)])] == [*names[:2], "u.txt"]


def test_a_member_of_negative_size_is_damage() -> None:
    info = tarfile.TarInfo("a.xml")
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[124:136] = b"\xff" * 11 + b"\x00"  # base 256, negative
    header[148:156] = b"%06o\0 " % (256 + sum(header[:148]) + sum(header[156:512]))
    assert list(members(io.BytesIO(bytes(header) + bytes(1024)))) == [("its start", None)]


@pytest.mark.parametrize(("suffix", "pack"), [("", bytes), (".GZ", gzip.compress), (".xz", lzma.compress)])
def test_lines_of_a_file_by_its_suffix(suffix: str, pack: Callable[[bytes], bytes], tmp_path: Path) -> None:
    path = tmp_path / f"notes.txt{suffix}"
    content = b"one\ntwo\xff\r\n" + random.Random(1).randbytes(9000)
    path.write_bytes(pack(content))
    with path.open("rb") as file:
        assert list(streams.open_lines(file)) == list(io.BytesIO(content))
    with path.open("rb") as file:
        assert max(map(len, streams.open_lines(file, 3))) == 3
    if suffix:
        path.write_bytes(path.read_bytes()[:-20])
        with path.open("rb") as file, pytest.raises(DataError, match=r"(?s)notes.*ends or breaks.*Get it"):
            list(streams.open_lines(file, remedy="Get it."))
