"""A pattern of words in a `tokenizer.json` cuts as the rule does, and the pieces have the ids and the places of training."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, pre_tokenizers
from tokenizers import Tokenizer as HuggingFace

from biomlm.convert.formats import hf_cutting
from biomlm.tokenizer.encoding.cutting import Cutting
from biomlm.tokenizer.formats import bert, fairseq_folder, folder

BPE = Path(__file__).parents[2] / "data" / "convert" / "bpe"
MARKS = "-.(_,/'"
RULES = st.builds(
    Cutting,
    apart=st.booleans(),
    **{
        name: st.sets(st.sampled_from(MARKS)).map(lambda marks: "".join(sorted(marks)))
        for name in ("inside", "front", "end")
    },
)
# no more marks in a row than the pattern looks behind, and no character that the two libraries' tables of Unicode class otherwise
WORDS = st.lists(st.text("aB1é患β-.(_,/'°", max_size=8), max_size=8)
TEXTS = st.tuples(WORDS, st.sampled_from([" ", "  ", "\n", "\r\n", "\u00a0", "\u2009", "\t \x1f"])).map(
    lambda t: t[1].join(t[0])
)


@pytest.fixture(scope="module")
def bpe(tmp_path_factory: pytest.TempPathFactory) -> folder.Tokenizer:
    folder_of_it = tmp_path_factory.mktemp("bpe")
    return fairseq_folder.from_fairseq(BPE / "dict.txt", BPE / "encoder.json", BPE / "vocab.bpe", folder_of_it)


@pytest.fixture(scope="module")
def word_pieces() -> folder.Tokenizer:
    letters = "abé1患β-.(_,/'°"
    vocab = {piece: i for i, piece in enumerate([*bert.SPECIALS, *letters, *(f"##{x}" for x in letters)])}
    hf = bert.hugging_face(vocab, lowercase=True, strip_accents=False)
    return folder.Tokenizer(hf, folder.SpecialIds(bos=2, pad=0, eos=3, unk=1, mask=4), len(vocab), "", {})


@given(RULES, TEXTS)
def test_the_pattern_cuts_as_the_rule(rule: Cutting, text: str) -> None:
    split = pre_tokenizers.Split(Regex(hf_cutting.words(rule)), behavior="removed", invert=True)
    assert [place for _, place in split.pre_tokenize_str(text)] == rule.words(text)


@pytest.mark.parametrize("kind", ["bpe", "word_pieces"])
@settings(max_examples=60)
@given(rule=RULES, text=TEXTS)
def test_pieces_have_the_ids_and_places_of_training(kind: str, rule: Cutting, text: str, request: Any) -> None:
    tokenizer: folder.Tokenizer = request.getfixturevalue(kind)
    state = hf_cutting.cut_as_trained(tokenizer.state, rule)
    assert state
    encoding = HuggingFace.from_str(json.dumps(state)).encode(text, add_special_tokens=False)
    wanted, owners = [], []
    for word, place in zip(rule.spelled(text), rule.words(text), strict=True):
        ids = tokenizer.hf.encode(word, add_special_tokens=False).ids
        wanted += ids
        owners += [place] * len(ids)
    assert encoding.ids == wanted
    for (start, stop), (first, last) in zip(encoding.offsets, owners, strict=True):
        assert first - 1 <= start <= stop <= last  # a piece may be the blank before its word
        assert text[start:stop].strip() in text[first:last]


def test_other_kinds_are_left_as_they_are(bpe: folder.Tokenizer) -> None:
    assert hf_cutting.cut_as_trained({**bpe.state, "pre_tokenizer": {"type": "Metaspace"}}, Cutting()) is None
