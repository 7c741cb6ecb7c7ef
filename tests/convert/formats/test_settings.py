"""Settings of foreign checkpoints by which they compute something else: read, or refused by name."""

import json
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from biomlm.convert.formats import megatron
from biomlm.convert.load import load_model
from biomlm.convert.safe_load import torch_file
from biomlm.core.errors import CheckpointError

Convert = Callable[..., Path]


def told(golden: Path, **settings: object) -> Path:
    """A golden checkpoint with other settings of the training."""
    heads, file = load_model(golden).config.num_attention_heads, golden / "checkpoint_best.pt"
    args = Namespace(encoder_attention_heads=heads, **settings)
    torch.save({"args": args, "model": torch_file.load(file)["model"]}, golden / "new")
    (golden / "new").replace(file)
    return golden


@pytest.mark.parametrize("activation", ["relu", "gelu", "linear"])
def test_a_pooler_with_another_activation_than_tanh_is_refused(activation: str, omegaconf_golden: Path) -> None:
    with pytest.raises(CheckpointError, match=f"pooler_activation_fn is '{activation}'"):
        load_model(told(omegaconf_golden, pooler_activation_fn=activation))


def test_it_does_not_matter_without_a_head(one_golden: Path) -> None:
    assert load_model(told(one_golden, pooler_activation_fn="relu")).kind == "fairseq"
    with pytest.raises(CheckpointError, match="no_scale_embedding is False"):
        load_model(told(one_golden, no_scale_embedding=False))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("auto_map", {"AutoModel": "own.Model"}),
        ("pooler_act", "gelu"),
        ("pooler_activation", "relu"),
        ("rope_scaling", {"type": "linear", "factor": 2.0}),
        ("alibi_starting_size", 512),
        ("scale_embedding", True),
    ],
)
def test_a_configuration_of_a_fork_is_refused(key: str, value: object, hf_folder: Path, convert: Convert) -> None:
    stated = json.loads((hf_folder / "config.json").read_text())
    (hf_folder / "config.json").write_text(json.dumps(stated | {key: value}))
    with pytest.raises(CheckpointError, match=key):
        convert(hf_folder, "native")


@pytest.mark.parametrize("changed", [{"rope_type": "linear", "factor": 2.0}, {"partial_rotary_factor": 0.5}])
def test_other_rotary_positions_are_refused(changed: dict[str, Any], tmp_path: Path) -> None:
    sizes = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    ids = {"cls_token_id": 2, "sep_token_id": 3, "bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 1}
    config = transformers.ModernBertConfig(**sizes, **ids, intermediate_size=24)
    transformers.ModernBertForMaskedLM(config).save_pretrained(tmp_path)
    assert load_model(tmp_path).kind == "hf"
    stated = json.loads((tmp_path / "config.json").read_text())
    stated["rope_parameters"]["full_attention"] |= changed
    (tmp_path / "config.json").write_text(json.dumps(stated))
    with pytest.raises(CheckpointError, match="rotary positions of full_attention"):
        load_model(tmp_path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("apply_residual_connection_post_layernorm", True),
        ("apply_layernorm_1p", True),
        ("normalization", "RMSNorm"),
        ("position_embedding_type", "rope"),
    ],
)
def test_arguments_of_another_megatron_are_refused(name: str, value: object, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=name):
        megatron._config({"hidden_size": 8, name: value}, tmp_path)
