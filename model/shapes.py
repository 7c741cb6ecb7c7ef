"""The encoder's shapes, RoBERTa's, BERT's and others: one row of features each. Sizes such as `base` are in `model.config`.

All else asks for a feature, and nothing for a shape's name.

A shape is added by a row here and one in `convert.names.hf_architectures` (docs/extending.md). No torch is imported: `--help` reads this.
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Features:
    """What distinguishes one shape from the others.

    Args:
        pre_norm: Layers normalise their input, and the encoder its output, instead of each sub-layer's sum.
        embedding_norm: The embeddings are normalised.
        first_norm: The first layer's attention has a norm, like those of all others.
        rotary: Positions turn queries and keys instead of being added to the embeddings.
        gated: The feed-forward's first matrix has twice the rows; half of what it gives gates the other half (GeGLU).
        bias: Linear layers and norms have biases (the decoder always has one).
        local: All but each n-th layer attend to their neighbourhood only.
        pooler: A classifier of sequences reads the first token through a pooler and one layer, as BERT's; else through two, as RoBERTa's.
        prediction_head: Every classifier reads states that have gone through the masked-LM head's dense layer and norm first.
        token_types: Rows of token-type embeddings in a new model.
        layer_norm_eps: Of a new model.
        cut: Initial weights are cut at two standard deviations.
        scaled_by_depth: Ends of the names of matrices whose initial deviation is divided by √(2 layers).
    """

    pre_norm: bool = False
    embedding_norm: bool = True
    first_norm: bool = True
    rotary: bool = False
    gated: bool = False
    bias: bool = True
    local: bool = False
    pooler: bool = False
    prediction_head: bool = False
    token_types: int = 0
    layer_norm_eps: float = 1e-5
    cut: bool = False
    scaled_by_depth: tuple[str, ...] = ()


OUTPUTS = ("attention.out", "mlp.down")  # the matrices that write into the residual stream
# Initial weights are those of each shape's source: fairseq's `init_bert_params` (the defaults), google-research/bert's `create_initializer`
# (cut), Megatron-LM's `scaled_init_method_normal` (scaled by depth; arXiv 1909.08053); ModernBERT has both, its head counting as an output
# (arXiv 2412.13663, appendix). Biases and the padding row are 0, norms 1.
SHAPES: Mapping[str, Features] = {
    # Post-LN, learned positions (arXiv 1907.11692).
    "roberta": Features(),
    # RoBERTa with pre-LN (fairseq's encoder_normalize_before; arXiv 2202.08005).
    "roberta-prelayernorm": Features(pre_norm=True),
    # As RoBERTa, with token types (arXiv 1810.04805).
    "bert": Features(pooler=True, token_types=2, layer_norm_eps=1e-12, cut=True),
    # Pre-LN, no norm on the embeddings (arXiv 1909.08053).
    "megatron-bert": Features(
        pre_norm=True,
        embedding_norm=False,
        pooler=True,
        token_types=2,
        layer_norm_eps=1e-12,
        scaled_by_depth=OUTPUTS,
    ),
    # Pre-LN, rotary positions, GeGLU, no biases, most layers attending locally (arXiv 2412.13663). The embeddings are normalised already,
    # so its first layer is not.
    "modernbert": Features(
        pre_norm=True,
        first_norm=False,
        rotary=True,
        gated=True,
        bias=False,
        local=True,
        prediction_head=True,
        cut=True,
        scaled_by_depth=(*OUTPUTS, "head.dense"),
    ),
    # a new shape
}
