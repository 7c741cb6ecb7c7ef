"""Held-out masked-LM loss: the same tokens and masks for every model on the same shards, so that figures can be compared."""

import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from biolm.model.device import Device
from biolm.model.encoder import MaskedLM
from biolm.pretrain.batches import Batch, Batches
from biolm.pretrain.config import BatchConfig, MlmConfig
from biolm.pretrain.loader import Loader
from biolm.pretrain.mixture import Sources
from biolm.pretrain.objective import PretrainObjective, Totals
from biolm.pretrain.sequences import NO_LABEL
from biolm.pretrain.shards import Shards

I64 = npt.NDArray[np.int64]
F64 = npt.NDArray[np.float64]

LARGEST = 700.0  # nats whose exponential a float holds
EVAL_SEED = 20_200_101  # not the run's seed: runs with different seeds are compared on the same masks


def held_out_batches(batches: Batches, max_tokens: float, device: Device) -> Iterator[Batch]:
    """The micro-batches of the first epoch on their device, until they have held so many tokens; a thread makes them."""
    tokens = 0
    with Loader(lambda index: batches.micro_batch(0, index), 0, batches.per_epoch) as loader:
        for _ in range(batches.per_epoch):
            batch = loader.take()
            if batch is None or tokens >= max_tokens:
                return
            tokens += len(batch.packed.input_ids_t)
            yield batch.to(device.torch)


class PairEvaluator:
    """Evaluates a pair objective on pairs of the held-out split, masked as the other held-out tokens are.

    Args:
        shards: The held-out ones.
        batch: Sizes of micro-batches and form of pairs.
        mask_rate: Share of tokens that are masked.
        max_tokens: Stop after this many tokens; 0 for all.
        objective: Has the pooler and the classifier.
        segments: Whether the model has token types.
    """

    def __init__(
        self,
        shards: Shards,
        batch: BatchConfig,
        mask_rate: float,
        max_tokens: int,
        objective: PretrainObjective,
        segments: bool,
    ):
        sizes = BatchConfig(batch.tokens, 1, batch.max_length, "pairs", batch.short_seq_prob)
        pair = objective.config.pair
        self.batches = Batches(shards, MlmConfig(mask_rate=mask_rate), sizes, EVAL_SEED, pair, segments)
        self.max_tokens, self.objective = max_tokens or math.inf, objective

    def __call__(self, model: MaskedLM, device: Device) -> dict[str, float]:
        """Mean loss and accuracy by their names, of a model in evaluation mode."""
        sums: dict[str, float] = defaultdict(float)
        pairs = 0
        with torch.inference_mode():
            for batch in held_out_batches(self.batches, self.max_tokens, device):
                with device.autocast():
                    terms = self.objective.pair_terms(model.encoder(batch.packed)[-1], batch, Totals(1, 1))
                for name, value in terms.items():
                    sums[name] += float(value)
                assert batch.pair_labels_b is not None
                pairs += int((batch.pair_labels_b != NO_LABEL).sum())
        return {name: value / max(pairs, 1) for name, value in sums.items()}


@dataclass(frozen=True)
class HeldOut:
    """What a model makes of the held-out split.

    Args:
        loss: Cross-entropy at the masked positions, in nats.
        accuracy: Share of masked tokens predicted exactly, from 0 to 1.
        perplexity: exp(loss).
        masked_tokens: Positions predicted.
        tokens: Real tokens read.
        pairs: Loss (nats) and accuracy of the pair objective, by their names; empty without one.
        sources: The same by source of the documents; empty where all are of one.
    """

    loss: float
    accuracy: float
    perplexity: float
    masked_tokens: int
    tokens: int
    pairs: dict[str, float] = field(default_factory=dict)
    sources: dict[str, dict[str, float]] = field(default_factory=dict)

    def as_metrics(self) -> dict[str, float]:
        """For `metrics.jsonl`; a source's figures are named `loss/pubmed` and so on."""
        values = asdict(self)
        pairs, sources = values.pop("pairs"), values.pop("sources")
        by_source = {f"{name}/{source}": v for source, found in sources.items() for name, v in found.items()}
        return {**values, **pairs, **by_source}


class Evaluator:
    """Evaluates on one split.

    Args:
        shards: The held-out ones.
        batch: Sizes of micro-batches.
        mask_rate: Share of tokens to predict.
        max_tokens: Stop after this many tokens; 0 for all.
        pairs: Evaluates the pair objective, if there is one.
    """

    def __init__(
        self,
        shards: Shards,
        batch: BatchConfig,
        mask_rate: float,
        max_tokens: int,
        pairs: PairEvaluator | None = None,
    ):
        sizes = BatchConfig(tokens=batch.tokens, max_length=batch.max_length)
        self.shards, self.pairs = shards, pairs
        self.batches = Batches(shards, MlmConfig(mask_rate=mask_rate), sizes, EVAL_SEED)
        self.max_tokens = max_tokens or math.inf
        self.sources = Sources.read(shards, "source")

    def __call__(self, model: MaskedLM, device: Device) -> HeldOut:
        """Loss and accuracy in inference mode; the model's training mode is put back."""
        training = model.training
        model.eval()
        sums = np.zeros((3, len(self.sources.names)))  # loss, predicted rightly and predicted at all, by source
        tokens = 0
        with torch.inference_mode():
            for batch in held_out_batches(self.batches, self.max_tokens, device):
                tokens += len(batch.packed.input_ids_t)
                source_m = self._source(batch)
                for row, values_m in enumerate((*self._scores(model, batch, device), np.ones(len(source_m)))):
                    sums[row] += np.bincount(source_m, values_m, len(self.sources.names))
        related = {} if self.pairs is None else self.pairs(model, device)
        model.train(training)
        by_source = {name: _means(*sums[:, i]) for i, name in enumerate(self.sources.names) if sums[2, i]}
        whole = _means(*sums.sum(1))
        return HeldOut(
            whole["loss"],
            whole["accuracy"],
            whole["perplexity"],
            int(whole["masked_tokens"]),
            tokens,
            related,
            by_source if len(self.sources.names) > 1 else {},
        )

    def _source(self, batch: Batch) -> I64:
        """The source of every predicted token."""
        assert batch.places_m is not None
        return self.sources.at(batch.places_m)

    @staticmethod
    def _scores(model: MaskedLM, batch: Batch, device: Device) -> tuple[F64, F64]:
        """Of every predicted token its cross-entropy (nats), and 1 if it is predicted rightly, else 0."""
        with device.autocast():
            logits_mv = model(batch.packed, batch.positions_m)
        loss_m = F.cross_entropy(logits_mv.float(), batch.labels_m, reduction="none")
        right_m = logits_mv.gather(1, batch.labels_m[:, None])[:, 0] == logits_mv.amax(-1)
        loss, right = torch.stack([loss_m, right_m.float()]).double().cpu().numpy()
        return loss, right


def _means(loss: float, right: float, masked: float) -> dict[str, float]:
    """From sums over predicted tokens."""
    mean = float(loss / max(masked, 1))
    return {
        "loss": mean,
        "accuracy": float(right / max(masked, 1)),
        "perplexity": math.exp(min(mean, LARGEST)),
        "masked_tokens": int(masked),
    }
