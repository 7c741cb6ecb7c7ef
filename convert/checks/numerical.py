"""The numerical check: two models on the same inputs, largest difference of every layer's hidden states and of the logits.

A difference is measured against the larger of 1 and the largest magnitude in that layer: absolute for values around 1, relative
for large ones, because float32 carries seven digits and no more. Padding positions are not compared: nothing depends on them.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from biomlm.convert.checks.heads import PROBES, Head
from biomlm.convert.checks.models import Computes
from biomlm.convert.checks.probe_inputs import batches
from biomlm.core.errors import CheckpointError, ConversionError
from biomlm.core.progress import Bar, progress
from biomlm.model.config import EncoderConfig
from biomlm.tokenizer.formats.folder import Tokenizer

LONG_DEPTH = 2  # layers that the longest sequence goes through: attention over long distances is the same code in each, and of ModernBERT's
# first two one is global, one local
MOST_SCORED = 64  # positions of a batch whose logits are computed, spread evenly: the head does the same at each

Batches = list[list[list[int]]]  # of sequences of token ids


def states(model: Computes, groups: Batches, name: str) -> Iterator[list[Tensor]]:
    """Compute each batch's hidden states: through all layers, but for the last batch, the longest sequence, through the first ones.

    A model that packs computes all the others at once, so that it reads and widens its weights once.
    """
    layers = len(getattr(*model.layers))
    rounds = [groups[:-1], groups[-1:]] if model.packs else [[group] for group in groups]
    depths = [layers] * (len(rounds) - 1) + [min(layers, LONG_DEPTH)]
    with progress(name, sum(depths), "layers") as bar:
        for batches, depth in zip(rounds, depths, strict=True):
            with shortened(*model.layers, depth, bar):
                hidden = model.hidden([sequence for batch in batches for sequence in batch])
            tokens = [sum(len(sequence) for sequence in batch) for batch in batches]
            for of_batch in zip(*(torch.split(state_th, tokens) for state_th in hidden), strict=True):
                yield list(of_batch)


@contextmanager
def shortened(module: nn.Module, name: str, depth: int, bar: Bar) -> Iterator[None]:
    """Keep only the first `depth` layers of a list inside the `with`; each advances the bar when it has run."""
    layers = getattr(module, name)
    hooks = [layer.register_forward_hook(lambda *_: bar.advance()) for layer in layers[:depth]]
    setattr(module, name, layers[:depth])
    try:
        yield
    finally:
        setattr(module, name, layers)
        for hook in hooks:
            hook.remove()


def scores(head: nn.Module, outputs: Sequence[Tensor]) -> list[Tensor]:
    """Compute logits [m, v] at up to `MOST_SCORED` positions of each output [t, h]."""
    rows = [x_th[torch.linspace(0, len(x_th) - 1, min(len(x_th), MOST_SCORED)).long()] for x_th in outputs]
    return list(torch.split(head(torch.cat(rows)), [len(rows_mh) for rows_mh in rows]))


def place(layer: int) -> str:
    """Name a place where hidden states are compared."""
    return f"layer {layer}" if layer else "the embeddings"


@dataclass(frozen=True)
class Recording:
    """What one model computed, kept so that it can be freed before the other is loaded: two large models need not fit into memory together.

    Args:
        groups: The inputs.
        hidden: For every batch, its hidden states.
        logits: For every batch that went through all layers, its logits; None without a head.
        vocabulary: Ids that the tokenizer has; rows of the vocabulary beyond are padding.
        heads: Outputs of the other heads on `probes`, by the heads' names.
        wanted: Those heads.
        by: Whose code computed it.
    """

    groups: Batches
    hidden: list[list[Tensor]]
    logits: list[Tensor] | None
    vocabulary: int
    heads: dict[str, Tensor] = field(default_factory=dict)
    wanted: Sequence[Head] = ()
    by: str = ""

    def demand_numbers(self, file: Path) -> None:
        """Refuse a source that computes NaN or infinity: the fault is its own, not the conversion's.

        Raises:
            CheckpointError: A hidden state or logit is NaN or infinite.
        """
        places = {
            place(i): [of_batch[i] for of_batch in self.hidden if i < len(of_batch)] for i in range(len(self.hidden[0]))
        }
        heads = {f"the head {name}": [output] for name, output in self.heads.items()}
        for where, tensors in (places | {"the head": self.logits or []} | heads).items():
            if not all(tensor.isfinite().all() for tensor in tensors):
                problem = f"what it computes is NaN or infinite from {where} on"
                raise CheckpointError(problem, file=file, remedy="Its weights are damaged: take an earlier checkpoint.")


@torch.inference_mode()
def record(
    model: Computes, config: EncoderConfig, tokenizer: Tokenizer | None, heads: Sequence[Head] = ()
) -> Recording:
    """Compute a model on the check's inputs.

    Args:
        model: The source.
        config: Its shape.
        tokenizer: Its tokenizer; random ids without one.
        heads: What it has beside the masked-LM head.
    """
    groups = batches(config, tokenizer)
    hidden = list(states(model, groups, "check: source"))
    outputs = [layers[-1] for layers in hidden if len(layers) == len(hidden[0])]
    head = model.head()
    vocabulary = tokenizer.vocab_size if tokenizer else config.vocab_size
    others = model.others(heads, probes(groups)) if heads else {}
    return Recording(groups, hidden, scores(head, outputs) if head else None, vocabulary, others, heads, model.name)


def probes(groups: Batches) -> list[list[int]]:
    """Choose a few sequences, short and longer ones, for heads beside the masked-LM head."""
    sequences = [sequence for group in groups[:-1] for sequence in group if len(sequence) > 1]
    return sequences[:: max(1, len(sequences) // PROBES)][:PROBES] or groups[-1]


@dataclass
class Differences:
    """What the check found.

    Args:
        hidden: Largest difference after the embeddings and after each layer.
        logits: Largest difference of the logits; None if either has no masked-LM head.
        texts: Sequences compared.
        tokens: Real tokens in them.
        heads: Largest difference of each other head's outputs.
        by: Whose code computed the two.
    """

    hidden: list[float]
    logits: float | None = None
    texts: int = 0
    tokens: int = 0
    heads: dict[str, float] = field(default_factory=dict)
    by: tuple[str, ...] = ()

    @property
    def summary_text(self) -> str:
        """The logits' difference, for a summary."""
        return "no masked-LM head" if self.logits is None else f"{self.logits:.2e}"

    def first_above(self, tolerance: float) -> str | None:
        """Name the first layer that differs by more than the tolerance (or by NaN)."""
        for i, value in enumerate(self.hidden):
            if not value <= tolerance:
                return place(i)
        if self.logits is not None and not self.logits <= tolerance:
            return "the head"
        return next((f"the head {name}" for name, value in self.heads.items() if not value <= tolerance), None)

    def demand(self, tolerance: float, file: Path) -> None:
        """Refuse a conversion that changed the model.

        Raises:
            ConversionError: A layer differs by more than the tolerance.
        """
        where = self.first_above(tolerance)
        if where:
            worst = float(torch.tensor([*self.hidden, self.logits or 0.0, *self.heads.values()]).max())  # NaN if one is
            raise ConversionError(
                f"the first difference above {tolerance:g} is in {where} (largest of all: {worst:.3g}); nothing was written",
                file=file,
                remedy="Please report this checkpoint.",
            )


@torch.inference_mode()
def compare(a: Recording, model: Computes) -> Differences:
    """Compute a second model on the same inputs; differences are relative to the first one's magnitudes."""
    differences = Differences([0.0] * len(a.hidden[0]), by=(a.by, model.name))
    outputs: list[Tensor] = []
    for group, a_hidden, b_hidden in zip(a.groups, a.hidden, states(model, a.groups, "check: target"), strict=True):
        for i, (x_th, y_th) in enumerate(zip(a_hidden, b_hidden, strict=True)):
            differences.hidden[i] = _worse(differences.hidden[i], x_th, y_th)
        outputs += [b_hidden[-1]] if len(b_hidden) == len(a.hidden[0]) else []
        differences.texts += len(group)
        differences.tokens += len(a_hidden[0])
    head = model.head()
    if a.logits and head:
        differences.logits = 0.0
        for x_mv, y_mv in zip(a.logits, scores(head, outputs), strict=True):
            differences.logits = _worse_logits(differences.logits, x_mv, y_mv, a.vocabulary)
    others = model.others(a.wanted, probes(a.groups)) if a.wanted else {}
    differences.heads = {name: _worse(0.0, output, others[name]) for name, output in a.heads.items()}
    return differences


def _worse_logits(so_far: float, a_mv: Tensor, b_mv: Tensor, vocabulary: int) -> float:
    """Compare the logits of the tokenizer's ids, and separately those of padding rows: a bias of -10,000 must not set the scale for all."""
    rows = min(a_mv.shape[1], b_mv.shape[1])
    for part in (slice(0, min(vocabulary, rows)), slice(vocabulary, rows)):
        if part.start < part.stop:
            so_far = _worse(so_far, a_mv[:, part], b_mv[:, part])
    return so_far


def _worse(so_far: float, a: Tensor, b: Tensor) -> float:
    """Return the larger of two differences; NaN wins."""
    scale = max(1.0, float(a.abs().max()))
    new = float((a - b).abs().max()) / scale
    return new if not new <= so_far else so_far
