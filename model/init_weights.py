"""Initial weights as each shape's source draws them.

| shape | weights | layers' output matrices | source |
|---|---|---|---|
| roberta | normal | the same | fairseq `init_bert_params` |
| bert | normal, cut at two standard deviations | the same | google-research/bert `create_initializer` |
| megatron-bert | normal | deviation / √(2 layers) | Megatron-LM `scaled_init_method_normal` (arXiv 1909.08053) |
| modernbert | normal, cut at two standard deviations | deviation / √(2 layers), and so is its head's | arXiv 2412.13663, app. |

Biases and the padding row are 0, norms 1.
"""

from torch import nn

from biomlm.model.config import EncoderConfig

CUT_AT = 2.0  # standard deviations
CUT = ("bert", "modernbert")
SCALED_BY_DEPTH = ("megatron-bert", "modernbert")


def initialise(model: nn.Module, config: EncoderConfig) -> None:
    """Draw a model's weights from torch's generator."""
    for name, module in model.named_modules():
        if isinstance(module, (nn.Linear, nn.Embedding)):
            std = config.initializer_range
            if config.shape in SCALED_BY_DEPTH and _is_output(name, config):
                std /= (2 * config.num_hidden_layers) ** 0.5
            if config.shape in CUT:
                nn.init.trunc_normal_(module.weight, std=std, a=-CUT_AT * std, b=CUT_AT * std)
            else:
                nn.init.normal_(module.weight, std=std)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
        if isinstance(module, nn.Embedding) and module.padding_idx is not None:
            nn.init.zeros_(module.weight[module.padding_idx])


def _is_output(name: str, config: EncoderConfig) -> bool:
    """Whether a matrix writes into the residual stream (ModernBERT's head counts as one)."""
    return name.endswith(("attention.out", "mlp.down")) or (config.shape == "modernbert" and name == "head.dense")
