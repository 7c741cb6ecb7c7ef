"""The other kinds of vocabulary: each is a folder that loads everywhere, and equals the implementation it comes from."""

import gzip
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import BertWordPieceTokenizer

from biomlm.core import cli
from biomlm.core.errors import DataError
from biomlm.core.manifest import read_manifest
from biomlm.inputs.sentences import spans
from biomlm.tokenizer.config import TrainConfig
from biomlm.tokenizer.encoding.tiktoken_bpe import TiktokenBpe
from biomlm.tokenizer.encoding.word_cache import END, WordCache
from biomlm.tokenizer.formats import fairseq, fairseq_folder, folder, vocab_txt
from biomlm.tokenizer.learning import sentencepiece as sentence_pieces
from biomlm.tokenizer.learning.sentencepiece import GATORTRON

KINDS = {
    "bpe": (),
    "wordpiece": (),
    "uncased": ("--kind", "wordpiece", "--lowercase"),
    "sentencepiece-bpe": (),
    "sentencepiece-unigram": (),
    "gatortron": (),
}


def train(docs: Path, kind: str, out: Path) -> Path:
    more = KINDS[kind] or ("--kind", kind)
    argv = [
        "tokenizer",
        "train",
        "--docs",
        str(docs),
        "--vocab_size",
        "1500",
        "--out",
        str(out),
        "--workers",
        "1",
        *more,
    ]
    assert cli.run(argv) == 0
    return out


@pytest.fixture(scope="module")
def folders(docs: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    base = tmp_path_factory.mktemp("kinds")
    return {kind: train(docs, kind, base / kind) for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_transformers_reads_the_same_ids_and_the_casing(
    folders: dict[str, Path], kind: str, abstracts: list[str]
) -> None:
    from transformers import AutoTokenizer

    ours, theirs = folder.load(folders[kind]), AutoTokenizer.from_pretrained(folders[kind])
    assert ours.vocab_size == len(theirs) == 1500
    for text in abstracts[:40]:
        assert theirs(text, add_special_tokens=False, verbose=False)["input_ids"] == ours.encode(text)
    assert theirs("gene")["input_ids"] == [ours.ids.bos, *ours.encode("gene"), ours.ids.eos]
    specials = (theirs.mask_token_id, theirs.pad_token_id, theirs.unk_token_id, theirs.model_max_length)
    assert specials == (ours.ids.mask, ours.ids.pad, ours.ids.unk, 512)
    assert (theirs.tokenize("Gene") == theirs.tokenize("gene")) == (kind == "uncased")
    assert json.loads((folders[kind] / "tokenizer_config.json").read_text())["do_lower_case"] == (kind == "uncased")


@pytest.mark.parametrize("kind", KINDS)
def test_word_by_word_is_sentence_by_sentence(folders: dict[str, Path], kind: str, abstracts: list[str]) -> None:
    tokenizer = folder.load(folders[kind])
    assert tokenizer.splits_at_blanks
    table = WordCache(tokenizer)
    sentences = [text.split() for text in abstracts]
    ids, sizes = table.encode([word for words in sentences for word in (*words, END)])
    expected = [[*tokenizer.encode(" " + " ".join(words)), tokenizer.ids.eos] for words in sentences]
    assert ids.tolist() == [i for item in expected for i in item]
    assert sizes.tolist() == [len(item) for item in expected]


def test_word_by_word_on_any_text(folders: dict[str, Path]) -> None:
    tokenizer = folder.load(folders["bpe"])
    assert TiktokenBpe.applies(tokenizer)
    table = WordCache(tokenizer)

    @settings(max_examples=200, deadline=None)
    @given(st.lists(st.text(), max_size=5))
    def check(texts: list[str]) -> None:
        words = " ".join(texts).split()
        text = "".join(f" {word}" for word in words)
        assert table.encode([*words, END])[0].tolist() == [*tokenizer.encode(text), 2]

    check()


@pytest.mark.parametrize("kind", KINDS)
def test_a_literal_special_token_is_plain_text(folders: dict[str, Path], kind: str) -> None:
    tokenizer = folder.load(folders[kind])
    special = {tokenizer.ids.bos, tokenizer.ids.pad, tokenizer.ids.eos, tokenizer.ids.mask}
    for name in ("<s>", "</s>", "<pad>", "<mask>", "[CLS]", "[SEP]", "[MASK]", "[PAD]"):
        assert not special & set(tokenizer.encode(f"a {name} b{name}"))


@pytest.mark.parametrize("kind", ["sentencepiece-bpe", "sentencepiece-unigram"])
def test_sentencepiece_itself_gives_the_same_ids(folders: dict[str, Path], kind: str, abstracts: list[str]) -> None:
    theirs = sentencepiece.SentencePieceProcessor(model_file=str(folders[kind] / "sentencepiece.model"))
    ours = folder.load(folders[kind])
    words = sorted({word for text in abstracts for word in text.split()})
    assert len(words) > 7000
    pairs = list(zip(ours.encode_batch(words), theirs.encode(words), strict=True))
    ties = [(a, b) for a, b in pairs if a != b]  # a unigram model may hold two cuts of equal likelihood
    assert all(sorted(a) == sorted(b) for a, b in ties)
    assert len(ties) <= (7 if kind == "sentencepiece-unigram" else 0)
    assert theirs.encode("Caf\u00e9 \u00bd \ufb01") == ours.encode("Caf\u00e9 \u00bd \ufb01")


def test_gatortron_is_sentencepieces_bpe_behind_its_header(folders: dict[str, Path]) -> None:
    pieces = (folders["gatortron"] / "vocab.txt").read_text(encoding="utf-8").splitlines()
    assert tuple(pieces[:104]) == GATORTRON
    assert (pieces[0], pieces[1], pieces[99], pieces[100], pieces[103]) == (
        "[PAD]",
        "[unused1]",
        "[unused99]",
        "[UNK]",
        "[MASK]",
    )
    assert len(pieces) == len(set(pieces)) == 1500
    assert not any("\u2581" in piece for piece in pieces)


def test_wordpiece_is_as_good_as_tokenizers(folders: dict[str, Path], abstracts: list[str]) -> None:
    """Their own ids change from run to run (a hash map's order breaks ties), so lengths are compared."""
    theirs = BertWordPieceTokenizer(lowercase=False)
    theirs.train_from_iterator(abstracts, vocab_size=1500, show_progress=False)
    ours = folder.load(folders["wordpiece"])
    lengths = [
        sum(len(encode(text)) for text in abstracts)
        for encode in (ours.encode, lambda t: theirs.encode(t, add_special_tokens=False).ids)
    ]
    assert lengths[0] == pytest.approx(lengths[1], rel=0.003)
    assert len(set(ours.pieces) & set(theirs.get_vocab())) > 1400


@pytest.mark.parametrize("kind", ["uncased", "sentencepiece-unigram", "gatortron"])
def test_the_same_text_gives_the_same_bytes(folders: dict[str, Path], kind: str, docs: Path, tmp_path: Path) -> None:
    again = train(docs, kind, tmp_path / "again")
    one, two = (read_manifest(path, "tokenizer train").outputs for path in (folders[kind], again))
    assert one == two


def test_shards_of_wordpiece(folders: dict[str, Path], docs: Path, tmp_path: Path) -> None:
    from biomlm.tokenizer.shards import ShardReader

    argv = ["tokenizer", "encode", "--docs", str(docs), "--tokenizer", str(folders["wordpiece"]), "--workers", "1"]
    assert cli.run([*argv, "--out", str(tmp_path / "shards")]) == 0
    reader = ShardReader(tmp_path / "shards", "valid")
    assert (reader.tokens[reader.offsets[1:] - 1] == reader.ids.eos).all()
    assert not (tmp_path / "shards" / "dict.txt").exists()  # fairseq's special ids are others


def test_a_bare_vocabulary_needs_its_casing(folders: dict[str, Path], tmp_path: Path) -> None:
    shutil.copy(folders["uncased"] / "vocab.txt", tmp_path)
    with pytest.raises(DataError, match="cased"):
        folder.load(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": true}')
    assert folder.load(tmp_path).encode("Gene") == folder.load(folders["uncased"]).encode("gene")
    assert np.array_equal(folder.load(tmp_path).is_word_start, folder.load(folders["uncased"]).is_word_start)


def test_casing_that_disagrees_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    folder.copy(folders["wordpiece"], tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({**config, "do_lower_case": True}))
    with pytest.raises(DataError, match=r"do_lower_case True, tokenizer\.json lowercase False"):
        folder.load(tmp_path)


@pytest.mark.parametrize("damage", ["twice", "missing"])
def test_a_damaged_vocabulary_is_named(folders: dict[str, Path], tmp_path: Path, damage: str) -> None:
    pieces = (folders["wordpiece"] / "vocab.txt").read_text(encoding="utf-8").splitlines()
    pieces = [*pieces, pieces[300]] if damage == "twice" else [p for p in pieces if p != "[SEP]"]
    (tmp_path / "vocab.txt").write_text("\n".join(pieces))
    with pytest.raises(DataError, match=r"twice|\[SEP\]"):
        vocab_txt.write_folder(tmp_path / "vocab.txt", tmp_path / "out")


@pytest.mark.shared
def test_a_vocabulary_that_lost_a_line_is_refused(shared: Path, tmp_path: Path) -> None:
    """The shared copy of SciBERT's has 31,089 lines instead of 31,090: [PAD] is gone, and every id is one too small."""
    file = shared / "bert_vocabs" / "scibert_scivocab_uncased-vocab.txt"
    with pytest.raises(DataError, match=r"lacks the special token \[PAD\]"):
        vocab_txt.write_folder(file, tmp_path)


@pytest.fixture(scope="module")
def sentences(shared: Path) -> list[str]:
    """10,000 sentences of the shared abstracts, white-space runs as single blanks."""
    found: list[str] = []
    with gzip.open(shared / "citations" / "works.jsonl.gz") as file:
        for line in file:
            abstract = json.loads(line)["abstract"] or ""
            found += [" ".join(abstract[start:end].split()) for start, end in spans(abstract)]
            if len(found) >= 10_000:
                break
    return found[:10_000]


@pytest.mark.shared
def test_robertas_ids_on_ten_thousand_sentences(shared: Path, tmp_path: Path, sentences: list[str]) -> None:
    from transformers import RobertaTokenizerFast

    ours = fairseq_folder.from_fairseq(*(shared / "gpt2_bpe" / name for name in fairseq.FILES), tmp_path)
    theirs = RobertaTokenizerFast(vocab=str(tmp_path / "vocab.json"), merges=str(tmp_path / "merges.txt"))
    assert len(sentences) == 10_000
    assert ours.encode_batch(sentences) == theirs(sentences, add_special_tokens=False, verbose=False)["input_ids"]


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "lowercase"),
    [("bert-base-cased", False), ("bert-base-uncased", True), ("pubmedbert-28895", True)],
)
def test_berts_ids_on_ten_thousand_sentences(
    shared: Path, tmp_path: Path, sentences: list[str], name: str, lowercase: bool
) -> None:
    from transformers import BertTokenizerFast

    file = shared / "bert_vocabs" / f"{name}-vocab.txt"
    ours = vocab_txt.write_folder(file, tmp_path, settings={"do_lower_case": lowercase})
    theirs = BertTokenizerFast(vocab=str(file), do_lower_case=lowercase)
    assert ours.encode_batch(sentences) == theirs(sentences, add_special_tokens=False, verbose=False)["input_ids"]


def test_gatortrons_pieces_that_become_the_same_one_are_made_up_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pieces = ["<unk>", "<s>", "</s>", "▁", "▁##a", "a", "b", "▁c"]

    def learnt(_counts: object, _config: object, size: int, **_options: object) -> bytes:
        model = sentence_pieces.sentencepiece_model_pb2.ModelProto()
        for piece in pieces[:size]:
            model.pieces.add(piece=piece)
        return bytes(model.SerializeToString())

    monkeypatch.setattr(sentence_pieces, "_train", learnt)
    config = TrainConfig(docs="", out="", kind="gatortron", vocab_size=len(GATORTRON) + 3)
    made = sentence_pieces.learn_gatortron(None, config)  # type: ignore[arg-type]
    folder.write(tmp_path, made.hf, made.settings, made.files)
    assert folder.load(tmp_path).pieces[len(GATORTRON) :] == ["##a", "##b", "c"]
