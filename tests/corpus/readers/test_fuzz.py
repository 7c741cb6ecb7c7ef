"""A thousand mutated files for every reader, from a fixed seed: no crash, no hang, and what is lost is counted."""

import gzip
import io
import random
import re
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from biomlm.core.errors import DataError
from biomlm.corpus.readers.jats import JatsReader
from biomlm.corpus.readers.notes import NotesReader
from biomlm.corpus.readers.pubmed import PubMedReader
from biomlm.corpus.readers.text import TextReader
from biomlm.corpus.text.document import DROPPED, AddSentences

FILES, RECORDS = 1000, 8
MARKUP = re.compile(rb"<[^>]*>|\n|\"|,|- ")


def flipped(data: bytes, rng: random.Random) -> bytes:
    mutated = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        mutated[rng.randrange(len(mutated))] ^= 1 << rng.randrange(8)
    return bytes(mutated)


def truncated(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data))]


def cut(data: bytes, rng: random.Random) -> bytes:
    """Without one tag, quote, comma or line break."""
    marks = list(MARKUP.finditer(data))
    if not marks:
        return truncated(data, rng)
    mark = rng.choice(marks)
    return data[: mark.start()] + data[mark.end() :]


def doubled(data: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(data))
    return data[: start + 200] + data[start:]


MUTATIONS: list[Callable[[bytes, random.Random], bytes]] = [flipped, truncated, cut, doubled]


@pytest.fixture
def originals(make: Any, article: str, tmp_path: Path) -> dict[str, tuple[str, bytes, Any]]:
    """Reader → (file name, RECORDS records, the reader)."""
    articles = [article.format(pmid=i, pmcid=i) for i in range(1, RECORDS + 1)]
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:") as tar:
        for i, text in enumerate(articles):
            info = tarfile.TarInfo(f"{i}.nxml")
            info.size = len(text.encode())
            tar.addfile(info, io.BytesIO(text.encode()))
    rows = [(i, i, "", f'Plan: rest, "fluids", no. {i}\nThe patient is stable.') for i in range(RECORDS)]
    notes = gzip.decompress(make.notes(tmp_path / "n.csv.gz", rows).read_bytes())
    medline = "\n\n".join(
        f"PMID- {i}\nTI  - Title number {i}\nAB  - Some abstract\n      goes on." for i in range(1, RECORDS + 1)
    )
    lines = b"".join(orjson.dumps({"text": f"Some text number {i}."}) + b"\n" for i in range(RECORDS))
    folder = str(tmp_path)
    citations = make.citations(*(make.plain(i) for i in range(1, RECORDS + 1)))
    return {
        "pubmed": ("x.xml", citations, PubMedReader(folder)),
        "pubmed.gz": ("x.xml.gz", gzip.compress(citations), PubMedReader(folder)),
        "medline": ("x.txt", medline.encode(), PubMedReader(folder)),
        "jats": ("x.xml", ("<set>" + "\n".join(articles) + "</set>").encode(), JatsReader(folder)),
        "tar": ("x.tar", buffer.getvalue(), JatsReader(folder)),
        "notes": ("x.csv", notes, NotesReader(folder, salt="s")),
        "jsonl": ("x.jsonl", lines, TextReader(folder)),
    }


@pytest.mark.parametrize("kind", ["pubmed", "pubmed.gz", "medline", "jats", "tar", "notes", "jsonl"])
def test_mutated_files(kind: str, originals: dict[str, tuple[str, bytes, Any]], tmp_path: Path) -> None:
    name, data, reader = originals[kind]
    rng = random.Random(20260101)
    whole = texts(reader, name, data, tmp_path)[0]
    assert len(whole) == RECORDS
    started = time.process_time()
    for number in range(FILES):
        mutate = rng.choice(MUTATIONS)
        mutated = mutate(data, rng)
        try:
            kept, dropped = texts(reader, name, mutated, tmp_path)
        except DataError:  # a header without its column of text
            assert kind == "notes"
            continue
        unchanged = sum(text in whole for text in kept)
        lost = RECORDS - unchanged
        changed = len(kept) - unchanged
        if mutate is not truncated or mutated:
            assert lost <= 0 or changed + dropped > 0 or allowed(kind, mutate, data, mutated), (
                f"file {number}, {mutate.__name__}"
            )
    assert time.process_time() - started < 60


def allowed(kind: str, mutate: Callable[..., bytes], data: bytes, mutated: bytes) -> bool:
    """Where nothing in the file can tell that something is missing: a text format cut off between two records."""
    if mutate is truncated:
        return kind in ("medline", "jsonl", "notes") and at_a_border(kind, data, mutated)
    return False


def at_a_border(kind: str, data: bytes, mutated: bytes) -> bool:
    rest = data[len(mutated) :]
    border = {
        "medline": rb"\s*PMID|\n",
        "jsonl": rb"\n|\{",
        "notes": rb"\r?\n?\d+,|\r?\n",
    }[kind]
    return bool(re.match(border, rest))


def texts(reader: Any, name: str, data: bytes, folder: Path) -> tuple[list[str], int]:
    """Texts that are kept, and how many records are put aside."""
    (folder / name).write_bytes(data)
    documents = list(AddSentences().run(reader.read_file(name)))
    for document in documents:
        ends = [edge for start, stop in document.metadata["sentences"] for edge in (start, stop)]
        assert ends == sorted(ends)
        assert not ends or ends[-1] <= len(document.text)
        document.text.encode()
    return [d.text for d in documents if DROPPED not in d.metadata], sum(DROPPED in d.metadata for d in documents)
