"""fairseq's names for the tensors of RoBERTa (`fairseq/models/roberta/model.py`), and those of other versions.

Earlier versions called the encoder `decoder`, its first layer-norm `emb_layer_norm`, and kept query, key and value in one `in_proj`;
wrappers of distributed training put their name in front. These are brought to 0.12's names first (as fairseq's own
`upgrade_state_dict_named` does). Positions begin at row pad + 1 = 2.
"""

import re
from collections.abc import Mapping

from torch import Tensor

from biomlm.convert.names.table import Table
from biomlm.model.config import Shape
from biomlm.model.shapes import SHAPES

HEADS = "classification_heads."
E_ = "encoder.sentence_encoder"

VERSION = f"{E_}.version"  # below 2, or missing, fairseq leaves the final norm of a prenorm model out
# 0.12 allocates these for its fused inference kernels and never fills them.
UNUSED = r"encoder\.sentence_encoder\.layers\.\d+\.(in_proj|out_proj|fc1|fc2)_(weight|bias)"


def _table(norms: Mapping[str, tuple[str, ...]]) -> Table:
    """Make the table of RoBERTa with its first layer-norm, its last or both."""
    return Table(
        modules={
            "encoder.word_embeddings": (f"{E_}.embed_tokens",),
            "encoder.position_embeddings": (f"{E_}.embed_positions",),
            "encoder.layers.*.attention.qkv": tuple(f"{E_}.layers.*.self_attn.{x}_proj" for x in "qkv"),
            "encoder.layers.*.attention.out": (f"{E_}.layers.*.self_attn.out_proj",),
            "encoder.layers.*.attention_norm": (f"{E_}.layers.*.self_attn_layer_norm",),
            "encoder.layers.*.mlp.up": (f"{E_}.layers.*.fc1",),
            "encoder.layers.*.mlp.down": (f"{E_}.layers.*.fc2",),
            "encoder.layers.*.mlp_norm": (f"{E_}.layers.*.final_layer_norm",),
            "head.dense": ("encoder.lm_head.dense",),
            "head.norm": ("encoder.lm_head.layer_norm",),
            "head": ("encoder.lm_head",),
            **norms,
        },
        tied={"encoder.lm_head.weight": "encoder.word_embeddings.weight"},
        extra_names={r"classification_heads\.(\w+)\.(dense|out_proj)": r"classification_heads.\1.\2"},
        behind_padding=True,
        ignored={re.escape(VERSION): lambda _: True, UNUSED: lambda tensor: not tensor.any()},
    )


# fairseq's prenorm RoBERTa normalises what goes into each sub-layer and the output. Its architecture `roberta_prenorm` does not normalise
# the embeddings, which is Megatron BERT's shape; any other with `--encoder-normalize-before` does, as Hugging Face's RobertaPreLayerNorm.
FIRST = {"encoder.embedding_norm": (f"{E_}.layernorm_embedding",)}
LAST = {"encoder.final_norm": (f"{E_}.layer_norm",)}
ARCHITECTURES: dict[Shape, str] = {
    "roberta": "roberta_base",
    "roberta-prelayernorm": "roberta_base",
    "megatron-bert": "roberta_prenorm",
}
TABLES = {
    shape: _table((FIRST if SHAPES[shape].embedding_norm else {}) | (LAST if SHAPES[shape].pre_norm else {}))
    for shape in ARCHITECTURES
}

OLD_NAMES = (
    (r"^(module\.|_fsdp_wrapped_module\.|_fpw_module\.)+", ""),
    (r"\.(_fsdp_wrapped_module|_fpw_module|_checkpoint_wrapped_module)(?=\.)", ""),
    (r"^decoder\.(?=sentence_encoder\.|lm_head\.)", "encoder."),
    (r"\.emb_layer_norm\.", ".layernorm_embedding."),
)

# What 0.10 reads, and later versions as well.
AGED = ((r"^encoder\.(?=sentence_encoder\.|lm_head\.)", "decoder."), (r"\.layernorm_embedding\.", ".emb_layer_norm."))


def modern(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Bring the names of earlier versions and of wrappers to those of 0.12."""
    renamed: dict[str, Tensor] = {}
    for name, value in tensors.items():
        new = name
        for pattern, replacement in OLD_NAMES:
            new = re.sub(pattern, replacement, new)
        if match := re.fullmatch(r"(.*\.self_attn)\.in_proj_(weight|bias)", new):
            for letter, rows in zip("qkv", value.chunk(3), strict=True):
                renamed[f"{match[1]}.{letter}_proj.{match[2]}"] = rows
        else:
            renamed[new] = value
    return renamed


def aged(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give tensors the names that every version from 0.10 on reads; prenorm, which 0.10 lacks, keeps 0.12's."""
    return {re.sub(*AGED[1], re.sub(*AGED[0], name)): value for name, value in tensors.items()}
