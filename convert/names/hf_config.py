"""`config.json` of Hugging Face's masked language models, read into the native configuration and written from it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from biomlm.convert.names.hf_architectures import BY_SHAPE, BY_TYPE, Architecture
from biomlm.core.errors import CheckpointError
from biomlm.model.config import Activation, EncoderConfig

# What the configuration classes take for a key that a file leaves out.
DEFAULTS = {
    "initializer_range": 0.02,
    "type_vocab_size": 2,
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "layer_norm_eps": 1e-12,
    "norm_eps": 1e-5,
    "mlp_dropout": 0.0,
    "attention_dropout": 0.0,
    "pad_token_id": 0,
}
# The names in transformers' table of activations; the first of each meaning is written.
ACTIVATIONS: dict[str, Activation] = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_accurate": "gelu_tanh",
}
ROTARY = {"rope_type": "default", "partial_rotary_factor": 1.0}  # of a kind of layer, in ModernBERT's `rope_parameters`
# Keys that no class of transformers has for these architectures: forks and programs of a model's own compute something else by them.
FOREIGN: dict[str, tuple[Any, ...]] = {
    "auto_map": (None, {}),
    "rope_scaling": (None,),
    "scale_embedding": (None, False),
    "alibi_starting_size": (None,),
    "pooler_act": (None, "tanh"),
    "pooler_activation": (None, "tanh"),
    "pooler_hidden_act": (None, "tanh"),
    "pooler_activation_fn": (None, "tanh"),
}


def of(raw: Mapping[str, Any], file: Path) -> Architecture:
    """Find the architecture that a `config.json` names.

    Raises:
        CheckpointError: It is another, or one of ours that computes something else.
    """
    architecture = BY_TYPE.get(str(raw.get("model_type")))
    if architecture is None:
        stated = (
            f"model_type is {raw['model_type']!r}, which cannot be read"
            if "model_type" in raw
            else "it has no model_type"
        )
        raise CheckpointError(
            stated,
            file=file,
            remedy=f"Give a model of {', '.join(BY_TYPE)}.",
        )
    for key in (*architecture.keys.values(), "max_position_embeddings"):
        if key in raw and type(raw[key]) not in (int, float):
            problem = f"{key} is of the type {type(raw[key]).__name__}, and no number"
            raise CheckpointError(problem, file=file, remedy="Mend it, or get the whole folder again.")
    for key in filter(None, architecture.activations):
        if raw.get(key, "gelu") not in list(ACTIVATIONS):  # a list, because a stranger's value may have no hash
            problem = f"{key} is {raw[key]!r}, which cannot be computed"
            raise CheckpointError(problem, file=file, remedy=f"Give a model with {', '.join(ACTIVATIONS)}.")
    for key, accepted in {**architecture.demands, **FOREIGN}.items():
        if raw.get(key) not in accepted:
            usual = "Give an encoder of the usual kind."
            own = "Remove it from config.json, if transformers' own class computes the same without it."
            raise CheckpointError(
                f"{key} is {raw[key]!r}; only {accepted[0]!r} can be read",
                file=file,
                remedy=own if key in FOREIGN else usual,
            )
    ropes = raw.get("rope_parameters")
    for name, rope in ropes.items() if isinstance(ropes, dict) else ():
        if isinstance(rope, dict) and any(rope.get(key, usual) != usual for key, usual in ROTARY.items()):
            problem = f"the rotary positions of {name} are scaled or partial"
            raise CheckpointError(problem, file=file, remedy="Give a model with rotary positions of the usual kind.")
    return architecture


def head_activation(config: EncoderConfig) -> Activation:
    """Give the activation that transformers' masked-LM head has for a model: its own, the layers', or exact GELU."""
    layers, head = BY_SHAPE[config.shape].activations
    if head is None:
        return "gelu"
    return config.activation if head == layers else config.head_activation


def fields(architecture: Architecture, raw: Mapping[str, Any]) -> dict[str, Any]:
    """Read the native configuration's fields from a `config.json`.

    Raises:
        KeyError: A size is missing.
        TypeError, ValueError: One is of another kind than it should be.
    """
    defaults = DEFAULTS | {"pad_token_id": architecture.pad}
    values = {field: raw[key] if key in raw else defaults[key] for field, key in architecture.keys.items()}
    front = values["pad_token_id"] + 1 if architecture.table.behind_padding else 0
    for field, key in zip(("activation", "head_activation"), architecture.activations, strict=True):
        values[field] = ACTIVATIONS[raw.get(key, "gelu")] if key else "gelu"
    values |= {"shape": architecture.shape, "max_positions": raw["max_position_embeddings"] - front}
    return values | architecture.more_fields(raw)


def known(config: EncoderConfig, raw: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """Choose of a stranger's `config.json` what is handed to transformers: the keys that we would write ourselves, of the same types.

    Others could make its classes fetch code or another program's kernels (`attn_implementation`), or compute something else.

    Raises:
        CheckpointError: One is of another type.
    """
    special = dict.fromkeys(BY_SHAPE[config.shape].special_ids, 0)
    return _like({**keys(config), **special}, raw, "", file)  # type: ignore[no-any-return]


def _like(template: Any, value: Any, name: str, file: Path) -> Any:
    """Return the parts of a value that a template has."""
    if isinstance(template, dict) and isinstance(value, dict):
        return {
            key: _like(template[key], value[key], f"{name}.{key}".strip("."), file)
            for key in template
            if value.get(key) is not None
        }
    types = (int, float) if isinstance(template, float) else (type(template),)
    if type(value) not in types or (isinstance(value, list) and not {*map(type, value)} <= {str}):
        problem = f"its {name or 'content'} is of the type {type(value).__name__}"
        raise CheckpointError(problem, file=file, remedy=f"It is of the type {type(template).__name__} elsewhere.")
    return float(value) if isinstance(template, float) else value


def keys(config: EncoderConfig) -> dict[str, Any]:
    """Make `config.json` for a native configuration, without what depends on heads, tokenizer and number type."""
    architecture = BY_SHAPE[config.shape]
    front = config.pad_token_id + 1 if architecture.table.behind_padding else 0
    stated = {
        "model_type": architecture.model_type,
        "max_position_embeddings": config.max_positions + front,
        **{key: getattr(config, field) for field, key in architecture.keys.items()},
        **{key: accepted[0] for key, accepted in architecture.demands.items()},
        **{
            key: next(name for name, meant in ACTIVATIONS.items() if meant == activation)
            for key, activation in zip(
                architecture.activations, (config.activation, head_activation(config)), strict=True
            )
            if key
        },
    }
    types = {"type_vocab_size": max(1, config.type_vocab_size)} if architecture.has_types else {}
    return stated | types | architecture.more_keys(config)
