"""Hugging Face's masked language models: for each `model_type` the class, its names for the native tensors, its keys of `config.json`.

Sources: transformers' `modeling_*.py` and `configuration_*.py` of the five. RoBERTas' positions begin at row pad + 1, others' at 0.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from biomlm.convert.names import hf_modernbert
from biomlm.convert.names.table import TYPES, Table
from biomlm.model.config import EncoderConfig, Shape

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
        more_fields: Native fields that are no key of `config.json` by themselves, computed from all of it.
        more_keys: The reverse.
        special_ids: Keys of the ids that open and close a sequence → their roles (`tokenizer.formats.folder.SpecialIds`).
        usual_ids: What these are without a tokenizer, where its models have always the same.
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
    more_fields: Callable[[Mapping[str, Any]], dict[str, Any]] = lambda _: {}
    more_keys: Callable[[EncoderConfig], dict[str, Any]] = lambda _: {}
    special_ids: Mapping[str, str] = field(default_factory=lambda: {"bos_token_id": "bos", "eos_token_id": "eos"})
    usual_ids: Mapping[str, int] = field(default_factory=dict)

    @property
    def has_types(self) -> bool:
        """Whether its classes have token types: one at least, even where the native model has none."""
        return TYPES.rpartition(".")[0] in self.table.modules


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
    usual_ids={"bos_token_id": 0, "eos_token_id": 2},
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
    usual_ids={},
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
    more_fields=hf_modernbert.fields,
    more_keys=hf_modernbert.keys,
    special_ids={"bos_token_id": "bos", "eos_token_id": "eos", "cls_token_id": "bos", "sep_token_id": "eos"},
)

ARCHITECTURES = (
    ROBERTA,
    PRELAYERNORM,
    BERT,
    MEGATRON,
    MODERN,
    # a new shape
)
BY_TYPE = {architecture.model_type: architecture for architecture in ARCHITECTURES}
BY_SHAPE = {architecture.shape: architecture for architecture in ARCHITECTURES}
