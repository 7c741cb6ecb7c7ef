"""The encoder and its masked-LM head in each of `model.shapes`, with GELU and the decoder tied to the embeddings.

Parameter names are those of docs/design.md; `convert` maps them onto other formats by tables. Shape suffixes: see `model.packed`.
"""

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from biomlm.model.config import Activation, EncoderConfig, Kernel
from biomlm.model.init_weights import initialise
from biomlm.model.kernels.attention import TRACED, attention, traced_attention
from biomlm.model.kernels.cross_entropy import LARGE, NO_LABEL, cross_entropy, linear_cross_entropy, logits
from biomlm.model.kernels.dropout import Dropout
from biomlm.model.kernels.linear import Linear
from biomlm.model.packed import Packed, rows_for
from biomlm.model.rotary import rotary_table, rotate

SILENT = -1e4  # a logit whose exponential is 0 in every precision, and which fp16 can hold


Rotary = tuple[Tensor, Tensor]


class Norm(nn.LayerNorm):
    """Layer norm, of float32 rows also by weights that FSDP has gathered in 16 bits."""

    def forward(self, x_th: Tensor) -> Tensor:
        """Compute [t, h] → [t, h]."""
        if x_th.dtype != torch.float32 or self.weight.dtype == torch.float32:
            return super().forward(x_th)
        weight, bias = self.weight.float(), None if self.bias is None else self.bias.float()
        return F.layer_norm(x_th, self.normalized_shape, weight, bias, self.eps)


def norm(config: EncoderConfig) -> Norm:
    """Make a layer norm over the hidden size."""
    return Norm(config.hidden_size, eps=config.layer_norm_eps, bias=config.bias)


def approximation(activation: Activation) -> str:
    """Return the `approximate` argument of torch's GELU."""
    return "tanh" if activation == "gelu_tanh" else "none"


class Attention(nn.Module):
    """Multi-head self-attention over packed sequences."""

    def __init__(self, config: EncoderConfig, window: int | None):
        super().__init__()
        self.heads, self.head_size, self.dropout = (
            config.num_attention_heads,
            config.head_size,
            config.attention_dropout,
        )
        self.window = window
        self.kernel: Kernel = "auto"
        self.mix = attention
        self.qkv = Linear(config.hidden_size, 3 * config.hidden_size, bias=config.bias)
        self.out = Linear(config.hidden_size, config.hidden_size, bias=config.bias)

    def forward(self, x_th: Tensor, packed: Packed, rotary: Rotary | None, rows_m: Tensor | None = None) -> Tensor:
        """Compute attention: [t, h] → [t, h], or [m, h] at the given rows."""
        q, k, v = self.qkv(x_th).view(len(x_th), 3, self.heads, self.head_size).unbind(1)  # each [t, n, d]
        if rotary is not None:
            q, k = rotate(q, rotary), rotate(k, rotary)
        mixed = self.mix(q, k, v, packed, self.dropout if self.training else 0.0, self.window, self.kernel)
        return self.out(_at(rows_m, mixed.reshape(x_th.shape)))  # type: ignore[no-any-return]


class FeedForward(nn.Module):
    """Two linear layers with GELU between; in a gated shape the first is twice as wide and half of it gates (GeGLU)."""

    def __init__(self, config: EncoderConfig):
        super().__init__()
        self.gated, self.approximate = config.features.gated, approximation(config.activation)
        width = config.intermediate_size * (2 if self.gated else 1)
        self.up = Linear(config.hidden_size, width, bias=config.bias)
        self.down = Linear(config.intermediate_size, config.hidden_size, bias=config.bias)

    def forward(self, x_th: Tensor) -> Tensor:
        """Compute [t, h] → [t, h]."""
        x = self.up(x_th)
        if self.gated:
            x, gate = x.chunk(2, dim=-1)
            return self.down(F.gelu(x, approximate=self.approximate) * gate)  # type: ignore[no-any-return]
        return self.down(F.gelu(x, approximate=self.approximate))  # type: ignore[no-any-return]


class Layer(nn.Module):
    """One transformer layer: post-LN normalises each residual sum, pre-LN what goes into each sub-layer."""

    def __init__(self, config: EncoderConfig, index: int):
        super().__init__()
        self.pre_norm = config.pre_norm
        self.attention = Attention(config, config.local_window if config.is_local(index) else None)
        self.attention_norm = norm(config) if config.features.first_norm or index else nn.Identity()
        self.mlp = FeedForward(config)
        self.mlp_norm = norm(config)
        self.dropout = Dropout(config.hidden_dropout)

    def forward(self, x_th: Tensor, packed: Packed, rotary: Rotary | None, rows_m: Tensor | None = None) -> Tensor:
        """Compute [t, h] → [t, h], or [m, h] at the given rows, which attend to all keys and values."""
        if self.pre_norm:
            mixed = self.attention(self.attention_norm(x_th), packed, rotary, rows_m)
            x_mh = _at(rows_m, x_th) + self.dropout(mixed)
            return x_mh + self.dropout(self.mlp(self.mlp_norm(x_mh)))  # type: ignore[no-any-return]
        x_mh = self.attention_norm(_at(rows_m, x_th) + self.dropout(self.attention(x_th, packed, rotary, rows_m)))
        return self.mlp_norm(x_mh + self.dropout(self.mlp(x_mh)))  # type: ignore[no-any-return]


def _at(rows_m: Tensor | None, x_th: Tensor) -> Tensor:
    """Select some rows, or all."""
    return x_th if rows_m is None else x_th.index_select(0, rows_m)


def _first(rows: int, x_th: Tensor) -> Tensor:
    """Drop the padding rows at the end."""
    return x_th if len(x_th) == rows else x_th[:rows]


class Encoder(nn.Module):
    """Token ids → hidden states."""

    def __init__(self, config: EncoderConfig):
        super().__init__()
        self.config = config
        size = config.hidden_size
        self.word_embeddings = nn.Embedding(config.vocab_size, size, padding_idx=config.pad_token_id)
        self.position_embeddings = None if config.rotary else nn.Embedding(config.max_positions, size)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, size) if config.type_vocab_size else None
        self.embedding_norm = norm(config) if config.features.embedding_norm else None
        self.dropout = Dropout(config.hidden_dropout)
        self.layers = nn.ModuleList(Layer(config, index) for index in range(config.num_hidden_layers))
        self.final_norm = norm(config) if config.pre_norm else None
        self.traced = False  # whether compiled layers have attention inside
        self.recompute = False  # keep only layers' inputs for the backward pass (Chen et al. 2016, arXiv 1604.06174)

    def forward(self, packed: Packed, rows_m: Tensor | None = None) -> list[Tensor]:
        """Compute the hidden states [t, h] after the embeddings and after each layer; the last one is the output, which pre-LN normalises.

        Args:
            packed: The sequences.
            rows_m: Rows that the last one is wanted at, [m]; it is [m, h] then, and most of the last layer is computed for these alone.
        """
        tokens = len(packed.input_ids_t)
        wanted = tokens if rows_m is None else len(rows_m)
        packed = packed.pad_to_bucket()
        if rows_m is not None:
            rows_m = F.pad(rows_m, (0, rows_for(wanted, rows_m.device) - wanted))
        positions_t = packed.position_ids_t
        tables = self._rotary(positions_t)
        told = packed.spans if self.traced else packed
        hidden = [self._embed(packed, positions_t)]
        for index, layer in enumerate(self.layers):
            last = index == self.config.num_hidden_layers - 1
            inputs = (hidden[-1], told, tables[self.config.is_local(index)], rows_m if last else None)
            again = self.recompute and torch.is_grad_enabled()
            hidden.append(checkpoint(layer, *inputs, use_reentrant=False) if again else layer(*inputs))
        if self.final_norm is not None:
            hidden[-1] = self.final_norm(hidden[-1])
        return [*(_first(tokens, x_th) for x_th in hidden[:-1]), _first(wanted, hidden[-1])]

    def use_attention(self, kernel: Kernel) -> None:
        """Compute attention with this kernel from now on; `attention.check` tells whether it can run."""
        for layer in self.layers:
            layer.attention.kernel = kernel  # type: ignore[union-attr]

    def compile_layers(self, kernel: Kernel, backend: str = "inductor") -> None:
        """Have torch.compile fuse what stands around attention, for any number of tokens; one compilation serves all layers of a kind.

        A kernel for any lengths is part of the graph; others look at the lengths, which would compile them anew in each batch.
        """
        self.traced = kernel in TRACED
        for layer in self.layers:
            apart = torch.compiler.disable(attention)  # type: ignore[no-untyped-call]
            layer.attention.mix = traced_attention if self.traced else apart  # type: ignore[union-attr]
            if self.traced:
                layer.attention.kernel = kernel  # type: ignore[union-attr]
            layer.compile(dynamic=True, backend=backend)

    def _embed(self, packed: Packed, positions_t: Tensor) -> Tensor:
        x_th = self.word_embeddings(packed.input_ids_t)
        if self.position_embeddings is not None:
            x_th = x_th + self.position_embeddings(positions_t)
        if self.token_type_embeddings is not None:
            types_t = packed.token_type_ids_t
            rows = self.token_type_embeddings.weight[0] if types_t is None else self.token_type_embeddings(types_t)
            x_th = x_th + rows
        if self.embedding_norm is not None:
            x_th = self.embedding_norm(x_th)
        return self.dropout(x_th)  # type: ignore[no-any-return]

    def _rotary(self, positions_t: Tensor) -> tuple[Rotary | None, Rotary | None]:
        """Return the rotary tables of the global and the local layers."""
        if not self.config.rotary:
            return None, None
        one, two = (rotary_table(positions_t, self.config.head_size, theta) for theta in self.config.rope_thetas)
        return one, two


class Head(nn.Module):
    """The masked-LM head without its decoder matrix, which is the word embeddings."""

    def __init__(self, config: EncoderConfig):
        super().__init__()
        self.approximate = approximation(config.head_activation)
        self.dense = Linear(config.hidden_size, config.hidden_size, bias=config.bias)
        self.norm = norm(config)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))

    def transform(self, x_mh: Tensor) -> Tensor:
        """Compute the decoder's input: [m, h] → [m, h]."""
        return self.norm(F.gelu(self.dense(x_mh), approximate=self.approximate))  # type: ignore[no-any-return]

    def forward(self, x_mh: Tensor, embeddings_vh: Tensor) -> Tensor:
        """Compute logits: [m, h] → [m, v]."""
        return logits(self.transform(x_mh), embeddings_vh, self.bias)


class EncoderModel(nn.Module):
    """What stands on an encoder and is trained with it: `encoder` is found under that name, wherever its weights are saved."""

    config: EncoderConfig
    encoder: Encoder


class MaskedLM(EncoderModel):
    """The encoder with its head: what pretraining makes and conversion carries."""

    def __init__(self, config: EncoderConfig):
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.head = Head(config)
        initialise(self, config)

    def logits(self, hidden_mh: Tensor) -> Tensor:
        """Compute the vocabulary scores [m, v] of the given rows of the last hidden state."""
        return self.head(hidden_mh, self.encoder.word_embeddings.weight)  # type: ignore[no-any-return]

    def masked_loss(self, hidden_mh: Tensor, labels_m: Tensor, slope: float = 1.0) -> tuple[Tensor, Tensor]:
        """Compute the sum of cross-entropies (nats) at the given rows of the last hidden state, and how many labels have the highest logit.

        `slope` is as in `linear_cross_entropy`.
        """
        if missing := rows_for(len(labels_m), labels_m.device) - len(labels_m):
            hidden_mh, labels_m = F.pad(hidden_mh, (0, 0, 0, missing)), F.pad(labels_m, (0, missing), value=NO_LABEL)
        if labels_m.device.type == "cpu" or len(labels_m) * self.config.vocab_size > LARGE:
            decoder = self.encoder.word_embeddings.weight, self.head.bias
            return linear_cross_entropy(self.head.transform(hidden_mh), *decoder, labels_m, slope=slope)
        return cross_entropy(self.logits(hidden_mh), labels_m)

    def forward(self, packed: Packed, positions_m: Tensor | None = None) -> Tensor:
        """Compute the logits [m, v] at the given positions of the flat row, or at all of them."""
        return self.logits(self.encoder(packed, positions_m)[-1])

    def use_padding(self, pad_token_id: int) -> None:
        """Take another id for padding: its row has no gradient, and the row of the id before has one."""
        self.config = self.encoder.config = replace(self.config, pad_token_id=pad_token_id)
        self.encoder.word_embeddings.padding_idx = pad_token_id

    def mask_padding_vocab(self, vocab_size: int) -> None:
        """Make rows past the vocabulary impossible to predict: their probability, and so their gradient, is 0 from now on."""
        with torch.no_grad():
            self.head.bias[vocab_size:] = SILENT


def parameter_count(model: nn.Module) -> int:
    """Count the trainable numbers, shared ones once."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
