"""Held-out masked-LM loss: the same tokens and masks for every model on the same shards, so that figures can be compared."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from biomlm.model.device import Device
from biomlm.model.encoder import MaskedLM
from biomlm.model.kernels.cross_entropy import is_predicted
from biomlm.pretrain.data.batches import Batch, Batches
from biomlm.pretrain.data.config import BatchConfig
from biomlm.pretrain.data.dataset import Shards
from biomlm.pretrain.data.mixture import Sources
from biomlm.pretrain.objectives.config import MlmConfig, Pairing
from biomlm.pretrain.objectives.term import Term
from biomlm.training.distributed.engine import Engine
from biomlm.training.distributed.process_group import RankInfo, World
from biomlm.training.objective import LossDenominators
from biomlm.training.prefetch import Prefetcher

I64 = npt.NDArray[np.int64]
F64 = npt.NDArray[np.float64]

DIVERGED = 2.0  # times the loss of a blind guess among all pieces: beginnings are near 1
LARGEST = 700.0  # nats whose exponential a float holds
EVAL_SEED = 20_200_101  # not the run's seed: runs with different seeds are compared on the same masks


@dataclass(frozen=True)
class Part:
    """A micro-batch of the held-out split.

    Args:
        index: Of the first epoch.
        sequences: How many of its sequences, from the first one on.
    """

    index: int
    sequences: int


def evaluated(batches: Batches, max_tokens: float) -> list[Part]:
    """List the first sequences of the first epoch, until they hold so many tokens: the same ones for any size of micro-batches."""
    plan = batches.order.plan(0)
    tokens = plan.epoch.sequences.tokens[plan.order]
    before = np.cumsum(tokens) - tokens
    bounds = np.minimum(plan.bounds, np.searchsorted(before, max_tokens))
    return [Part(index, size) for index, size in enumerate(np.diff(bounds).tolist()) if size]


def sums_of(
    batches: Batches,
    max_tokens: float,
    device: Device,
    world: World,
    *,
    width: int,
    score: Callable[[Batch], Sequence[float]],
) -> F64:
    """Sum what `score` returns for every held-out micro-batch, in their order.

    The ranks compute micro-batches round-robin and all-reduce the table of scores, so the result has the same bits on any number of ranks.

    Args:
        batches: Of the held-out split.
        max_tokens: As `evaluated` takes it.
        device: Where `score` wants its micro-batches.
        world: The ranks, which must all call this.
        width: How many sums there are.
        score: The sums of one micro-batch.
    """
    parts = evaluated(batches, max_tokens)
    turns = -(-len(parts) // world.size)
    places = range(world.rank, turns * world.size, world.size)
    sums_nw = np.zeros((turns * world.size, width))

    def make(turn: int) -> Batch | None:
        # Ranks must go forward equally often where weights are sharded: behind the last micro-batch it is computed again, and cut off.
        part = parts[min(places[turn], len(parts) - 1)]
        return batches.micro_batch(0, part.index, part.sequences)

    with Prefetcher(make, 0, turns) as prefetcher:
        for place in places:
            world.break_off_if_asked()
            batch = next(prefetcher)
            assert batch is not None, "empty micro-batches are not evaluated"
            sums_nw[place] = score(batch.to(device.torch))
    world.all_reduce(torch.from_numpy(sums_nw))
    total_w: F64 = sums_nw[: len(parts)].sum(0)
    return total_w


class TermEvaluator:
    """Evaluates one of the terms that are learnt beside the masked-LM loss, on the held-out split masked as its other evaluation is.

    Args:
        shards: The held-out ones.
        batch: Sizes of micro-batches, and form of pairs.
        mask_rate: Share of tokens that are masked.
        max_tokens: Stop after this many tokens; 0 for all.
        term: With its trained layers.
        pairing: Which pairs the sequences are, if the run's are.
        segments: Whether the model has token types.
    """

    def __init__(
        self,
        shards: Shards,
        batch: BatchConfig,
        mask_rate: float,
        max_tokens: int,
        *,
        term: Term,
        pairing: Pairing | None,
        segments: bool,
    ):
        sizes = BatchConfig(batch.tokens, 1, batch.max_length)
        if pairing is not None:
            sizes = replace(sizes, form="pairs", short_seq_prob=batch.short_seq_prob)
        mlm = MlmConfig(mask_rate=mask_rate)
        self.batches = Batches(shards, mlm, sizes, EVAL_SEED, pairing=pairing, segments=segments)
        self.max_tokens, self.term = max_tokens or math.inf, term

    def __call__(self, model: MaskedLM, device: Device, world: World) -> dict[str, float | None]:
        """Compute the means of the term's figures by their names, and its shares, of a model in evaluation mode."""
        names = [*self.term.figures, *self.term.kinds]

        def score(batch: Batch) -> Sequence[float]:
            with device.autocast():
                states_rh = model.encoder(batch.packed, self.term.rows(batch))[-1]
                figures = self.term(model, states_rh, batch, 1.0)
            total = getattr(LossDenominators.of([batch]), self.term.over)
            return [*map(float, figures), *self.term.counts(batch), total]

        with torch.inference_mode():
            *sums, total = sums_of(self.batches, self.max_tokens, device, world, width=len(names) + 1, score=score)
        return {name: _mean(value, total) for name, value in zip(names, sums, strict=True)}


@dataclass(frozen=True, kw_only=True)
class EvalResult:
    """A model's figures on the held-out split; a mean over nothing is None.

    Args:
        loss: Cross-entropy at the masked positions, in nats.
        accuracy: Share of masked tokens predicted exactly, from 0 to 1.
        perplexity: exp(loss).
        masked_tokens: Positions predicted.
        tokens: Real tokens read.
        pairs: Figures of the objectives beside masked language modelling, by their names; empty without one.
        sources: The same by source of the documents; empty where all are of one.
    """

    loss: float | None
    accuracy: float | None
    perplexity: float | None
    masked_tokens: int
    tokens: int
    pairs: dict[str, float | None] = field(default_factory=dict)
    sources: dict[str, dict[str, float | None]] = field(default_factory=dict)

    def as_metrics(self) -> dict[str, float]:
        """Return the figures for `metrics.jsonl`, without means over nothing; a source's figures are named `loss/pubmed` and so on."""
        values = asdict(self)
        pairs, sources = values.pop("pairs"), values.pop("sources")
        by_source = {f"{name}/{source}": v for source, figures in sources.items() for name, v in figures.items()}
        return {name: v for name, v in {**values, **pairs, **by_source}.items() if v is not None}


class Evaluator:
    """Evaluates on one split.

    Args:
        shards: The held-out ones.
        batch: Sizes of micro-batches.
        mask_rate: Share of tokens to predict.
        max_tokens: Stop after this many tokens; 0 for all.
        terms: Evaluate what is learnt beside the masked-LM loss.
        world: The ranks, which share the work; by default this process is alone.
    """

    def __init__(
        self,
        shards: Shards,
        batch: BatchConfig,
        mask_rate: float,
        max_tokens: int,
        *,
        terms: Sequence[TermEvaluator] = (),
        world: World | None = None,
    ):
        sizes = BatchConfig(tokens=batch.tokens, max_length=batch.max_length)
        self.shards, self.terms, self.world = shards, terms, world or World(RankInfo())
        self.batches = Batches(shards, MlmConfig(mask_rate=mask_rate), sizes, EVAL_SEED)
        self.max_tokens = max_tokens or math.inf
        self.sources = Sources.read(shards, "source")

    def __call__(self, model: MaskedLM, device: Device) -> EvalResult:
        """Compute loss and accuracy in inference mode, on all ranks at once; the model's training mode is restored."""
        training, names = model.training, self.sources.names
        model.eval()

        def score(batch: Batch) -> Sequence[float]:
            source_m = self._source(batch)
            columns = (*self._scores(model, batch, device), np.ones(len(source_m)))
            by_source = [np.bincount(source_m, values_m, len(names)) for values_m in columns]
            return [len(batch.packed.input_ids_t), *np.concatenate(by_source)]

        with torch.inference_mode():
            tokens, *by_column = sums_of(
                self.batches, self.max_tokens, device, self.world, width=1 + 3 * len(names), score=score
            )
        sums = np.reshape(by_column, (3, len(names)))  # loss, predicted rightly and predicted at all, by source
        others = {name: value for term in self.terms for name, value in term(model, device, self.world).items()}
        model.train(training)
        by_source = {name: _means(*sums[:, i]) for i, name in enumerate(names) if sums[2, i]}
        whole = _means(*sums.sum(1))
        return EvalResult(
            loss=whole["loss"],
            accuracy=whole["accuracy"],
            perplexity=whole["perplexity"],
            masked_tokens=int(sums[2].sum()),
            tokens=int(tokens),
            pairs=others,
            sources=by_source if len(names) > 1 else {},
        )

    def _source(self, batch: Batch) -> I64:
        """Return the source of every predicted token."""
        assert batch.places_m is not None
        return self.sources.at(batch.places_m)

    @staticmethod
    def _scores(model: MaskedLM, batch: Batch, device: Device) -> tuple[F64, F64]:
        """Compute every predicted token's cross-entropy (nats), and 1 if it is predicted rightly, else 0."""
        with device.autocast():
            logits_mv = model(batch.packed, batch.positions_m)
        loss_m = F.cross_entropy(logits_mv.float(), batch.labels_m, reduction="none")
        right_m = is_predicted(logits_mv, batch.labels_m)
        loss, right = torch.stack([loss_m, right_m.float()]).double().cpu().numpy()
        return loss, right


def _means(loss: float, right: float, masked: float) -> dict[str, float | None]:
    """Turn sums over predicted tokens into means."""
    mean = _mean(loss, masked)
    return {
        "loss": mean,
        "accuracy": _mean(right, masked),
        "perplexity": None if mean is None else math.exp(min(mean, LARGEST)),
        "masked_tokens": int(masked),
    }


def _mean(total: float, count: float) -> float | None:
    return float(total / count) if count else None


class HeldOutEvaluation:
    """What pretraining and distillation evaluate between steps: the held-out split, by the weights and by their running mean.

    Args:
        evaluator: Of the held-out split.
        ema: Whether a running mean is kept.
        passes: Steps → how often each mixed source has been read, to be logged with it.
        examples: Writes sequences that the model has filled in; None for none.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        ema: bool,
        passes: Callable[[int], dict[str, float]],
        examples: Callable[[int, MaskedLM, Device], None] | None = None,
    ):
        self.evaluator, self.ema, self.passes, self.examples = evaluator, ema, passes, examples
        self.result: EvalResult | None = None
        self.ceiling: float | None = evaluator.shards.unigram_entropy

    def __call__(self, engine: Engine, step: int) -> dict[str, float]:
        """See `training.selection.Evaluation`."""
        with engine.summon_full_params() as model:
            assert isinstance(model, MaskedLM)
            self.result = self.evaluator(model, engine.device)
            if self.examples is not None:
                self.examples(step, model, engine.device)
        figures = self.result.as_metrics()
        if self.ema:
            with engine.ema_weights(), engine.summon_full_params() as model:
                assert isinstance(model, MaskedLM)
                ema = self.evaluator(model, engine.device).as_metrics()
            figures |= {f"ema_{name}": ema[name] for name in ("loss", "accuracy") if name in ema}
        epochs = {f"epochs/{name}": round(count, 4) for name, count in self.passes(step).items()}
        return {**figures, **epochs}

    def objection(self) -> str:
        """See `training.selection.Evaluation`: whether the run diverged."""
        guess = math.log(self.evaluator.shards.vocab_size)
        loss = None if self.result is None or not self.result.masked_tokens else self.result.loss
        if loss is None or loss <= DIVERGED * guess:
            return ""
        return f"the run diverged: its held-out loss is {loss:.3g}, and a blind guess has {guess:.3g}"
