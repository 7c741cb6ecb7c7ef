"""Parts of speech beside the tokens: every piece has the tag of its word, whatever the tokenizer cuts and the tagger joins."""

import re
import sys
from collections.abc import Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models

from biomlm.core import cli
from biomlm.core.errors import ConfigError, DataError
from biomlm.core.manifest import read_manifest
from biomlm.corpus import documents
from biomlm.tokenizer.commands import encode
from biomlm.tokenizer.encoding import pos
from biomlm.tokenizer.encoding.pos import PosTable, Spacy
from biomlm.tokenizer.encoding.word_cache import END, WordCache
from biomlm.tokenizer.formats import folder, vocab_txt
from biomlm.tokenizer.shards import ShardReader, decode
from biomlm.tokenizer.upos import ID, UPOS

# A spaCy of a few lines: words are runs of word characters or single signs, and their tags follow from their lengths.
SPACY = """
import re
__version__ = "0"
UPOS = "ADJ ADP ADV AUX CCONJ DET INTJ NOUN NUM PART PRON PROPN PUNCT SCONJ SYM VERB X".split()

class Word:
    def __init__(self, match):
        self.text, self.idx, self.pos_ = match[0], match.start(), UPOS[len(match[0]) % 17]

class Pipeline:
    path = __file__
    meta = {"lang": "en", "name": "lengths", "version": "1"}

    def __init__(self, pipe_names):
        self.pipe_names = pipe_names

    def pipe(self, texts):
        return ([Word(match) for match in re.finditer(r"\\w+|[^\\w\\s]", text)] for text in texts)

def load(name, exclude):
    if name == "absent":
        raise OSError("[E050]")
    return Pipeline(["tok2vec"] if name == "untagged" else ["tok2vec", "tagger", "attribute_ruler"])
"""


class Lengths:
    """Tags every word by its length, as the module above does."""

    name = fingerprint = "lengths"

    def tag(self, texts: Sequence[str]) -> Iterator[list[tuple[int, int, str]]]:
        for text in texts:
            yield [(m.start(), m.end(), UPOS[len(m[0]) % 17]) for m in re.finditer(r"\w+|[^\w\s]", text)]


@pytest.fixture
def spacy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "spacy.py").write_text(SPACY)
    monkeypatch.delitem(sys.modules, "spacy", raising=False)
    monkeypatch.syspath_prepend(tmp_path / "site")


def run(docs: Path, tok: Path, out: Path, *more: str) -> int:
    return cli.run(["tokenizer", "encode", "--docs", str(docs), "--tokenizer", str(tok), "--out", str(out), *more])


def shown(tokenizer: folder.Tokenizer, words: list[str], tagger: pos.Tagger) -> list[tuple[str, str]]:
    ids, _ = WordCache(tokenizer).encode(words)
    tags = PosTable(tagger, tokenizer).tags(words)
    assert len(ids) == len(tags)
    names = ("", *UPOS)
    return [(tokenizer.hf.id_to_token(int(i)), names[tag]) for i, tag in zip(ids, tags, strict=True)]


def test_the_order_is_alphabetical_and_numbers_begin_at_1() -> None:
    assert list(UPOS) == sorted(UPOS)
    assert (len(UPOS), ID["ADJ"], ID["X"]) == (17, 1, 17)


class Given:
    """Tags what it is told to."""

    name = "given"

    def __init__(self, *tagged: list[tuple[int, int, str]]):
        self.tagged = tagged

    def tag(self, texts: Sequence[str]) -> list[list[tuple[int, int, str]]]:
        assert len(texts) == len(self.tagged)
        return list(self.tagged)


def test_pieces_have_the_tags_of_their_words(tok: Path) -> None:
    words = ["\nDon't", "die-off,", END, "Über", "x\u4e2d", END, END]
    tagger = Given(
        [(0, 2, "AUX"), (2, 5, "PART"), (6, 9, "VERB"), (10, 13, "ADP"), (13, 14, "PUNCT")],
        [(0, 4, "ADP"), (5, 6, "SPACE"), (6, 7, "X")],
        [],
    )
    found = shown(folder.load(tok), words, tagger)
    pieces = [(tag, "".join(piece for piece, _ in run)) for tag, run in groupby(found, key=itemgetter(1))]
    assert pieces == [
        ("AUX", "Don"),  # `on` begins in `Do`
        ("PART", "'t"),
        ("VERB", "Ġdie"),
        ("", "-"),  # the tagger left it out
        ("ADP", "off"),
        ("PUNCT", ","),
        ("", "</s>"),
        ("ADP", "ĠÃľber"),  # a blank goes with what follows
        ("", "Ġx"),  # SPACE is no part of speech
        ("X", "ä¸Ń"),
        ("", "</s></s>"),
    ]


WORDS = st.lists(st.lists(st.text("aZé-\u4e2d1.ﬁ\u0301", min_size=1, max_size=6), max_size=5), min_size=1, max_size=4)


@pytest.mark.parametrize("kind", ["bpe", "uncased", "whole sentences"])
@settings(max_examples=60, deadline=None)
@given(sentences=WORDS)
def test_there_is_a_tag_for_every_id(kind: str, tok: Path, bert: Path, sentences: list[list[str]]) -> None:
    if kind == "whole sentences":
        tokenizer = characters()
        assert not tokenizer.splits_at_blanks
        sentences = [[" ".join(sentence)] if sentence else [] for sentence in sentences]
    else:
        tokenizer = folder.load(tok if kind == "bpe" else bert)
    found = shown(tokenizer, [word for sentence in sentences for word in (*sentence, END)], Lengths())
    closing = tokenizer.hf.id_to_token(tokenizer.ids.eos)
    assert all((tag == "") == (piece == closing) for piece, tag in found)


def characters() -> folder.Tokenizer:
    """A tokenizer whose pieces may reach across blanks, as far as anyone can tell from its settings."""
    pieces = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *"aZé-\u4e2d1.ﬁ\u0301 "]
    hf = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, [], unk_token="<unk>"))
    return folder.Tokenizer(hf, folder.SpecialIds(*range(5)), len(pieces), "", {})


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bert")
    pieces = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        "a",
        "##a",
        "z",
        "##z",
        "e",
        "##e",
        "1",
        ".",
        "-",
        "fi",
        "##1",
    ]
    (out / "vocab.txt").write_text("\n".join(pieces) + "\n")
    vocab_txt.write_folder(out / "vocab.txt", out / "tok", settings={"do_lower_case": True})
    return out / "tok"


def test_a_sentence_beyond_all_measure_is_tagged_in_parts(tok: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer, words = folder.load(tok), ["\nThe", *["patient"] * 20, END, END, "was", END]
    whole = PosTable(Lengths(), tokenizer).tags(words)
    monkeypatch.setattr(pos, "AT_ONCE", 7)
    assert list(map(len, (part for part, _ in pos._parts(words)))) == [7, 7, 7, 0, 1]
    assert np.array_equal(PosTable(Lengths(), tokenizer).tags(words), whole)


def test_shards_have_them_whatever_the_workers(
    spacy: None, shards: Path, docs: Path, tok: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encode, "BLOCK", 20_000)
    for workers in ("1", "2"):
        assert run(docs, tok, tmp_path / workers, "--pos", "lengths", "--workers", workers) == 0
    one, two, without = (read_manifest(p, "tokenizer encode") for p in (tmp_path / "1", tmp_path / "2", shards))
    assert one.outputs == two.outputs
    assert {name for name in one.outputs if one.outputs[name] != without.outputs.get(name)} == {
        "train.pos.npy",
        "valid.pos.npy",
    }
    assert one.inputs["pos"] == "en_lengths 1, spaCy 0"
    for split in documents.SPLITS:
        reader = ShardReader(tmp_path / "1", split)
        assert reader.pos is not None
        assert not reader.pos.flags.writeable
        assert np.array_equal(reader.pos == 0, reader.tokens == reader.ids.eos)
        item = reader.doc_index[1] - 2
        text = decode(reader, [item])
        tags = [UPOS.index(tag) + 1 for _, _, tag in next(Lengths().tag([text]))]
        found = reader.pos[reader.offsets[item] : reader.offsets[item + 1] - 1].tolist()
        assert set(found) == set(tags)
        assert len(found) >= len(tags)
    assert ShardReader(shards, "train").pos is None


def test_a_run_that_was_killed_goes_on_with_them(
    spacy: None, docs: Path, tok: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(docs, tok, tmp_path / "whole", "--pos", "lengths", "--workers", "1") == 0
    blocks, begun = encode._blocks, []

    def second_breaks(path: Path, bar: object) -> Iterator[encode.Block]:
        begun.append(path)
        if len(begun) == 2:
            raise KeyboardInterrupt
        return blocks(path, bar)  # type: ignore[arg-type]

    monkeypatch.setattr(encode, "_blocks", second_breaks)
    assert run(docs, tok, tmp_path / "broken", "--pos", "lengths", "--workers", "1") == 130
    assert run(docs, tok, tmp_path / "broken", "--workers", "1") == 2  # without them it would be another folder
    assert run(docs, tok, tmp_path / "broken", "--pos", "lengths", "--workers", "1") == 0
    whole, broken = (read_manifest(tmp_path / name, "tokenizer encode") for name in ("whole", "broken"))
    assert whole.outputs == broken.outputs


def test_damage_is_named(spacy: None, docs: Path, tok: Path, tmp_path: Path) -> None:
    assert run(docs, tok, tmp_path / "shards", "--pos", "lengths", "--workers", "1") == 0
    file = tmp_path / "shards" / "valid.pos.npy"
    np.save(file, np.zeros(5, dtype=np.uint8))
    with pytest.raises(DataError, match="numbers of one byte"):
        _ = ShardReader(tmp_path / "shards", "valid").pos
    file.unlink()
    with pytest.raises(DataError, match="no such file"):
        _ = ShardReader(tmp_path / "shards", "valid").pos


@pytest.mark.parametrize(
    ("pipeline", "expected"), [("absent", "spacy download absent"), ("untagged", "no Universal POS")]
)
def test_a_pipeline_that_cannot_serve_is_refused(spacy: None, pipeline: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        Spacy(pipeline)


def test_without_spacy_the_remedy_is_named(
    docs: Path, tok: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "spacy", None)
    assert run(docs, tok, tmp_path / "shards", "--pos", "en_core_web_sm") == 2
    assert "pip install 'biomlm[pos]'" in capsys.readouterr().err
    assert not (tmp_path / "shards").exists()
