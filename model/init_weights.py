"""Initial weights as each shape's source draws them (`model.shapes`); biases and the padding row are 0, norms 1."""

from torch import nn

from biomlm.model.config import EncoderConfig

CUT_AT = 2.0  # standard deviations


def initialise(model: nn.Module, config: EncoderConfig) -> None:
    """Draw a model's weights from torch's generator."""
    for name, module in model.named_modules():
        if isinstance(module, (nn.Linear, nn.Embedding)):
            std = config.initializer_range
            if name.endswith(config.features.scaled_by_depth):
                std /= (2 * config.num_hidden_layers) ** 0.5
            if config.features.cut:
                nn.init.trunc_normal_(module.weight, std=std, a=-CUT_AT * std, b=CUT_AT * std)
            else:
                nn.init.normal_(module.weight, std=std)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
        if isinstance(module, nn.Embedding) and module.padding_idx is not None:
            nn.init.zeros_(module.weight[module.padding_idx])
