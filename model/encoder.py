"""The encoder and its masked-LM head, in RoBERTa's shape: post-LN, learned positions, exact GELU, decoder tied to the embeddings.

Parameter names are those of docs/design.md; `convert` maps them onto other formats by tables. Shape suffixes: see `model.packed`.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from biolm.model.attention import attention
from biolm.model.config import EncoderConfig
from biolm.model.packed import Packed

SILENT = -1e4  # a logit whose exponential is 0 in every precision, and which fp16 can hold


class Attention(nn.Module):
    """Multi-head self-attention over packed sequences."""

    def __init__(self, config: EncoderConfig):
        super().__init__()
        self.heads, self.head_size, self.dropout = (
            config.num_attention_heads,
            config.head_size,
            config.attention_dropout,
        )
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.out = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, x_th: Tensor, packed: Packed) -> Tensor:
        """[t, h] → [t, h]."""
        q, k, v = self.qkv(x_th).view(len(x_th), 3, self.heads, self.head_size).unbind(1)  # each [t, n, d]
        mixed = attention(q, k, v, packed, self.dropout if self.training else 0.0)
        return self.out(mixed.reshape(x_th.shape))  # type: ignore[no-any-return]


class FeedForward(nn.Module):
    """Two linear layers with GELU between."""

    def __init__(self, config: EncoderConfig):
        super().__init__()
        self.up = nn.Linear(config.hidden_size, config.intermediate_size)
        self.down = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, x_th: Tensor) -> Tensor:
        """[t, h] → [t, h]."""
        return self.down(F.gelu(self.up(x_th)))  # type: ignore[no-any-return]


class Layer(nn.Module):
    """One transformer layer, layer-norm after each residual sum (post-LN)."""

    def __init__(self, config: EncoderConfig):
        super().__init__()
        self.attention = Attention(config)
        self.attention_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = FeedForward(config)
        self.mlp_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout)

    def forward(self, x_th: Tensor, packed: Packed) -> Tensor:
        """[t, h] → [t, h]."""
        x_th = self.attention_norm(x_th + self.dropout(self.attention(x_th, packed)))
        return self.mlp_norm(x_th + self.dropout(self.mlp(x_th)))  # type: ignore[no-any-return]


class Encoder(nn.Module):
    """Token ids → hidden states."""

    def __init__(self, config: EncoderConfig):
        super().__init__()
        self.config = config
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        self.position_embeddings = nn.Embedding(config.max_positions, config.hidden_size)
        self.token_type_embeddings = (
            nn.Embedding(config.type_vocab_size, config.hidden_size) if config.type_vocab_size else None
        )
        self.embedding_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))

    def forward(self, packed: Packed) -> list[Tensor]:
        """Hidden states after the embeddings and after each layer, each [t, h]; the last one is the encoder's output."""
        x_th = self.word_embeddings(packed.input_ids_t) + self.position_embeddings(packed.position_ids_t)
        if self.token_type_embeddings is not None:
            x_th = x_th + self.token_type_embeddings.weight[0]
        hidden = [self.dropout(self.embedding_norm(x_th))]
        for layer in self.layers:
            hidden.append(layer(hidden[-1], packed))
        return hidden


class Head(nn.Module):
    """RoBERTa's masked-LM head without its decoder matrix, which is the word embeddings."""

    def __init__(self, config: EncoderConfig):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))

    def forward(self, x_mh: Tensor, embeddings_vh: Tensor) -> Tensor:
        """[m, h] → logits [m, v]."""
        return F.linear(self.norm(F.gelu(self.dense(x_mh))), embeddings_vh, self.bias)


class MaskedLM(nn.Module):
    """The encoder with its head: what pretraining makes and conversion carries."""

    def __init__(self, config: EncoderConfig):
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.head = Head(config)
        self.apply(self._initialise)

    def _initialise(self, module: nn.Module) -> None:
        """Normal weights, zero biases and a zero padding row, as Hugging Face's and fairseq's RoBERTa."""
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=self.config.initializer_range)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)
            elif module.padding_idx is not None:
                nn.init.zeros_(module.weight[module.padding_idx])

    def logits(self, hidden_mh: Tensor) -> Tensor:
        """Vocabulary scores [m, v] of the given rows of the last hidden state."""
        return self.head(hidden_mh, self.encoder.word_embeddings.weight)  # type: ignore[no-any-return]

    def forward(self, packed: Packed, positions_m: Tensor | None = None) -> Tensor:
        """Logits [m, v] at the given positions of the flat row, or at all of them."""
        hidden_th = self.encoder(packed)[-1]
        return self.logits(hidden_th if positions_m is None else hidden_th[positions_m])

    def silence(self, vocab_size: int) -> None:
        """Make rows past the vocabulary impossible to predict: their probability, and so their gradient, is 0 from now on."""
        with torch.no_grad():
            self.head.bias[vocab_size:] = SILENT


def parameter_count(model: nn.Module) -> int:
    """Trainable numbers, shared ones once."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
