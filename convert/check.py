"""The numerical check: two models on the same inputs, largest difference of every layer's hidden states and of the logits.

A difference is measured against the larger of 1 and the largest magnitude in that layer: absolute for values around 1, relative
for large ones, because float32 carries seven digits and no more. Padding positions are not compared: nothing depends on them.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from biolm.convert import architectures
from biolm.convert.inputs import batches
from biolm.core.errors import ConversionError
from biolm.core.files import read_json
from biolm.core.progress import progress
from biolm.model.config import EncoderConfig
from biolm.model.encoder import MaskedLM
from biolm.model.linear import Linear
from biolm.model.packed import pack
from biolm.tokenizer.folder import Tokenizer

TOLERANCE = 1e-5
LONG_DEPTH = 2  # layers that the longest sequence goes through: attention over long distances is the same code in each, and of ModernBERT's
# first two one is global, one local
MOST_SCORED = 64  # positions of a batch whose logits are computed, spread evenly: the head does the same at each


class Computes(Protocol):
    """A model of any library."""

    def hidden(self, sequences: Sequence[list[int]], depth: int) -> list[Tensor]:
        """Hidden states after the embeddings and after each of the first `depth` layers, [t, h] each, for the real tokens of a batch.

        The last one is the output of an encoder of that depth, which pre-LN normalises.
        """

    def head(self) -> nn.Module | None:
        """The masked-LM head by itself: rows of the last hidden state [m, h] → vocabulary scores [m, v]; None if it has none."""


class TiedHead(nn.Module):
    """The native head together with the embeddings that it is tied to."""

    def __init__(self, model: MaskedLM):
        super().__init__()
        self.head, self.words = model.head, model.encoder.word_embeddings

    def forward(self, hidden_mh: Tensor) -> Tensor:
        """[m, h] → [m, v]."""
        return self.head(hidden_mh, self.words.weight.float())  # type: ignore[no-any-return]


class Ours:
    """The native model."""

    def __init__(self, model: MaskedLM, has_head: bool):
        self.model, self.has_head = model, has_head
        compute_in_float32(model)

    def hidden(self, sequences: Sequence[list[int]], depth: int) -> list[Tensor]:
        """See `Computes`."""
        with shortened(self.model.encoder, "layers", depth):
            return self.model.encoder(pack(sequences))  # type: ignore[no-any-return]

    def head(self) -> nn.Module | None:
        """See `Computes`."""
        return TiedHead(self.model) if self.has_head else None


class Product(Linear):
    """`nn.Linear` for inputs of any rank, by the product that the native model uses; on an AMD EPYC, transformers' takes twice as long."""

    def forward(self, x: Tensor) -> Tensor:
        """[…, h] → […, outputs]."""
        return super().forward(x.flatten(0, -2)).view(*x.shape[:-1], -1)


class HuggingFace:
    """transformers' own class for a folder, loaded with its own reader, on right-padded batches.

    Everything about it is transformers' (names, order, norms, attention, padding) but for the kernel that multiplies two matrices.
    """

    def __init__(self, folder: Path, has_head: bool, dtype: torch.dtype = torch.float32):
        import transformers

        said = transformers.utils.logging.get_verbosity()
        transformers.utils.logging.disable_progress_bar()
        transformers.utils.logging.set_verbosity_error()  # it would report every tensor of a classification head
        architecture = architectures.of(read_json(folder / "config.json"), folder)
        self.has_head = has_head
        loaded: Any = getattr(transformers, architecture.masked_lm if has_head else architecture.base).from_pretrained(
            folder, local_files_only=True, use_safetensors=True, torch_dtype=dtype
        )
        transformers.utils.logging.set_verbosity(said)
        self.model = loaded.eval()
        for module in loaded.modules():
            if type(module) is nn.Linear:
                module.__class__ = Product
        compute_in_float32(loaded)

    def hidden(self, sequences: Sequence[list[int]], depth: int) -> list[Tensor]:
        """See `Computes`."""
        longest, padding = max(len(s) for s in sequences), self.model.config.pad_token_id
        input_ids_bl = torch.tensor([s + [padding] * (longest - len(s)) for s in sequences])
        lengths_b = torch.tensor([len(s) for s in sequences])
        real_bl = torch.arange(longest) < lengths_b[:, None]
        base = self.model.base_model
        place = (base, "layers") if hasattr(base, "layers") else (base.encoder, "layer")
        with shortened(*place, depth):
            out = base(input_ids_bl, attention_mask=real_bl.long(), output_hidden_states=True)
        return [state_blh[real_bl] for state_blh in (*out.hidden_states[:-1], out.last_hidden_state)]

    def head(self) -> nn.Module | None:
        """See `Computes`."""
        if not self.has_head:
            return None
        if hasattr(self.model, "lm_head"):
            return self.model.lm_head  # type: ignore[no-any-return]
        return self.model.cls if hasattr(self.model, "cls") else nn.Sequential(self.model.head, self.model.decoder)


def compute_in_float32(model: nn.Module) -> None:
    """Let each module that is stored in a narrower type widen its numbers just before it runs and drop them after.

    That is exact, and of a model of any size only the module that runs is in memory in float32.
    """

    stored: dict[nn.Module, dict[str, nn.Parameter | None]] = {}

    def widen(module: nn.Module, _: object) -> None:
        stored[module] = dict(module._parameters)
        for name, value in stored[module].items():
            module._parameters[name] = None if value is None else nn.Parameter(value.float(), requires_grad=False)

    def narrow(module: nn.Module, _: object, __: object) -> None:
        module._parameters.update(stored.pop(module))

    for module in model.modules():
        if any(value is not None and value.dtype != torch.float32 for value in module._parameters.values()):
            module.register_forward_pre_hook(widen)
            module.register_forward_hook(narrow)


@contextmanager
def shortened(module: nn.Module, name: str, depth: int) -> Iterator[None]:
    """Leave a list of layers with its first `depth` for a while."""
    layers = getattr(module, name)
    setattr(module, name, layers[:depth])
    try:
        yield
    finally:
        setattr(module, name, layers)


@dataclass(frozen=True)
class Recording:
    """What one model computed, so that it can be let go before the other is loaded: two large ones need not fit together.

    Args:
        batches: The inputs.
        hidden: For every batch, its hidden states.
        head: A copy of the model's head, so that neither its layers nor a mapped file stay in memory.
        known: Ids that the tokenizer has; rows of the vocabulary beyond are padding.
    """

    batches: list[list[list[int]]]
    hidden: list[list[Tensor]]
    head: nn.Module | None
    known: int


@torch.inference_mode()
def record(model: Computes, config: EncoderConfig, tokenizer: Tokenizer | None) -> Recording:
    """Compute a model on the check's inputs.

    Args:
        model: The source.
        config: Its shape.
        tokenizer: Its tokenizer; random ids without one.
    """
    groups = batches(config, tokenizer)
    known = tokenizer.vocab_size if tokenizer else config.vocab_size
    with progress("check: source", sum(len(s) for group in groups for s in group), "tokens") as bar:
        hidden = []
        for group in groups:
            layers = config.num_hidden_layers
            hidden.append(model.hidden(group, min(layers, LONG_DEPTH) if group is groups[-1] else layers))
            bar.advance(len(hidden[-1][0]))
    return Recording(groups, hidden, deepcopy(model.head()), known)


@dataclass
class Differences:
    """What the check found.

    Args:
        hidden: Largest difference after the embeddings and after each layer.
        logits: Largest difference of the logits; None if either has no masked-LM head.
        texts: Sequences compared.
        tokens: Real tokens in them.
    """

    hidden: list[float]
    logits: float | None = None
    texts: int = 0
    tokens: int = 0

    @property
    def said(self) -> str:
        """The logits' difference, for a summary."""
        return "no masked-LM head" if self.logits is None else f"{self.logits:.2e}"

    def first_above(self, tolerance: float) -> str | None:
        """The name of the first layer that differs by more than the tolerance (or by NaN)."""
        for i, value in enumerate(self.hidden):
            if not value <= tolerance:
                return f"layer {i}" if i else "the embeddings"
        return None if self.logits is None or self.logits <= tolerance else "the head"

    def demand(self, tolerance: float, file: Path) -> None:
        """Refuse a conversion that changed the model.

        Raises:
            ConversionError: A layer differs by more than the tolerance.
        """
        where = self.first_above(tolerance)
        if where:
            worst = max([*self.hidden, self.logits or 0.0])
            raise ConversionError(
                f"the first difference above {tolerance:g} is in {where} (largest of all: {worst:.3g}); nothing was written",
                file=file,
                remedy="Please report this checkpoint.",
            )


@torch.inference_mode()
def compare(a: Recording, model: Computes) -> Differences:
    """Compute a second model on the same inputs; magnitudes of the first are the measure."""
    found = Differences([0.0] * len(a.hidden[0]))
    head = model.head()
    with progress("check: target", sum(len(hidden[0]) for hidden in a.hidden), "tokens") as bar:
        for group, ours in zip(a.batches, a.hidden, strict=True):
            theirs = model.hidden(group, len(ours) - 1)
            for i, (x, y) in enumerate(zip(ours, theirs, strict=True)):
                found.hidden[i] = _worse(found.hidden[i], x, y)
            if a.head and head and len(ours) == len(found.hidden):
                scored = torch.linspace(0, len(ours[0]) - 1, min(len(ours[0]), MOST_SCORED)).long()
                x, y = ours[-1][scored], theirs[-1][scored]
                found.logits = _worse_logits(found.logits or 0.0, a.head(x), head(y), a.known)
            found.texts += len(group)
            found.tokens += len(ours[0])
            bar.advance(len(ours[0]))
    return found


def _worse_logits(so_far: float, a_mv: Tensor, b_mv: Tensor, known: int) -> float:
    """Compare the tokenizer's own ids, and apart from them the padded ones: a bias of -10,000 must not set the measure for all."""
    rows = min(a_mv.shape[1], b_mv.shape[1])
    for part in (slice(0, min(known, rows)), slice(known, rows)):
        if part.start < part.stop:
            so_far = _worse(so_far, a_mv[:, part], b_mv[:, part])
    return so_far


def _worse(so_far: float, a: Tensor, b: Tensor) -> float:
    """The larger of two differences; NaN wins."""
    scale = max(1.0, float(a.abs().max()))
    new = float((a - b).abs().max()) / scale
    return new if not new <= so_far else so_far
