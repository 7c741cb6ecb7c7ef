"""The dictionary's order, wherever fairseq's BPE lies and wherever `<mask>` stands: against fairseq's ids and transformers' classes."""

import json
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import ByteLevelBPETokenizer, pre_tokenizers
from transformers import AutoModelForMaskedLM, AutoTokenizer, RobertaConfig, RobertaForMaskedLM

from biomlm.convert.load import load_model
from biomlm.convert.safe_load import torch_file
from biomlm.core.errors import DataError, MismatchError

DATA = Path(__file__).parents[2] / "data" / "convert"
Convert = Callable[..., Path]
Expected = list[tuple[str, list[int]]]
SPECIALS = ["<s>", "<pad>", "</s>", "<unk>"]


@pytest.fixture(scope="module")
def expected() -> Expected:
    """Texts and what the real fairseq's BPE and dictionary make of them."""
    entries = json.loads((DATA / "ids.json").read_text(encoding="utf-8"))
    return [(entry["text"], entry["ids"]) for entry in entries]


def dictionary(file: Path) -> dict[str, int]:
    """Symbol → id, as fairseq's `Dictionary.load` and the masked-LM task's `add_symbol("<mask>")` number them."""
    symbols = list(SPECIALS)
    for line in file.read_text().splitlines():
        symbols.append(line.rsplit(" ", 1)[0])
    return {symbol: i for i, symbol in enumerate([*symbols, *([] if "<mask>" in symbols else ["<mask>"])])}


def read_by_transformers(folder: Path, text: str) -> list[int]:
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    known = 505
    return [3 if i >= known else i for i in tokenizer(text, verbose=False)["input_ids"]]


def as_hf_byte_bpe(golden: Path, folder: Path) -> None:
    """fairseq's `--bpe hf_byte_bpe`: the same BPE, its numbers in `vocab.json`, its merges in `merges.txt`."""
    folder.mkdir(exist_ok=True)
    (golden / "encoder.json").rename(folder / "vocab.json")
    (golden / "vocab.bpe").rename(folder / "merges.txt")


@pytest.mark.parametrize("place", ["beside", "elsewhere"])
def test_hf_byte_bpe_is_numbered_by_the_dictionary(
    place: str, one_golden: Path, tmp_path: Path, convert: Convert, expected: Expected
) -> None:
    folder = one_golden if place == "beside" else tmp_path / "bpe"
    as_hf_byte_bpe(one_golden, folder)
    theirs, ids = (
        ByteLevelBPETokenizer(str(folder / "vocab.json"), str(folder / "merges.txt")),
        dictionary(one_golden / "dict.txt"),
    )
    options = {} if place == "beside" else {"tokenizer": str(folder)}
    for to in ("hf", "fairseq"):
        written = convert(one_golden, to, to, **options)
        again = convert(written, "hf", f"{to}-again")
        for text, of_fairseq in expected:
            assert [0, *(ids.get(str(i), 3) for i in theirs.encode(text).ids), 2] == of_fairseq
            assert read_by_transformers(again, text) == of_fairseq


def test_a_hugging_face_folder_has_the_models_ids_already(
    one_golden: Path, tmp_path: Path, convert: Convert, expected: Expected
) -> None:
    whole = convert(one_golden, "hf", "whole")
    for name in ("encoder.json", "vocab.bpe"):
        (one_golden / name).unlink()
    for kept in (("vocab.json", "merges.txt"), ("tokenizer.json",)):
        bpe = tmp_path / kept[0]
        bpe.mkdir()
        for name in kept:
            (bpe / name).write_bytes((whole / name).read_bytes())
        given = convert(one_golden, "hf", f"given-{kept[0]}", tokenizer=str(bpe))
        for text, ids in expected:
            assert read_by_transformers(given, text) == ids


def test_a_dictionary_of_other_numbers_is_refused(one_golden: Path, tmp_path: Path, convert: Convert) -> None:
    """Neither numbering explains it; or the tokenizer's ids are other than the dictionary's."""
    whole = convert(one_golden, "hf", "whole")
    for name in ("encoder.json", "vocab.bpe"):
        (one_golden / name).unlink()
    first, second, *rest = (one_golden / "dict.txt").read_text().splitlines()
    (one_golden / "dict.txt").write_text("\n".join([second, first, *rest]) + "\n")
    for kept in (("vocab.json", "merges.txt"), ("tokenizer.json",)):
        bpe = tmp_path / kept[0]
        bpe.mkdir()
        for name in kept:
            (bpe / name).write_bytes((whole / name).read_bytes())
        with pytest.raises(DataError, match=r"dict\.txt"):
            convert(one_golden, "hf", "given", tokenizer=str(bpe))


def test_without_a_dictionary_an_order_of_learning_is_refused(
    one_golden: Path, tmp_path: Path, convert: Convert
) -> None:
    as_hf_byte_bpe(one_golden, tmp_path / "bpe")
    vocab = json.loads((tmp_path / "bpe" / "vocab.json").read_text())
    learnt = sorted(vocab, key=vocab.__getitem__)
    numbered = [*SPECIALS, *learnt, "<mask>"]
    (tmp_path / "bpe" / "vocab.json").write_text(json.dumps({piece: i for i, piece in enumerate(numbered)}))
    (one_golden / "dict.txt").unlink()
    with pytest.raises(MismatchError, match=r"there is no dict\.txt"):
        convert(one_golden, "hf", tokenizer=str(tmp_path / "bpe"))


def test_a_mask_inside_fairseqs_dictionary(one_golden: Path, convert: Convert, expected: Expected) -> None:
    """The model with its mask row moved is the same model, and reads `<mask>` as that row."""
    usual, heads, at = convert(one_golden, "hf", "usual"), load_model(one_golden).config.num_attention_heads, 100
    lines = (one_golden / "dict.txt").read_text().splitlines()
    (one_golden / "dict.txt").write_text("\n".join([*lines[: at - 4], "<mask> 7", *lines[at - 4 :]]) + "\n")
    order = [*range(at), 504, *range(at, 504)]  # new id → old id
    state = torch_file.load(one_golden / "checkpoint_best.pt")
    rows = ("embed_tokens.weight", "lm_head.weight", "lm_head.bias")
    state["model"] = {k: v[order] if k.endswith(rows) and len(v) == 505 else v for k, v in state["model"].items()}
    torch.save({"args": Namespace(encoder_attention_heads=heads), "model": state["model"]}, one_golden / "moved")
    (one_golden / "moved").replace(one_golden / "checkpoint_best.pt")  # what is read is a view of the old file
    for moved in (
        convert(one_golden, "hf", "moved"),
        convert(convert(one_golden, "fairseq", "fairseq"), "hf", "moved-again"),
    ):
        tokenizer = AutoTokenizer.from_pretrained(moved, local_files_only=True)
        assert (tokenizer.mask_token_id, dictionary(moved / "dict.txt")["<mask>"]) == (at, at)
        for text, ids in expected:
            assert read_by_transformers(moved, text) == [order.index(i) for i in ids]
        logits = []
        for folder in (usual, moved):
            ids = AutoTokenizer.from_pretrained(folder)("The<mask> was", return_tensors="pt")
            with torch.inference_mode():
                logits.append(AutoModelForMaskedLM.from_pretrained(folder)(**ids).logits)
        torch.testing.assert_close(logits[1][..., :505], logits[0][..., order], atol=1e-5, rtol=1e-5)


@pytest.fixture
def mask_at_four(tmp_path: Path) -> Path:
    """A RoBERTa whose tokenizer was learnt with all special tokens in front, as transformers' own examples do it."""
    folder = tmp_path / "mask4"
    merges = [("Ġ", "t"), ("Ġt", "h"), ("Ġth", "e")]
    pieces = [*SPECIALS, "<mask>", *sorted(pre_tokenizers.ByteLevel.alphabet()), *map("".join, merges)]
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = RobertaConfig(
        vocab_size=len(pieces), **sizes, intermediate_size=32, max_position_embeddings=34, type_vocab_size=1
    )
    config.layer_norm_eps = 1e-5
    RobertaForMaskedLM(config).save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps({piece: i for i, piece in enumerate(pieces)}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "RobertaTokenizer"}')
    return folder


def test_a_mask_that_is_not_last_goes_to_fairseq_and_back(mask_at_four: Path, convert: Convert) -> None:
    written = convert(mask_at_four, "fairseq")
    ids = dictionary(written / "dict.txt")
    encoder = json.loads((written / "encoder.json").read_text())
    theirs = AutoTokenizer.from_pretrained(mask_at_four, local_files_only=True)
    assert ids["<mask>"] == theirs.mask_token_id == 4
    for piece, i in json.loads((mask_at_four / "vocab.json").read_text()).items():
        assert ids[str(encoder.get(piece, piece))] == i
    back = AutoTokenizer.from_pretrained(convert(written, "hf", "back"), local_files_only=True)
    assert back("x the<mask> é").input_ids == theirs("x the<mask> é").input_ids


def fairseqs_merges(file: Path) -> list[tuple[str, ...]]:
    """As `get_encoder` in fairseq's gpt2_bpe_utils reads a `vocab.bpe`."""
    return [tuple(line.split()) for line in file.read_text(encoding="utf-8").split("\n")[1:-1]]


@pytest.mark.parametrize("cut", ["header", "last line break"])
def test_merges_that_fairseq_passes_over_are_not_applied(cut: str, one_golden: Path, convert: Convert) -> None:
    file = one_golden / "vocab.bpe"
    text = file.read_text(encoding="utf-8")
    file.write_text(text.split("\n", 1)[1] if cut == "header" else text.removesuffix("\n"), encoding="utf-8")
    merges = fairseqs_merges(file)
    assert len(merges) == len(text.split("\n")) - 3
    encoder = json.loads((one_golden / "encoder.json").read_text())
    theirs, ids = ByteLevelBPETokenizer(encoder, merges), dictionary(one_golden / "dict.txt")  # type: ignore[arg-type]
    written = convert(one_golden, "hf")
    lost = set(map(tuple, (line.split() for line in text.split("\n")[1:-1]))) - set(merges)
    texts = ["The patient was treated", "".join(next(iter(lost))).replace("Ġ", " "), "of the"]
    for text in texts:
        assert read_by_transformers(written, text) == [0, *(ids.get(str(i), 3) for i in theirs.encode(text).ids), 2]
