"""Teacher, student and the student alone on the same held-out tokens and masks: loss, accuracy, agreement, speed, layer by layer."""

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from biomlm.distill.reporting.cka import layer_similarities
from biomlm.model.device import Device
from biomlm.model.encoder import MaskedLM
from biomlm.pretrain.data.batches import Batch
from biomlm.pretrain.data.dataset import Shards
from biomlm.pretrain.training.evaluate import Evaluator

ALIKE_TOKENS = 2048  # that layers are compared on
ALL = "all"


@dataclass
class Sums:
    """What adds up over masked positions of one source.

    Args:
        masked: Positions.
        loss: Cross-entropy in nats.
        right: Exact predictions.
        kl: KL(teacher ‖ this model) in nats, at temperature 1.
        agree: Positions at which this model and the teacher predict the same.
    """

    masked: int = 0
    loss: float = 0.0
    right: int = 0
    kl: float = 0.0
    agree: int = 0

    def means(self) -> dict[str, float]:
        """Each as a mean, and how many."""
        shares = {name: value / max(self.masked, 1) for name, value in vars(self).items() if name != "masked"}
        return {"masked": self.masked, **shares}


@dataclass
class Seen:
    """What became of one model.

    Args:
        sources: Source of the text → sums; `all` for all of it.
        tokens: Real tokens read.
        seconds: Wall time of its forward passes, which take turns with the other models'.
        states: Hidden states of each layer on the first tokens.
    """

    sources: dict[str, Sums] = field(default_factory=lambda: defaultdict(Sums))
    tokens: int = 0
    seconds: float = 0.0
    states: list[list[Tensor]] = field(default_factory=list)

    def hidden(self) -> list[Tensor]:
        """States [t, h] of each layer."""
        return [torch.cat(parts)[:ALIKE_TOKENS] for parts in zip(*self.states, strict=True)]


def compare(models: Mapping[str, MaskedLM], evaluator: Evaluator, device: Device, teacher: str) -> dict[str, Seen]:
    """Run all models over the held-out split.

    Args:
        models: Name → model over the shards' vocabulary.
        evaluator: Gives the split, its masks and how much of it.
        device: Where to run.
        teacher: The name of the model that the others are held against.
    """
    found = {name: Seen() for name in models}
    placed = [model.to(device.torch).eval() for model in models.values()]
    source_of = Sources(evaluator.shards)
    with torch.inference_mode():
        for batch in micro_batches(evaluator):
            moved, sources = batch.to(device.torch), source_of(batch)
            logs = {}
            for (name, seen), model in zip(found.items(), placed, strict=True):
                logs[name] = _look(model, moved, seen, device)[:, : evaluator.shards.vocab_size]
            for name, seen in found.items():
                _add(seen, logs[name], logs[teacher], moved.labels_m, sources)
    return found


def micro_batches(evaluator: Evaluator) -> Iterator[Batch]:
    """The held-out micro-batches, as many as the evaluator reads."""
    tokens = 0
    for index in range(evaluator.batches.per_epoch):
        batch = evaluator.batches.micro_batch(0, index)
        if batch is None or tokens >= evaluator.max_tokens:
            return
        tokens += len(batch.packed.input_ids_t)
        yield batch


class Sources:
    """The source (pubmed, pmc, notes, text) of every masked token of a micro-batch.

    Args:
        shards: The split.
    """

    def __init__(self, shards: Shards):
        self.starts = np.concatenate([[0], np.cumsum(shards.sizes, dtype=np.int64)])[shards.doc_index]
        self.names = np.array([str(document["source"]) for document in shards.documents()])

    def __call__(self, batch: Batch) -> npt.NDArray[np.str_]:
        """[m]."""
        assert batch.places_m is not None
        return self.names[np.searchsorted(self.starts, batch.places_m, side="right") - 1]


def _look(model: MaskedLM, batch: Batch, seen: Seen, device: Device) -> Tensor:
    """Log-probabilities [m, v], and what is kept of the rest."""
    start = time.perf_counter()
    with device.autocast():
        hidden = model.encoder(batch.packed)
        logits_mv = model.logits(hidden[-1][batch.positions_m])
    log_mv = F.log_softmax(logits_mv.float(), dim=-1)
    if device.torch.type == "cuda":
        torch.cuda.synchronize()
    seen.seconds += time.perf_counter() - start
    if seen.tokens < ALIKE_TOKENS:
        seen.states.append([x_th.float() for x_th in hidden])
    seen.tokens += len(batch.packed.input_ids_t)
    return log_mv


def _add(seen: Seen, log_mv: Tensor, teacher_mv: Tensor, labels_m: Tensor, sources: npt.NDArray[np.str_]) -> None:
    best_m = log_mv.argmax(1)
    columns = {
        "loss": -log_mv.gather(1, labels_m[:, None])[:, 0],
        "right": best_m == labels_m,
        "kl": (teacher_mv.exp() * (teacher_mv - log_mv)).sum(1),
        "agree": best_m == teacher_mv.argmax(1),
    }
    values = {name: column.cpu().numpy() for name, column in columns.items()}
    for source in (ALL, *np.unique(sources)):
        here = np.ones(len(sources), bool) if source == ALL else sources == source
        sums = seen.sources[str(source)]
        sums.masked += int(here.sum())
        for name, value in values.items():
            setattr(sums, name, getattr(sums, name) + value[here].sum().item())


def alike(found: Mapping[str, Seen], student: str, teacher: str) -> list[list[float]]:
    """CKA of the student's layers (rows) with the teacher's (columns)."""
    return layer_similarities(found[student].hidden(), found[teacher].hidden())
