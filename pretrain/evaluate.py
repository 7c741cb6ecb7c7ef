"""Held-out masked-LM loss: the same tokens and masks for every model on the same shards, so that figures can be compared."""

import math
from collections import defaultdict
from dataclasses import asdict, dataclass, field

import torch

from biolm.model.device import Device
from biolm.model.encoder import MaskedLM
from biolm.pretrain.batches import Batches
from biolm.pretrain.config import BatchConfig, MlmConfig
from biolm.pretrain.objective import PretrainObjective, Totals, mlm_terms
from biolm.pretrain.sequences import NO_LABEL
from biolm.pretrain.shards import Shards

EVAL_SEED = 20_200_101  # not the run's seed: runs with different seeds are compared on the same masks


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
        pairs = tokens = 0
        with torch.inference_mode():
            for index in range(self.batches.per_epoch):
                batch = self.batches.micro_batch(0, index)
                if batch is None or tokens >= self.max_tokens:
                    break
                batch = batch.to(device.torch)
                with device.autocast():
                    terms = self.objective.pair_terms(model.encoder(batch.packed)[-1], batch, Totals(1, 1))
                for name, value in terms.items():
                    sums[name] += float(value)
                assert batch.pair_labels_b is not None
                pairs, tokens = (
                    pairs + int((batch.pair_labels_b != NO_LABEL).sum()),
                    tokens + len(batch.packed.input_ids_t),
                )
        return {name: value / max(pairs, 1) for name, value in sums.items()}


@dataclass(frozen=True)
class HeldOut:
    """What a model makes of the held-out split.

    Args:
        loss: Cross-entropy at the masked positions, in nats.
        accuracy: Share of masked tokens predicted exactly, from 0 to 1.
        masked_tokens: Positions predicted.
        tokens: Real tokens read.
        pairs: Loss (nats) and accuracy of the pair objective, by their names; empty without one.
    """

    loss: float
    accuracy: float
    masked_tokens: int
    tokens: int
    pairs: dict[str, float] = field(default_factory=dict)

    def as_metrics(self) -> dict[str, float]:
        """For `metrics.jsonl`."""
        values = asdict(self)
        pairs = values.pop("pairs")
        return {**values, **pairs}


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

    def __call__(self, model: MaskedLM, device: Device) -> HeldOut:
        """Loss and accuracy in inference mode; the model's training mode is put back."""
        training = model.training
        model.eval()
        loss = right = 0.0
        masked = tokens = 0
        with torch.inference_mode():
            for index in range(self.batches.per_epoch):
                batch = self.batches.micro_batch(0, index)
                if batch is None or tokens >= self.max_tokens:
                    break
                batch = batch.to(device.torch)
                with device.autocast():
                    logits_mv = model(batch.packed, batch.positions_m)
                terms = mlm_terms(logits_mv, batch.labels_m, Totals(masked=1, tokens=1))
                loss, right = loss + float(terms["loss"]), right + float(terms["accuracy"])
                masked, tokens = masked + len(batch.labels_m), tokens + len(batch.packed.input_ids_t)
        related = {} if self.pairs is None else self.pairs(model, device)
        model.train(training)
        return HeldOut(loss / max(masked, 1), right / max(masked, 1), masked, tokens, related)
