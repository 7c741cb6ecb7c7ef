"""Hugging Face's masked language models: for each `model_type` the class, its names for the native tensors, its keys of `config.json`.

Sources: transformers' `modeling_*.py` and `configuration_*.py` of the five. RoBERTas' positions begin at row pad + 1, others' at 0.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from biomlm.convert.names.table import Table
from biomlm.core.errors import CheckpointError, ConfigError
from biomlm.model.config import Activation, EncoderConfig, Shape

SIZES = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "num_hidden_layers": "num_hidden_layers",
    "num_attention_heads": "num_attention_heads",
    "intermediate_size": "intermediate_size",
    "initializer_range": "initializer_range",
    "pad_token_id": "pad_token_id",
}
BERT_KEYS = {
    **SIZES,
    "type_vocab_size": "type_vocab_size",
    "layer_norm_eps": "layer_norm_eps",
    "hidden_dropout": "hidden_dropout_prob",
    "attention_dropout": "attention_probs_dropout_prob",
}
MODERN_KEYS = {
    **SIZES,
    "layer_norm_eps": "norm_eps",
    "hidden_dropout": "mlp_dropout",
    "attention_dropout": "attention_dropout",
}
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
# Under which values the class computes what the native model does; the first is written.
BERT_DEMANDS: dict[str, tuple[Any, ...]] = {
    "position_embedding_type": ("absolute", None),
    "is_decoder": (False, None),
    "add_cross_attention": (False, None),
    "tie_word_embeddings": (True, None),
}
MODERN_DEMANDS: dict[str, tuple[Any, ...]] = {
    "attention_bias": (False, None),
    "mlp_bias": (False, None),
    "norm_bias": (False, None),
    "classifier_bias": (False, None),
    "decoder_bias": (True, None),
    "tie_word_embeddings": (True, None),
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


@dataclass(frozen=True)
class Architecture:
    """One of Hugging Face's architectures.

    Args:
        model_type: As `config.json` names it.
        shape: The native shape that computes the same.
        masked_lm: The class with the masked-LM head.
        base: The class of the encoder alone, which stores its tensors without the prefix.
        prefix: Under which the other classes store the encoder.
        table: Its tensors' names.
        extra_names: Neutral prefix of a tensor that is carried along → the class's.
        keys: Field of the native configuration → key of `config.json`.
        demands: Key → values that are accepted.
        activations: Keys of the layers' activation and of the head's; RoBERTa's head has exact GELU always.
        pad: The padding id of a file that states none.
    """

    model_type: str
    shape: Shape
    masked_lm: str
    base: str
    prefix: str
    table: Table
    extra_names: Mapping[str, str]
    keys: Mapping[str, str]
    demands: Mapping[str, tuple[Any, ...]]
    activations: tuple[str, str | None] = ("hidden_act", "hidden_act")
    pad: int = 0


def _bert_layers(prefix: str, norms: tuple[str, str]) -> dict[str, tuple[str, ...]]:
    """Make the rows that RoBERTa, BERT and MegatronBERT share, but for the names of a layer's two norms."""
    layer = f"{prefix}.encoder.layer.*"
    return {
        "encoder.word_embeddings": (f"{prefix}.embeddings.word_embeddings",),
        "encoder.position_embeddings": (f"{prefix}.embeddings.position_embeddings",),
        "encoder.token_type_embeddings": (f"{prefix}.embeddings.token_type_embeddings",),
        "encoder.layers.*.attention.qkv": tuple(f"{layer}.attention.self.{x}" for x in ("query", "key", "value")),
        "encoder.layers.*.attention.out": (f"{layer}.attention.output.dense",),
        "encoder.layers.*.attention_norm": (f"{layer}.{norms[0]}",),
        "encoder.layers.*.mlp.up": (f"{layer}.intermediate.dense",),
        "encoder.layers.*.mlp.down": (f"{layer}.output.dense",),
        "encoder.layers.*.mlp_norm": (f"{layer}.{norms[1]}",),
    }


POST_NORMS = ("attention.output.LayerNorm", "output.LayerNorm")
BERT_HEAD = {
    "head.dense": ("cls.predictions.transform.dense",),
    "head.norm": ("cls.predictions.transform.LayerNorm",),
    "head": ("cls.predictions",),
}
BERT_TIED = {
    "cls.predictions.decoder.weight": "encoder.word_embeddings.weight",
    "cls.predictions.decoder.bias": "head.bias",
}
CLASSIFIER = {
    r"classifier(\.dense|\.out_proj)?": r"classification_heads.classifier\1",
    r"qa_outputs": "qa_outputs",
}
BERT_EXTRAS = {r"bert\.pooler\.dense": "pooler.dense", r"cls\.seq_relationship": "seq_relationship", **CLASSIFIER}
QA_BACK = {"qa_outputs.": "qa_outputs."}
BERT_BACK = {"pooler.": "bert.pooler.", "seq_relationship.": "cls.seq_relationship.", **QA_BACK}
BUFFERS = {r"(roberta|roberta_prelayernorm|bert)\.embeddings\.(position_ids|token_type_ids)": lambda _: True}

ROBERTA = Architecture(
    model_type="roberta",
    shape="roberta",
    masked_lm="RobertaForMaskedLM",
    base="RobertaModel",
    prefix="roberta.",
    table=Table(
        modules={
            **_bert_layers("roberta", POST_NORMS),
            "encoder.embedding_norm": ("roberta.embeddings.LayerNorm",),
            "head.dense": ("lm_head.dense",),
            "head.norm": ("lm_head.layer_norm",),
            "head": ("lm_head",),
        },
        tied={"lm_head.decoder.weight": "encoder.word_embeddings.weight", "lm_head.decoder.bias": "head.bias"},
        extra_names={r"roberta\.pooler\.dense": "pooler.dense", **CLASSIFIER},
        ignored=BUFFERS,
        behind_padding=True,
    ),
    extra_names={"pooler.": "roberta.pooler.", **QA_BACK},
    keys=BERT_KEYS,
    demands=BERT_DEMANDS,
    activations=("hidden_act", None),
    pad=1,
)

PRELAYERNORM = replace(
    ROBERTA,
    model_type="roberta-prelayernorm",
    shape="roberta-prelayernorm",
    masked_lm="RobertaPreLayerNormForMaskedLM",
    base="RobertaPreLayerNormModel",
    prefix="roberta_prelayernorm.",
    table=replace(
        ROBERTA.table,
        modules={
            **ROBERTA.table.modules,
            **_bert_layers("roberta_prelayernorm", ("attention.LayerNorm", "intermediate.LayerNorm")),
            "encoder.embedding_norm": ("roberta_prelayernorm.embeddings.LayerNorm",),
            "encoder.final_norm": ("roberta_prelayernorm.LayerNorm",),
        },
        extra_names={r"roberta_prelayernorm\.pooler\.dense": "pooler.dense", **CLASSIFIER},
    ),
    extra_names={"pooler.": "roberta_prelayernorm.pooler.", **QA_BACK},
)

BERT = Architecture(
    model_type="bert",
    shape="bert",
    masked_lm="BertForMaskedLM",
    base="BertModel",
    prefix="bert.",
    table=Table(
        modules={
            **_bert_layers("bert", POST_NORMS),
            "encoder.embedding_norm": ("bert.embeddings.LayerNorm",),
            **BERT_HEAD,
        },
        tied=BERT_TIED,
        extra_names=BERT_EXTRAS,
        ignored=BUFFERS,
    ),
    extra_names=BERT_BACK,
    keys=BERT_KEYS,
    demands=BERT_DEMANDS,
)

MEGATRON = replace(
    BERT,
    model_type="megatron-bert",
    shape="megatron-bert",
    masked_lm="MegatronBertForMaskedLM",
    base="MegatronBertModel",
    table=replace(
        BERT.table,
        modules={
            **_bert_layers("bert", ("attention.ln", "ln")),
            "encoder.final_norm": ("bert.encoder.ln",),
            **BERT_HEAD,
        },
    ),
)

MODERN = Architecture(
    model_type="modernbert",
    shape="modernbert",
    masked_lm="ModernBertForMaskedLM",
    base="ModernBertModel",
    prefix="model.",
    table=Table(
        modules={
            "encoder.word_embeddings": ("model.embeddings.tok_embeddings",),
            "encoder.embedding_norm": ("model.embeddings.norm",),
            "encoder.layers.*.attention.qkv": ("model.layers.*.attn.Wqkv",),
            "encoder.layers.*.attention.out": ("model.layers.*.attn.Wo",),
            "encoder.layers.*.attention_norm": ("model.layers.*.attn_norm",),
            "encoder.layers.*.mlp.up": ("model.layers.*.mlp.Wi",),
            "encoder.layers.*.mlp.down": ("model.layers.*.mlp.Wo",),
            "encoder.layers.*.mlp_norm": ("model.layers.*.mlp_norm",),
            "encoder.final_norm": ("model.final_norm",),
            "head.dense": ("head.dense",),
            "head.norm": ("head.norm",),
            "head": ("decoder",),
        },
        tied={"decoder.weight": "encoder.word_embeddings.weight"},
        extra_names={
            r"head\.(dense|norm)": r"prediction_head.\1",
            **CLASSIFIER,
        },  # its classifiers have the head without a decoder
    ),
    extra_names={"prediction_head.": "head.", **QA_BACK},
    keys=MODERN_KEYS,
    demands=MODERN_DEMANDS,
    activations=("hidden_activation", "classifier_activation"),
)

BY_TYPE = {architecture.model_type: architecture for architecture in (ROBERTA, PRELAYERNORM, BERT, MEGATRON, MODERN)}
BY_SHAPE = {architecture.shape: architecture for architecture in BY_TYPE.values()}


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
    if architecture.shape != "modernbert":
        return values
    rope = raw.get("rope_parameters") or {}
    thetas = (
        float(rope.get("full_attention", {}).get("rope_theta", raw.get("global_rope_theta", 160_000.0))),
        float(rope.get("sliding_attention", {}).get("rope_theta", raw.get("local_rope_theta") or 10_000.0)),
    )
    return {
        **values,
        "local_window": raw.get("local_attention", 128) // 2,
        "global_every": _every(raw),
        "rope_thetas": thetas,
    }


def _every(raw: Mapping[str, Any]) -> int:
    """Count how many layers there are to each global one, from `layer_types` (transformers 5) or the number itself (4)."""
    types = raw.get("layer_types")
    if types is None:
        return int(raw.get("global_attn_every_n_layers", 3))
    for every in range(1, len(types) + 1):
        if types == ["sliding_attention" if i % every else "full_attention" for i in range(len(types))]:
            return every
    raise ConfigError("layer_types has no regular pattern", remedy="Each n-th layer must be global.")


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
    if config.shape != "modernbert":
        return stated | {"type_vocab_size": max(1, config.type_vocab_size)}
    wide, near = config.rope_thetas
    kinds = ["sliding_attention" if config.is_local(i) else "full_attention" for i in range(config.num_hidden_layers)]
    return stated | {
        "embedding_dropout": config.hidden_dropout,
        "local_attention": 2 * config.local_window,
        "global_attn_every_n_layers": config.global_every,  # transformers 4 reads these three
        "global_rope_theta": wide,
        "local_rope_theta": near,
        "layer_types": kinds,  # transformers 5 reads these two
        "rope_parameters": {
            "full_attention": {"rope_theta": wide, "rope_type": "default"},
            "sliding_attention": {"rope_theta": near, "rope_type": "default"},
        },
    }
