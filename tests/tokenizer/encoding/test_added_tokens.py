"""Tokens that were added to a vocabulary: shards hold the ids that transformers gives for the sentence, whatever the token looks like."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken
from tokenizers import Tokenizer as HuggingFace
from transformers import AutoTokenizer

from biomlm.core import cli
from biomlm.core.files import read_json, write_json
from biomlm.tokenizer.encoding.tiktoken_bpe import TiktokenBpe
from biomlm.tokenizer.encoding.word_cache import END, WordCache
from biomlm.tokenizer.formats import folder

KINDS = {
    "bpe": (),
    "wordpiece": (),
    "uncased": ("--kind", "wordpiece", "--lowercase"),
    "sentencepiece-bpe": (),
    "sentencepiece-unigram": (),
}


@pytest.fixture(scope="module")
def kinds(docs: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    base = tmp_path_factory.mktemp("kinds")
    for kind, more in KINDS.items():
        words = ["tokenizer", "train", "--docs", str(docs), "--out", str(base / kind), "--workers", "1"]
        assert cli.run([*words, "--vocab_size", "1500", *(more or ("--kind", kind))]) == 0
    return {kind: base / kind for kind in KINDS}


@pytest.fixture
def adding(tmp_path: Path) -> Callable[[Path, list[AddedToken]], Path]:
    """A tokenizer folder with more tokens in it, as `add_tokens` and `save_pretrained` leave it."""

    def add(source: Path, tokens: list[AddedToken]) -> Path:
        target = tmp_path / f"{source.name}-added"
        target.mkdir(exist_ok=True)
        hf = HuggingFace.from_file(str(source / "tokenizer.json"))
        hf.add_tokens(tokens)
        hf.save(str(target / "tokenizer.json"))
        stated = {k: v for k, v in read_json(source / "tokenizer_config.json").items() if k != "added_tokens_decoder"}
        write_json(target / "tokenizer_config.json", stated)
        return target

    return add


def shard_ids(tokenizer: folder.Tokenizer, sentence: str) -> list[int]:
    """The ids that `tokenizer encode` writes for a sentence behind another, without the closing one."""
    words = sentence.split()
    units = words if tokenizer.splits_at_blanks else [" ".join(words)]
    return WordCache(tokenizer).encode([*units, END])[0].tolist()[:-1]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "token",
    [
        AddedToken("of the patient"),
        AddedToken("aspirin"),
        AddedToken("was", rstrip=True),
        AddedToken("was", lstrip=True, normalized=False),
        AddedToken("the", single_word=True),
    ],
    ids=lambda token: f"{token.content}{'<' * token.lstrip}{'>' * token.rstrip}",
)
def test_shards_hold_what_transformers_reads(
    kinds: dict[str, Path], kind: str, token: AddedToken, adding: Callable[[Path, list[AddedToken]], Path]
) -> None:
    place = adding(kinds[kind], [token])
    ours, theirs = folder.load(place), AutoTokenizer.from_pretrained(place)
    sentence = " The aspirin of the patient was given aspirin, of  the patients; was there."
    text = " " + " ".join(sentence.split())
    expected = theirs(text, add_special_tokens=False)["input_ids"]
    assert theirs.convert_tokens_to_ids(token.content) in expected
    assert ours.encode(text) == expected
    assert shard_ids(ours, sentence) == expected


@pytest.mark.parametrize("kind", KINDS)
def test_shards_are_tokenizer_encode_for_any_added_tokens(
    kinds: dict[str, Path], kind: str, adding: Callable[[Path, list[AddedToken]], Path]
) -> None:
    words = st.sampled_from(["the", "of", "heart", "a", "Asp", "in,", "(he", "é", "0"])
    tokens = st.builds(
        AddedToken,
        st.lists(words, min_size=1, max_size=3).map(" ".join),
        lstrip=st.booleans(),
        rstrip=st.booleans(),
        single_word=st.booleans(),
        normalized=st.booleans(),
    )

    @settings(max_examples=10, deadline=None)
    @given(st.lists(tokens, min_size=1, max_size=3), st.lists(words, min_size=1, max_size=8))
    def check(added: list[AddedToken], sentence: list[str]) -> None:
        tokenizer = folder.load(adding(kinds[kind], added))
        text = " " + " ".join(sentence)
        assert shard_ids(tokenizer, text) == tokenizer.encode(text)

    check()


def test_without_added_tokens_words_go_the_quick_way(kinds: dict[str, Path]) -> None:
    assert TiktokenBpe.applies(folder.load(kinds["bpe"]))
    assert all(folder.load(kinds[kind]).splits_at_blanks for kind in KINDS)
