"""The encoder's size, by name or in numbers, and its shape, of which `model.shapes` has the features."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

from biomlm.core.errors import ConfigError, DataError
from biomlm.core.fields import require_positive
from biomlm.core.files import read_json, write_json
from biomlm.model.shapes import SHAPES, Features

# layers, hidden size, heads; the feed-forward is 4 × hidden. tiny to medium: Turc et al. 2019 (arXiv 1908.08962);
# base and large: Liu et al. 2019 (arXiv 1907.11692). 345m to 8.9b: GatorTron (Yang et al. 2022, npj Digital Medicine 5:194), whose
# width of 3,560 for 8.9b is no multiple of its 56 heads: 3,584 = 56 × 64 is taken here.
SIZES: dict[str, tuple[int, int, int]] = {
    "tiny": (2, 128, 2),
    "mini": (4, 256, 4),
    "small": (4, 512, 8),
    "medium": (8, 512, 8),
    "base": (12, 768, 12),
    "large": (24, 1024, 16),
    "345m": (24, 1024, 16),
    "3.9b": (48, 2560, 40),
    "8.9b": (56, 3584, 56),
}
NAME = "encoder.json"

Precision = Literal["auto", "fp32", "bf16", "fp16"]
Kernel = Literal["auto", "blocks", "loop", "flash", "varlen", "efficient", "padded", "flex"]
if TYPE_CHECKING:
    Shape: TypeAlias = str
    Size: TypeAlias = str
else:
    Shape, Size = Literal[tuple(SHAPES)], Literal[tuple(SIZES)]
# gelu: exact. gelu_tanh: its approximation by tanh (Hendrycks and Gimpel 2016, arXiv 1606.08415), Megatron-LM's fused kernel.
Activation = Literal["gelu", "gelu_tanh"]


@dataclass(frozen=True)
class EncoderConfig:
    """Everything that fixes the encoder's tensors and its arithmetic.

    Args:
        vocab_size: Rows of the word embeddings, which the decoder is tied to.
        hidden_size: Width H of the residual stream.
        num_hidden_layers: Transformer layers.
        num_attention_heads: Heads; H must be a multiple.
        intermediate_size: Width of the feed-forward layer.
        max_positions: Longest sequence in tokens, `<s>` and `</s>` included; there is no offset for padding.
        type_vocab_size: Rows of token-type embeddings; 0 for none (native and fairseq RoBERTa), 1 in Hugging Face's RoBERTa.
        hidden_dropout: After the embeddings and after each sub-layer.
        attention_dropout: On attention probabilities.
        layer_norm_eps: 1e-5 in RoBERTa.
        initializer_range: Standard deviation of the initial weights.
        pad_token_id: The id whose embedding stays zero.
        shape: The arrangement of the layers.
        activation: In the feed-forward parts: gelu or gelu_tanh.
        head_activation: In the masked-LM head. Programs that train with the approximation often leave the head exact.
        local_window: Tokens on each side that a local layer sees; `modernbert` only.
        global_every: Each n-th layer, the first included, sees the whole sequence; `modernbert` only.
        rope_thetas: Base of the rotary frequencies in global and in local layers; `modernbert` only.
    """

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    max_positions: int = 512
    type_vocab_size: int = 0
    hidden_dropout: float = 0.1
    attention_dropout: float = 0.1
    layer_norm_eps: float = 1e-5
    initializer_range: float = 0.02
    pad_token_id: int = 1
    shape: Shape = "roberta"
    activation: Activation = "gelu"
    head_activation: Activation = "gelu"
    local_window: int = 64
    global_every: int = 3
    rope_thetas: tuple[float, float] = (160_000.0, 10_000.0)

    def __post_init__(self) -> None:
        sizes = (self.vocab_size, self.hidden_size, self.num_hidden_layers, self.num_attention_heads)
        if min(*sizes, self.intermediate_size, self.max_positions, self.global_every) < 1:
            raise ConfigError("sizes of the encoder must be positive", remedy="Check the model's configuration.")
        if self.shape not in SHAPES:
            raise ConfigError(f"there is no shape {self.shape}", remedy=f"Choose one of {', '.join(SHAPES)}.")
        for name in (self.activation, self.head_activation):
            if name not in get_args(Activation):
                raise ConfigError(f"there is no activation {name}", remedy="Choose gelu or gelu_tanh.")
        if self.hidden_size % self.num_attention_heads:
            raise ConfigError(
                f"hidden_size {self.hidden_size} is no multiple of num_attention_heads {self.num_attention_heads}",
                remedy="Change one of the two.",
            )

    @property
    def features(self) -> Features:
        """What distinguishes its shape from the others."""
        return SHAPES[self.shape]

    @property
    def pre_norm(self) -> bool:
        """Whether layers normalise their input, and the encoder its output, instead of each sub-layer's sum."""
        return self.features.pre_norm

    @property
    def rotary(self) -> bool:
        """Whether positions turn queries and keys instead of being added to the embeddings."""
        return self.features.rotary

    @property
    def bias(self) -> bool:
        """Whether linear layers and norms of the encoder have biases (the decoder always has one)."""
        return self.features.bias

    def is_local(self, layer: int) -> bool:
        """Whether a layer, counted from 0, attends to its neighbourhood only."""
        return self.features.local and layer % self.global_every != 0

    @property
    def head_size(self) -> int:
        """The width of one attention head."""
        return self.hidden_size // self.num_attention_heads

    def save(self, folder: str | Path) -> None:
        """Write `encoder.json` into a folder."""
        write_json(Path(folder) / NAME, asdict(self))

    @staticmethod
    def load(folder: str | Path) -> "EncoderConfig":
        """Read `encoder.json` from a folder.

        Raises:
            DataError: It is missing or has other keys than this version knows.
        """
        path = Path(folder) / NAME
        return EncoderConfig.of(
            read_json(path, remedy="Give a run folder that `biomlm pretrain` or `biomlm distill` wrote."), path
        )

    @staticmethod
    def of(raw: Mapping[str, Any], file: Path) -> "EncoderConfig":
        """Make one of what a file says.

        Raises:
            DataError: Other keys than this version knows, or a value that is none of an encoder's.
        """
        remedy = "Use the version that wrote it."
        if isinstance(thetas := raw.get("rope_thetas"), list):
            raw = {**raw, "rope_thetas": tuple(thetas)}
        try:
            config = EncoderConfig(**raw)
        except TypeError:
            names = {f.name for f in fields(EncoderConfig)}
            missing = ", ".join(sorted(names - raw.keys())) or "none"
            problem = f"{len(raw.keys() - names)} keys are unknown, and missing are {missing}"
            raise DataError(problem, file=file, remedy=remedy) from None
        except ConfigError as error:
            raise DataError(error.problem, file=file, remedy=remedy) from None
        for name, value in asdict(config).items():
            wanted = type(getattr(EXAMPLE, name))
            fits = type(value) is wanted or (wanted is float and type(value) is int)
            if not fits or (wanted is int and not 0 <= value <= MOST.get(name, LARGEST)):
                raise DataError(f"`{name}` is none of an encoder's", file=file, remedy=remedy)
        return config


EXAMPLE = EncoderConfig(1, 1, 1, 1, 1)
LARGEST = 1 << 24  # of any size; a file that says more would have to be much larger than any disk
MOST = {"num_hidden_layers": 1000}


@dataclass(frozen=True)
class ModelConfig:
    """The model, by the name of its size; any number given replaces the name's.

    Args:
        shape: The arrangement of the layers.
        size: Name of a size: tiny 2 × 128, mini 4 × 256, small 4 × 512, medium 8 × 512, base 12 × 768, large and
            345m 24 × 1024, 3.9b 48 × 2560, 8.9b 56 × 3584.
        num_hidden_layers: Layers, if not the size's.
        hidden_size: Width, if not the size's.
        num_attention_heads: Heads, if not the size's.
        intermediate_size: Feed-forward width, if not four times the width.
        hidden_dropout: Dropout after the embeddings and each sub-layer.
        attention_dropout: Dropout on attention probabilities.
        pad_vocab_to: Round the rows of the embeddings up to a multiple of this (64 suits tensor cores); the rows added can never be
            predicted, and `convert --rows cut` removes them.
    """

    shape: Shape = "roberta"
    size: Size = "base"
    num_hidden_layers: int | None = None
    hidden_size: int | None = None
    num_attention_heads: int | None = None
    intermediate_size: int | None = None
    hidden_dropout: float = 0.1
    attention_dropout: float = 0.1
    pad_vocab_to: int = 1

    def __post_init__(self) -> None:
        sizes = ("num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size")
        require_positive(self, *sizes, prefix="model.")
        if self.pad_vocab_to < 1:
            raise ConfigError("model.pad_vocab_to must be 1 at least", remedy="64 suits tensor cores; 1 adds no rows.")
        for name in ("hidden_dropout", "attention_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"model.{name} must lie in [0, 1)", remedy="0.1 is RoBERTa's.")

    def resolve(self, vocab_size: int, max_positions: int, pad_token_id: int) -> EncoderConfig:
        """Return the encoder's configuration for a vocabulary and a longest sequence (in tokens)."""
        layers, hidden, heads = SIZES[self.size]
        hidden = self.hidden_size or hidden
        return EncoderConfig(
            vocab_size=-(-vocab_size // self.pad_vocab_to) * self.pad_vocab_to,
            hidden_size=hidden,
            num_hidden_layers=self.num_hidden_layers or layers,
            num_attention_heads=self.num_attention_heads or heads,
            intermediate_size=self.intermediate_size or 4 * hidden,
            max_positions=max_positions,
            hidden_dropout=self.hidden_dropout,
            attention_dropout=self.attention_dropout,
            pad_token_id=pad_token_id,
            shape=self.shape,
            layer_norm_eps=SHAPES[self.shape].layer_norm_eps,
            type_vocab_size=SHAPES[self.shape].token_types,
        )


@dataclass(frozen=True)
class ComputeConfig:
    """Time against memory and compilation; the same figures but for rounding.

    Args:
        attention: The kernel (see `biomlm.model.kernels.attention`); `auto` takes the best that the machine has.
        compile: Fuse the layers with torch.compile; it needs a C++ compiler on a CPU, Triton on a GPU, and a minute at the start.
        recompute: Keep only the layers' inputs for the backward pass, and compute each layer twice: a third more time, a fraction of the
            memory (activation checkpointing).
        deterministic: On a GPU too compute the same bits in every run, at some cost of time, so that a run that was interrupted ends with
            those of one that was not; a run that was begun so goes on so. On a CPU that is always so.
    """

    attention: Kernel = "auto"
    compile: bool = False
    recompute: bool = False
    deterministic: bool = False
