"""BERT, MegatronBERT and ModernBERT: random models of odd sizes, against transformers' own classes."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch
import transformers
from safetensors.torch import load_file, save_file

from biomlm.convert.commands.fill import fill
from biomlm.convert.load import build, load_model
from biomlm.core.errors import CheckpointError, MismatchError
from biomlm.model.packed import unpad
from biomlm.tokenizer.formats import folder as tokenizer_folder

Convert = Callable[..., Path]
SIZES = {
    "vocab_size": 89,
    "hidden_size": 36,
    "num_hidden_layers": 4,
    "num_attention_heads": 3,
    "intermediate_size": 52,
    "max_position_embeddings": 70,
    "pad_token_id": 0,
}
SPECIAL = {"cls_token_id": 2, "sep_token_id": 3, "bos_token_id": 2, "eos_token_id": 3}
ROBERTA = SIZES | {"pad_token_id": 1, "max_position_embeddings": 72, "type_vocab_size": 2, "layer_norm_eps": 1e-5}
KINDS: dict[str, Callable[[], Any]] = {
    "roberta-prelayernorm": lambda: transformers.RobertaPreLayerNormForMaskedLM(
        transformers.RobertaPreLayerNormConfig(**ROBERTA)
    ),
    "bert": lambda: transformers.BertForPreTraining(transformers.BertConfig(**SIZES)),
    "megatron-bert": lambda: transformers.MegatronBertForPreTraining(transformers.MegatronBertConfig(**SIZES)),
    "modernbert": lambda: transformers.ModernBertForMaskedLM(
        transformers.ModernBertConfig(**SIZES, **SPECIAL, local_attention=12, global_attn_every_n_layers=2)
    ),
}


@pytest.fixture(params=list(KINDS))
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    torch.manual_seed(0)
    model = KINDS[request.param]().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(mean=float(parameter.ndim == 1 and name.endswith("weight")), std=0.15)
    model.save_pretrained(tmp_path / request.param)
    return Path(tmp_path / request.param)


def test_native_logits_equal_transformers(folder: Path) -> None:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(5, 89, (3, 60), generator=generator)
    real = torch.arange(60) < torch.tensor([60, 31, 2])[:, None]
    theirs = transformers.AutoModelForMaskedLM.from_pretrained(folder, local_files_only=True).eval()
    loaded = load_model(folder)
    assert loaded.config.shape == folder.name
    with torch.inference_mode():
        expected = theirs(torch.where(real, ids, loaded.config.pad_token_id), attention_mask=real.long()).logits[real]
        logits = loaded.model(unpad(ids, real))
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)


def test_round_trip_is_bit_equal_with_every_head(folder: Path, convert: Convert) -> None:
    back = convert(convert(folder, "native"), "hf", "back")
    before, after = load_file(folder / "model.safetensors"), load_file(back / "model.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    ours, theirs = (transformers.AutoConfig.from_pretrained(path, local_files_only=True) for path in (back, folder))
    for name in ("layer_types", "rope_parameters", "local_attention", "layer_norm_eps", "norm_eps", *SIZES):
        assert getattr(ours, name, None) == getattr(theirs, name, None), name


def test_fairseq_has_none_of_them(folder: Path, convert: Convert, tmp_path: Path) -> None:
    with pytest.raises(MismatchError, match="fairseq has no"):
        convert(folder, "fairseq")
    assert not list(tmp_path.glob("*fairseq*"))


def test_a_missing_and_a_surplus_tensor_are_named(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    name = next(name for name in tensors if "layer" in name and name.endswith("weight"))
    save_file({k: v for k, v in tensors.items() if k != name}, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=f"{name} is missing"):
        load_model(folder)
    save_file({**tensors, "adapter.weight": torch.ones(1)}, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"adapter\.weight is unexpected"):
        load_model(folder)


@pytest.mark.parametrize("name", ["gelu_new", "gelu_pytorch_tanh"])
def test_gelu_by_tanh_equals_transformers_and_survives(folder: Path, name: str, convert: Convert) -> None:
    stated = json.loads((folder / "config.json").read_text())
    keys = ("hidden_activation", "classifier_activation") if folder.name == "modernbert" else ("hidden_act",)
    (folder / "config.json").write_text(json.dumps(stated | dict.fromkeys(keys, name)))
    ids = torch.randint(5, 89, (1, 40))
    theirs = transformers.AutoModelForMaskedLM.from_pretrained(folder, local_files_only=True).eval()
    native = convert(folder, "native")
    loaded = load_model(native)
    assert loaded.config.activation == "gelu_tanh"
    with torch.inference_mode():
        expected, exact = (
            theirs(ids).logits[0],
            build(replace(loaded.config, activation="gelu"), loaded.model.state_dict()),
        )
        torch.testing.assert_close(loaded.model(unpad(ids, ids > 0)), expected, atol=1e-5, rtol=1e-5)
        assert (exact(unpad(ids, ids > 0)) - expected).abs().max() > 1e-4, "the two do not differ here"
    back = json.loads((convert(native, "hf", "back") / "config.json").read_text())
    assert all(back[key] == "gelu_new" for key in keys)


def test_the_first_berts_names_of_layer_norm(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = transformers.BertForPreTraining(transformers.BertConfig(**SIZES))
    model.save_pretrained(tmp_path)
    expected = load_model(tmp_path).model.state_dict()
    (tmp_path / "model.safetensors").unlink()
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): value
        for name, value in model.state_dict().items()
    }
    assert any(name.endswith("gamma") for name in old)
    torch.save(old, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    found = load_model(tmp_path).model.state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_modernberts_configuration_of_both_transformers(tmp_path: Path) -> None:
    KINDS["modernbert"]().save_pretrained(tmp_path)
    new = json.loads((tmp_path / "config.json").read_text())
    expected = load_model(tmp_path).config
    assert (expected.local_window, expected.global_every) == (6, 2)
    old = {name: value for name, value in new.items() if name not in ("layer_types", "rope_parameters")}
    old |= {"global_attn_every_n_layers": 2, "global_rope_theta": 160000.0, "local_rope_theta": 10000.0}
    (tmp_path / "config.json").write_text(json.dumps(old))
    assert load_model(tmp_path).config == expected
    irregular = ["full_attention", "sliding_attention", "sliding_attention", "full_attention", "full_attention"]
    (tmp_path / "config.json").write_text(json.dumps({**new, "layer_types": irregular[-4:]}))
    with pytest.raises(CheckpointError, match="regular"):
        load_model(tmp_path)


SPECIAL_PIECES = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
PIECES = ("the", "patient", "has", "cough", "##s", ".", *"abcdefghijklmnopqrstuvwxyz")


@pytest.fixture
def word_pieces() -> tokenizers.Tokenizer:
    vocab = {
        piece: i for i, piece in enumerate((*SPECIAL_PIECES, *PIECES, *(f"##{c}" for c in PIECES[6:] if c != "s")))
    }
    return tokenizers.BertWordPieceTokenizer(vocab, lowercase=True)


def test_word_pieces_and_casing_go_along(tmp_path: Path, convert: Convert, word_pieces: Any) -> None:
    torch.manual_seed(0)
    transformers.BertForMaskedLM(transformers.BertConfig(**SIZES)).save_pretrained(tmp_path / "bert")
    word_pieces.save(str(tmp_path / "bert" / "tokenizer.json"))
    settings = {
        "tokenizer_class": "BertTokenizer",
        "do_lower_case": True,
        "model_max_length": 70,
        "mask_token": "[MASK]",
    }
    settings |= {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]", "unk_token": "[UNK]"}
    (tmp_path / "bert" / "tokenizer_config.json").write_text(json.dumps(settings))
    native = convert(tmp_path / "bert", "native")
    back = convert(native, "hf", "back")
    theirs = transformers.AutoTokenizer.from_pretrained(back, local_files_only=True)
    assert theirs.tokenize("The PATIENT has coughs.") == ["the", "patient", "has", "cough", "##s", "."]
    assert theirs.model_max_length == 70
    cut = convert(native, "hf", "cut", rows="cut")
    loaded = load_model(cut)
    assert loaded.config.vocab_size == theirs.vocab_size < 89
    assert loaded.tokenizer_dir is not None
    fills = fill(loaded, tokenizer_folder.load(loaded.tokenizer_dir), "the patient has <mask>.", 3)
    said = transformers.pipeline("fill-mask", model=str(cut), top_k=3)("the patient has [MASK].")
    assert [f["probability"] for f in fills[0]] == pytest.approx([s["score"] for s in said], rel=1e-4)
    assert [f["token"] for f in fills[0]] == [s["token_str"] for s in said]
