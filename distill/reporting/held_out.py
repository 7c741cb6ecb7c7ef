"""Compare teacher, student and the student alone on the same held-out tokens and masks: loss, accuracy, agreement, speed, layers."""

import math
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
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
from biomlm.pretrain.training.evaluate import Evaluator, evaluated

CKA_TOKENS = 2048  # that layers are compared on
ALL = "all"


@dataclass
class Sums:
    """Sums over the masked positions of one source.

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

    def means(self) -> dict[str, float | None]:
        """Divide each sum by the number of positions (None where there are none), and give that number too."""
        sums = {name: value for name, value in vars(self).items() if name != "masked"}
        return {"masked": self.masked, **{name: v / self.masked if self.masked else None for name, v in sums.items()}}


@dataclass
class ModelResults:
    """The results of one model on the held-out split.

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
        """Concatenate the states of each layer, [t, h]."""
        return [torch.cat(parts)[:CKA_TOKENS] for parts in zip(*self.states, strict=True)]


def compare(
    models: Mapping[str, MaskedLM], evaluator: Evaluator, device: Device, teacher: str, *, ensemble: Sequence[str] = ()
) -> dict[str, ModelResults]:
    """Run all models on the held-out split.

    Args:
        models: Name → model over the shards' vocabulary.
        evaluator: Gives the split, its masks and how many tokens to read.
        device: Where to run.
        teacher: The name of the model that the others are compared with.
        ensemble: Names of models whose mean probabilities are the teacher's, as in `biomlm distill`, where `teacher` is not one of them.
    """
    results = {name: ModelResults() for name in ([teacher] if ensemble else []) + list(models)}
    placed = [model.to(device.torch).eval() for model in models.values()]
    source_of = Sources(evaluator.shards)
    with torch.inference_mode():
        for batch in micro_batches(evaluator):
            on_device, sources = batch.to(device.torch), source_of(batch)
            predictions = {}
            for name, model in zip(models, placed, strict=True):
                predictions[name] = _predict(model, on_device, results[name], device, evaluator.shards.vocab_size)
            if ensemble:
                predictions[teacher] = _mean([predictions[name] for name in ensemble])
            for name, result in results.items():
                _add_sums(result, predictions[name], predictions[teacher], on_device.labels_m, sources)
    if ensemble:
        results[teacher].tokens = results[ensemble[0]].tokens
        results[teacher].seconds = sum(results[name].seconds for name in ensemble)
    return results


def micro_batches(evaluator: Evaluator) -> Iterator[Batch]:
    """Yield the held-out micro-batches, as many as the evaluator reads."""
    for part in evaluated(evaluator.batches, evaluator.max_tokens):
        batch = evaluator.batches.micro_batch(0, part.index, part.sequences)
        assert batch is not None, "empty micro-batches are not evaluated"
        yield batch


class Sources:
    """Looks up the source of every masked token of a micro-batch.

    Args:
        shards: The split.
    """

    def __init__(self, shards: Shards):
        self.starts = np.concatenate([[0], np.cumsum(shards.sizes, dtype=np.int64)])[shards.doc_index]
        self.names = np.array([str(document["source"]) for document in shards.documents()])

    def __call__(self, batch: Batch) -> npt.NDArray[np.str_]:
        """Look up the sources, [m]."""
        assert batch.places_m is not None
        return self.names[np.searchsorted(self.starts, batch.places_m, side="right") - 1]


@dataclass(frozen=True)
class Predictions:
    """A model's predictions at masked positions.

    Args:
        log_mv: Log-probabilities.
        best_m: The most likely piece.
    """

    log_mv: Tensor
    best_m: Tensor


def _mean(each: Sequence[Predictions]) -> Predictions:
    """Average several models' probabilities."""
    log_mv = torch.stack([one.log_mv for one in each]).logsumexp(0) - math.log(len(each))
    return Predictions(log_mv, log_mv.argmax(-1))


def _predict(model: MaskedLM, batch: Batch, results: ModelResults, device: Device, vocab_size: int) -> Predictions:
    """Predict the masked pieces; time, tokens and hidden states are added to the results."""
    start = time.perf_counter()
    with device.autocast():
        hidden = model.encoder(batch.packed)
        logits_mv = model.logits(hidden[-1][batch.positions_m])
    log_mv = F.log_softmax(logits_mv.float(), dim=-1)
    if device.torch.type == "cuda":
        torch.cuda.synchronize()
    results.seconds += time.perf_counter() - start
    if results.tokens < CKA_TOKENS:
        results.states.append([x_th.float() for x_th in hidden])
    results.tokens += len(batch.packed.input_ids_t)
    return Predictions(log_mv[:, :vocab_size], logits_mv[:, :vocab_size].argmax(-1))


def _add_sums(
    results: ModelResults, model: Predictions, teacher: Predictions, labels_m: Tensor, sources: npt.NDArray[np.str_]
) -> None:
    columns = {
        "loss": -model.log_mv.gather(1, labels_m[:, None])[:, 0],
        "right": model.best_m == labels_m,
        "kl": (teacher.log_mv.exp() * (teacher.log_mv - model.log_mv)).sum(1),
        "agree": model.best_m == teacher.best_m,
    }
    values = {name: column.cpu().numpy() for name, column in columns.items()}
    for source in (ALL, *np.unique(sources)):
        of_source = np.ones(len(sources), bool) if source == ALL else sources == source
        sums = results.sources[str(source)]
        sums.masked += int(of_source.sum())
        for name, value in values.items():
            setattr(sums, name, getattr(sums, name) + value[of_source].sum().item())


def layer_similarity(results: Mapping[str, ModelResults], student: str, teacher: str) -> list[list[float]]:
    """Give the CKA of the student's layers (rows) with the teacher's (columns)."""
    return layer_similarities(results[student].hidden(), results[teacher].hidden())
