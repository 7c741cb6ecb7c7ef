"""The settings of fairseq's trainings, read into the native configuration and written from it."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from biomlm.convert.formats.source_checkpoint import sane
from biomlm.convert.names.fairseq import ARCHITECTURES, E_, HEADS, VERSION
from biomlm.convert.names.table import count_layers
from biomlm.convert.safe_load.unpickle import entries
from biomlm.core.errors import CheckpointError
from biomlm.model.config import Activation, EncoderConfig, Shape
from biomlm.model.shapes import SHAPES

PAD = 1  # fairseq's Dictionary: <s> 0, <pad> 1, </s> 2, <unk> 3
EPS = 1e-5  # fairseq leaves torch.nn.LayerNorm's default
DEMANDS = {
    "no_scale_embedding": True,
    "no_token_positional_embeddings": False,
}  # under which fairseq computes what the native model does
HEAD_DEMANDS = {
    "pooler_activation_fn": "tanh",
    "spectral_norm_classification_head": False,
}  # and its classification heads
ACTIVATIONS: dict[str, Activation] = {  # fairseq/utils.py, get_activation_fn
    "gelu": "gelu",
    "gelu_accurate": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
}


def flat(state: Mapping[str, Any]) -> dict[str, Any]:
    """Read the training's settings, flat: from `args` (before 0.10), or from the sections of `cfg`, the model's last."""
    sections = entries(state.get("cfg"))
    merged: dict[str, Any] = {}
    for name in (*(n for n in sections if n != "model"), "model"):
        merged |= entries(sections.get(name))
    return {**merged, **entries(state.get("args"))}


def encoder_config(tensors: Mapping[str, Tensor], settings: Mapping[str, Any], file: Path) -> EncoderConfig:
    """Read the encoder's shape from its tensors; the number of heads, which they do not show, from the settings.

    Raises:
        CheckpointError: It is no RoBERTa, or one that the native model cannot compute.
    """
    words, positions = tensors.get(f"{E_}.embed_tokens.weight"), tensors.get(f"{E_}.embed_positions.weight")
    up = tensors.get(f"{E_}.layers.0.fc1.weight")
    arch = settings.get("arch") or settings.get("_name")
    if words is None or positions is None or up is None or words.ndim != 2 or positions.ndim != 2 or up.ndim != 2:
        other = f" but {arch}" if isinstance(arch, str) else ""
        remedy = "Give an encoder; BART, decoders and others cannot be converted."
        raise refused(file, f"this is not fairseq's RoBERTa{other}", remedy)
    if settings.get("untie_weights_roberta", False) is not False:
        raise refused(file, "its decoder is not tied to the embeddings", "Give a model with a tied decoder.")
    classifies = any(name.startswith(HEADS) for name in tensors)
    for name, demanded in {**DEMANDS, **(HEAD_DEMANDS if classifies else {})}.items():
        if settings.get(name, demanded) != demanded:
            problem = f"its {name} is {settings[name]!r}"
            raise refused(file, problem, f"Only {demanded!r} is computed alike everywhere.")
    activation = settings.get("activation_fn", "gelu")
    if not isinstance(activation, str) or activation not in ACTIVATIONS:
        raise refused(file, f"its activation_fn is {activation!r}", f"{', '.join(ACTIVATIONS)} can be converted.")
    heads = settings.get("encoder_attention_heads")
    if type(heads) is not int or heads < 1 or words.shape[1] % heads:
        remedy = "Give the file that fairseq-train wrote, with its settings (`args` or `cfg`)."
        raise refused(file, "its settings do not say how many attention heads there are", remedy)
    config = EncoderConfig(
        vocab_size=words.shape[0],
        hidden_size=words.shape[1],
        num_hidden_layers=count_layers(list(tensors), rf"{re.escape(E_)}\.layers\.(\d+)\."),
        num_attention_heads=heads,
        intermediate_size=up.shape[0],
        max_positions=positions.shape[0] - PAD - 1,
        hidden_dropout=_number(settings.get("dropout"), 0.1),
        attention_dropout=_number(settings.get("attention_dropout"), 0.1),
        layer_norm_eps=EPS,
        pad_token_id=PAD,
        shape=_shape(tensors, file),
        activation=ACTIVATIONS[activation],
        head_activation=ACTIVATIONS[activation],
    )
    return sane(config, file)


def _shape(tensors: Mapping[str, Tensor], file: Path) -> Shape:
    """Tell RoBERTa from the two kinds of prenorm by the norms that there are."""
    pre_norm, first = f"{E_}.layer_norm.weight" in tensors, f"{E_}.layernorm_embedding.weight" in tensors
    version = tensors.get(VERSION, torch.ones(1)).flatten()
    if pre_norm and (not len(version) or not version[0] >= 2):
        problem = "it is a prenorm model of before version 2, whose final norm fairseq leaves out"
        raise refused(file, problem, "Load and save it with fairseq 0.12 first.")
    fitting = [shape for shape in ARCHITECTURES if SHAPES[shape].pre_norm == pre_norm]
    return next((shape for shape in fitting if SHAPES[shape].embedding_norm == first), fitting[0])


def _number(value: Any, default: float) -> float:
    return float(value) if isinstance(value, (int, float)) else default


def of(config: EncoderConfig) -> dict[str, Any]:
    """Give the settings that fairseq needs to build the same model: the names of `roberta_base` in `fairseq/models/roberta/model.py`."""
    return {
        "arch": ARCHITECTURES[config.shape],
        "task": "masked_lm",
        "criterion": "masked_lm",
        "seed": 1,  # 0.10's task asks for it
        "data": ".",
        "encoder_layers": config.num_hidden_layers,
        "encoder_embed_dim": config.hidden_size,
        "encoder_ffn_embed_dim": config.intermediate_size,
        "encoder_attention_heads": config.num_attention_heads,
        "max_positions": config.max_positions,
        "tokens_per_sample": config.max_positions,
        "dropout": config.hidden_dropout,
        "attention_dropout": config.attention_dropout,
        "activation_dropout": 0.0,
        "pooler_dropout": 0.0,
        "encoder_layerdrop": 0.0,
        "activation_fn": next(name for name, meant in ACTIVATIONS.items() if meant == config.activation),
        "pooler_activation_fn": "tanh",
        "encoder_normalize_before": config.pre_norm,
        "layernorm_embedding": config.features.embedding_norm,
        "untie_weights_roberta": False,
    }


def refused(file: Path, problem: str, remedy: str) -> CheckpointError:
    """Make the refusal of a checkpoint."""
    return CheckpointError(problem, file=file, remedy=remedy)
