"""Composer's checkpoints, written here from known weights in the layout of its Trainer and of bert24's FlexBERT."""

import datetime
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch
import transformers

from biomlm.convert.load import load_model
from biomlm.core.errors import CheckpointError

SIZES = {
    "vocab_size": 60,
    "hidden_size": 24,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 64,
}
FLEX = SIZES | {
    "model_type": "bert",
    "attention_layer": "rope",
    "bert_layer": "prenorm",
    "embedding_layer": "sans_pos",
    "mlp_layer": "glu",
    "normalization": "layernorm",
    "norm_kwargs": {"eps": 1e-5, "bias": False},
    "embed_norm": True,
    "final_norm": True,
    "skip_first_prenorm": True,
    "attn_qkv_bias": False,
    "mlp_in_bias": False,
    "hidden_act": "gelu",
    "head_pred_act": "gelu",
    "sliding_window": 12,
    "global_attn_every_n_layers": 3,
    "rotary_emb_base": 160000.0,
    "local_attn_rotary_emb_base": 10000.0,
    "pad_token_id": 0,
}
SPECIALS = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}


@pytest.fixture
def model() -> Any:
    torch.manual_seed(0)
    special = {"cls_token_id": 2, "sep_token_id": 3, "bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 1}
    config = transformers.ModernBertConfig(**SIZES, **special, local_attention=12, global_attn_every_n_layers=3)
    found = transformers.ModernBertForMaskedLM(config).eval()
    with torch.no_grad():
        for parameter in found.parameters():
            parameter.normal_(std=0.15)
    return found


def checkpoint(model: Any, file: Path, config: dict[str, Any] | None, flex: bool = True) -> Path:
    """What Trainer.save_checkpoint writes, with a tokenizer whose padding is not BERT's 0."""
    state = model.state_dict()
    if flex:
        state = {re.sub(r"^model\.", "bert.", name): value for name, value in state.items()}
        state = {name.replace("bert.layers", "bert.encoder.layers"): value for name, value in state.items()}
    pieces = {
        piece: i
        for i, piece in enumerate(["[UNK]", "[PAD]", "[CLS]", "[SEP]", "[MASK]", *(f"w{i}" for i in range(55))])
    }
    words = tokenizers.BertWordPieceTokenizer(pieces)
    settings = SPECIALS | {"tokenizer_class": "PreTrainedTokenizerFast", "do_lower_case": True, "model_max_length": 64}
    tokenizer = {
        "tokenizer": {"file_extension": ".json", "content": json.loads(words.to_str())},
        "tokenizer_config": {"file_extension": ".json", "content": settings},
        "../climbs": {"file_extension": ".json", "content": {}},
    }
    config_entry = {
        "config": {"file_extension": ".json", "content": config, "class": "src.bert_layers.FlexBertForMaskedLM"}
    }
    inner = {
        "model": {f"model.{name}": value for name, value in state.items()},
        "integrations": {"huggingface": {"model": config_entry, "tokenizer": tokenizer}} if config else {},
        "timestamp": {"Timestamp": {"batch": 7, "total_wct": datetime.timedelta(seconds=3)}},
    }
    torch.save({"state": inner, "rng": [{"torch": torch.get_rng_state()}]}, file)
    return file


def test_modernbert_as_it_was_trained(model: Any, tmp_path: Path, convert: Callable[..., Path]) -> None:
    source = checkpoint(model, tmp_path / "latest-rank0.pt", FLEX)
    loaded = load_model(source)
    assert loaded.kind == "composer"
    assert loaded.config.pad_token_id == 1
    target = convert(source, "hf")
    read = transformers.ModernBertForMaskedLM.from_pretrained(target, local_files_only=True).eval()
    expected = model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in read.state_dict().items())
    ids = torch.randint(5, 60, (2, 40))
    with torch.inference_mode():
        torch.testing.assert_close(read(ids).logits, model(ids).logits, atol=1e-5, rtol=0)
    assert transformers.AutoTokenizer.from_pretrained(target, local_files_only=True)("w3")["input_ids"] == [2, 8, 3]
    assert not list(tmp_path.rglob("climbs*"))


def test_a_class_of_transformers_and_a_configuration_beside(model: Any, tmp_path: Path) -> None:
    loaded = load_model(checkpoint(model, tmp_path / "a.pt", model.config.to_dict(), flex=False))
    bare = checkpoint(model, tmp_path / "b.pt", None)
    with pytest.raises(CheckpointError, match="does not hold its model's configuration"):
        load_model(bare)
    model.config.save_pretrained(tmp_path)
    beside = load_model(bare).model.state_dict()
    assert all(torch.equal(value, beside[name]) for name, value in loaded.model.state_dict().items())


@pytest.mark.parametrize(
    ("key", "value"),
    [("attention_layer", "absolute"), ("mlp_layer", "mlp"), ("attn_qkv_bias", True), ("norm_kwargs", {"bias": True})],
)
def test_what_modernbert_does_not_compute_is_refused(model: Any, key: str, value: object, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError):
        load_model(checkpoint(model, tmp_path / "a.pt", FLEX | {key: value}))
