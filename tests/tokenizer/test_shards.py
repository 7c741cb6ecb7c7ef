"""`tokenizer encode` and reading back: nothing is lost, nothing depends on the workers, and damage is named."""

import gzip
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import orjson
import pytest

from biomlm.core import cli
from biomlm.core.errors import DataError
from biomlm.core.files import read_json
from biomlm.core.manifest import Manifest, read_manifest
from biomlm.corpus.documents import SPLITS, document_files
from biomlm.tokenizer import documents
from biomlm.tokenizer.commands import encode
from biomlm.tokenizer.formats import folder
from biomlm.tokenizer.shards import ShardReader, decode, map_tokens, read_index


def run_encode(docs: Path, tok: Path, out: Path, workers: int = 1) -> int:
    argv = ["tokenizer", "encode", "--docs", str(docs), "--tokenizer", str(tok), "--out", str(out)]
    return cli.run([*argv, "--workers", str(workers)])


def make_docs(path: Path, texts: list[bytes]) -> Path:
    (path / "train").mkdir(parents=True)
    file = path / "train" / "00000.jsonl.gz"
    file.write_bytes(gzip.compress(b"".join(line + b"\n" for line in texts)))
    Manifest(stage="corpus build", config={}, config_hash="0").finish(path, [file], {})
    return path


def document(text: str, sentences: list[list[int]], sections: list[object] | None = None, **more: object) -> bytes:
    metadata = {"source": "notes", "sentences": sentences, "sections": sections or [], **more}
    return orjson.dumps({"id": "note:1", "text": text, "metadata": metadata})


@pytest.mark.parametrize("split", SPLITS)
def test_decoding_gives_the_documents_back(shards: Path, docs: Path, split: str) -> None:
    reader = ShardReader(shards, split)
    originals = [document for file in document_files(docs, split) for document in documents.read(file)]
    assert [d["id"] for d in reader.documents()] == [d.id for d in originals]
    assert len(reader.doc_index) == len(originals) + 1
    for n, original in enumerate(originals):
        items = range(reader.doc_index[n], reader.doc_index[n + 1])
        assert decode(reader, items) == " ".join(original.text.split())
        assert len(items) == len(original.sentences) + 1
        assert reader[items[-1]].tolist() == [2]
        assert all(reader[item][-1] == 2 for item in items)


@pytest.mark.parametrize("split", SPLITS)
def test_counts_account_for_every_token(shards: Path, split: str) -> None:
    reader = ShardReader(shards, split)
    counts = reader.counts
    assert counts["documents"] == len(reader.doc_index) - 1
    assert counts["sentences"] + counts["documents"] == len(reader)
    assert counts["tokens"] + len(reader) == len(reader.tokens) == reader.offsets[-1]
    frequency = np.bincount(reader.tokens[reader.tokens != 2])
    share = frequency[frequency > 0] / frequency.sum()
    assert counts["unigram_entropy"] == pytest.approx(-(share * np.log(share)).sum(), rel=1e-12)


def test_what_a_reader_offers(shards: Path, tok: Path) -> None:
    reader = ShardReader(shards, "train")
    assert reader.tokens.dtype == np.uint16
    assert not reader.tokens.flags.writeable
    assert reader.sizes.dtype == np.int32
    assert reader.offsets.dtype == reader.doc_index.dtype == reader.segments.dtype == np.int64
    assert set(reader.doc_index) <= set(reader.segments)
    assert (reader.vocab_size, reader.ids) == (2000, folder.load(tok).ids)
    assert reader.fingerprint == read_manifest(shards, "tokenizer encode").fingerprint
    assert (shards / "dict.txt").read_bytes() == (tok / "dict.txt").read_bytes()


def test_two_workers_write_the_same_bytes(
    shards: Path, docs: Path, tok: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encode, "BLOCK", 20_000)
    assert run_encode(docs, tok, tmp_path / "shards", workers=2) == 0
    one, two = (read_manifest(path, "tokenizer encode") for path in (shards, tmp_path / "shards"))
    assert one.outputs == two.outputs


def test_an_interrupted_run_goes_on_behind_the_last_part(
    shards: Path, docs: Path, tok: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work, done = encode._encode_file, []

    def breaks_at_the_second(file: Path, *rest: object) -> None:
        if len(done) == 1:
            raise KeyboardInterrupt
        done.append(file.name)
        work(file, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(encode, "_encode_file", breaks_at_the_second)
    assert run_encode(docs, tok, tmp_path / "shards") == 130
    with pytest.raises(DataError, match="interrupted"):
        ShardReader(tmp_path / "shards", "train")
    monkeypatch.setattr(encode, "_encode_file", lambda file, *rest: (done.append(file.name), work(file, *rest)))
    assert run_encode(docs, tok, tmp_path / "shards") == 0
    assert done == ["00000.jsonl.gz", "00001.jsonl.gz", "00000.jsonl.gz"]  # train 0, then train 1 and valid 0
    assert (
        read_manifest(tmp_path / "shards", "tokenizer encode").outputs
        == read_manifest(shards, "tokenizer encode").outputs
    )
    assert not (tmp_path / "shards" / ".parts").exists()


def test_segments_white_space_and_odd_characters(tok: Path, tmp_path: Path) -> None:
    text = "  Title\u00a0 one.\n\nFirst \ue000 is\there.   Second <s>?Third.  Rest \U0001f600"
    ends = [(2, 13), (15, 31), (34, 45), (45, 51), (53, 59)]
    sections = [[0, 13, "Title"], [15, 51, "Body"]]
    lines = [
        document(text, [list(e) for e in ends], sections),
        document("", []),
        document(" \n ", [[0, 3]], links=["pmid:1"]),
    ]
    docs = make_docs(tmp_path / "docs", lines)
    assert run_encode(docs, tok, tmp_path / "shards") == 0
    reader = ShardReader(tmp_path / "shards", "train")
    assert reader.doc_index.tolist() == [0, 6, 7, 8]
    assert reader.segments.tolist() == [0, 1, 4, 6, 7, 8]
    assert decode(reader, range(6)) == "Title one. First \ue000 is here. Second <s>? Third. Rest \U0001f600"
    assert [d["links"] for d in reader.documents()] == [[], [], ["pmid:1"]]
    assert len(ShardReader(tmp_path / "shards", "valid")) == 0


def test_ids_beyond_uint16_take_int32(tmp_path: Path) -> None:
    from biomlm.tokenizer.shards import ShardWriter, id_type

    assert id_type(1 << 16) == np.uint16
    assert id_type((1 << 16) + 1) == np.int32
    one = np.array([0], dtype=np.int64)
    with ShardWriter(tmp_path / "train", id_type(70_000)) as writer:
        writer.append(np.array([69_999, 2]), np.array([2], dtype=np.int32), one, one, b"{}\n")
    dtype, sizes = read_index(tmp_path / "train.idx")
    assert map_tokens(tmp_path / "train.bin", dtype).tolist() == [69_999, 2]
    assert sizes.tolist() == [2]


def patch(ending: str, at: int, value: bytes) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        file = path / f"train{ending}"
        content = bytearray(file.read_bytes())
        content[at : at + len(value)] = value
        file.write_bytes(content)

    return damage


def cut(ending: str) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        file = path / f"train{ending}"
        file.write_bytes(file.read_bytes()[:-3])

    return damage


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (patch(".idx", 0, b"XX"), "magic"),
        (patch(".idx", 9, struct.pack("<Q", 2)), "version 2"),
        (patch(".idx", 17, b"\x63"), "type code 99"),
        (patch(".idx", 18, struct.pack("<Q", 1 << 60)), "are needed"),
        (patch(".idx", 26, struct.pack("<i", -5)), "do not follow"),
        (cut(".idx"), "are needed"),
        (cut(".bin"), "its .idx speaks of"),
        (cut(".doc_index.npy"), "doc_index"),
        (patch(".doc_index.npy", 0, b"hello world"), "not a NumPy array"),
        (patch(".segments.npy", 128, struct.pack("<q", 9)), "ascend"),
        (lambda path: (path / "train.bin").unlink(), "no such file"),
        (lambda path: (path / "tokenizer" / "tokenizer.json").unlink(), "not the tokenizer"),
    ],
)
def test_damage_is_named(shards: Path, tmp_path: Path, damage: Callable[[Path], None], expected: str) -> None:
    shutil.copytree(shards, tmp_path / "shards")
    damage(tmp_path / "shards")
    with pytest.raises(DataError, match=expected):
        reader = ShardReader(tmp_path / "shards", "train")
        _ = reader.doc_index, reader.segments, reader.tokenizer


SECRET = "Mr Smith was seen. He left."


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b'{"id": "a", "text": "caf\xe9"}', "UTF-8"),
        (b'{"id": "a", "text": ', "not valid JSON"),
        (b'{"id": "a", "text": "b"}', "`metadata`"),
        (b"[]", "`metadata`"),
        (document(SECRET, [[0, 18]]), "leave text out"),
        (document(SECRET, [[0, 18], [10, 27]]), "overlap"),
        (document(SECRET, [[0, 99]]), "run out"),
        (document(SECRET, [[0, 18], [18, 27]], [[10, 20, "A"], [5, 27, "B"]]), "sections overlap"),
        (document(SECRET, [["a", "b"]]), "`metadata`"),  # type: ignore[list-item]
    ],
)
def test_a_damaged_document_is_named_without_its_text(
    tok: Path, tmp_path: Path, line: bytes, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    docs = make_docs(tmp_path / "docs", [document("Fine.", [[0, 5]]), line])
    assert run_encode(docs, tok, tmp_path / "shards") == 2
    error = capsys.readouterr().err
    assert "line 2" in error
    assert expected in error
    assert "Smith" not in error


def test_a_truncated_file_is_named(tok: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    docs = make_docs(tmp_path / "docs", [document("Fine.", [[0, 5]])] * 50)
    file = docs / "train" / "00000.jsonl.gz"
    file.write_bytes(file.read_bytes()[:-12])
    assert run_encode(docs, tok, tmp_path / "shards") == 2
    assert "the gzip data ends or breaks" in capsys.readouterr().err


def test_a_word_beyond_all_measure_is_refused(
    tok: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(documents, "LONGEST", 1000)
    fine, word = "abc " * 300, "ACGT" * 300
    docs = make_docs(tmp_path / "docs", [document(fine, [[0, 1200]]), document(word, [[0, 1200]])])
    assert run_encode(docs, tok, tmp_path / "shards") == 2
    error = capsys.readouterr().err
    assert "line 2, note:1): it has a word of more than 1,000 characters" in error


@pytest.mark.shared
def test_fairseqs_own_index_reads(shared: Path) -> None:
    prefix = shared / "fairseq_golden" / "data-bin" / "valid"
    dtype, sizes = read_index(prefix.with_suffix(".idx"))
    tokens = map_tokens(prefix.with_suffix(".bin"), dtype)
    assert (len(sizes), int(sizes.sum())) == (220, len(tokens))
    assert (tokens[np.cumsum(sizes) - 1] == 2).all()


def test_a_vocabulary_to_which_most_is_unknown_is_refused(
    docs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """transformers 5 makes one of five pieces where `BertTokenizerFast` is given a `vocab_file`."""
    (tmp_path / "five").mkdir()
    (tmp_path / "five" / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n")
    (tmp_path / "five" / "tokenizer_config.json").write_text('{"do_lower_case": true}')
    words = ["--docs", str(docs), "--tokenizer", str(tmp_path / "five"), "--out", str(tmp_path / "shards")]
    assert cli.run(["tokenizer", "encode", *words]) == 2
    told = capsys.readouterr().err.splitlines()[-2:]
    assert told[0].endswith("five: 100% of the tokens are unknown to this vocabulary of 5 pieces.")
    assert told[1] == "Give a tokenizer that is whole, and of the language of the documents."
    assert read_json(tmp_path / "shards" / "manifest.json")["status"] != "done"
