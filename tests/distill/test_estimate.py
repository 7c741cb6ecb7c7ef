"""Plans of distillations: every part by hand, and a step's memory and products as they are measured."""

import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from biomlm.convert.config import ConvertConfig
from biomlm.core.errors import MismatchError
from biomlm.core.fleet import Before, find
from biomlm.distill.commands.cache import CacheBuilder
from biomlm.distill.config import DistillConfig
from biomlm.distill.estimate import beside_of, estimate, estimate_cache, position_bytes, teachers_of
from biomlm.distill.losses.config import LossConfig
from biomlm.distill.objective import DistillObjective
from biomlm.distill.teachers.cache_config import CacheConfig
from biomlm.distill.teachers.teacher import Teachers
from biomlm.model.config import EncoderConfig, ModelConfig
from biomlm.model.device import Device
from biomlm.model.encoder import MaskedLM
from biomlm.model.flops import step_flops
from biomlm.model.kernels import linear
from biomlm.model.packed import Packed
from biomlm.pretrain.config import PretrainConfig
from biomlm.pretrain.data.batches import Batch
from biomlm.pretrain.data.config import BatchConfig
from biomlm.pretrain.planning.estimate import need, parameters
from biomlm.training.objective import LossDenominators

LENGTH, ROWS, VOCABULARY, MASKED = 32, 16, 8192, 77
BASE, LARGE = (ModelConfig(size=size).resolve(50_048, 512, 1) for size in ("base", "large"))  # type: ignore[arg-type]
KL = LossConfig(hidden=0)


def config_of(loss: LossConfig = KL, **other: Any) -> DistillConfig:
    given: dict[str, Any] = {"shards": "s", "out": "o", "teacher": "t", "precision": "bf16", "loss": loss, **other}
    return DistillConfig(**given)


def test_a_teacher_is_held_in_the_runs_precision_and_passes_once() -> None:
    found = beside_of(config_of(), BASE, [LARGE])
    assert (found.trained, found.kept, found.frozen) == (0, 0, 2 * parameters(LARGE))
    # forward: 2 a weight of the layers, attention over 512 tokens, and the head at 77 of them
    by_hand = 24 * (2 * 12 * 1024**2 + 4 * 1024 * 512) + 77 / 512 * 2 * 1024 * (1024 + 50_048)
    assert found.flops == pytest.approx(by_hand)
    assert found.logit == 2 + 2 + 2, "both sides' logits and their gradient in bf16"
    assert beside_of(config_of(precision="fp32"), BASE, [LARGE]).logit == 12
    assert beside_of(config_of(teacher=["a", "b"]), BASE, [LARGE, LARGE]).logit == 8
    small = ModelConfig(size="small").resolve(50_048, 512, 1)
    alone = need(small, 8192, 8, half=True, recompute=True)
    with_teacher = need(small, 8192, 8, half=True, recompute=True, beside=found)
    assert with_teacher.states[3] - alone.states[3] == pytest.approx(2 * parameters(LARGE) / 1e9), "not shared out"
    passing = 25 * 2 * 1024 + 42 * 1024 + 16 * 4  # the teacher's states, and a layer at work
    assert with_teacher.activations + with_teacher.head == pytest.approx(passing * 8192 / 1e9)
    assert need(BASE, 8192, 8, half=True, recompute=False, beside=found).activations == pytest.approx(
        12 * (42 * 768 + 12 * 4) * 8192 / 1e9
    ), "which a larger student's own exceed"


def test_compared_states_and_relations_are_kept() -> None:
    states = beside_of(config_of(LossConfig(layers="uniform", embeddings=1)), BASE, [LARGE])
    assert states.trained == 13 * 768 * 1024
    assert states.kept == 13 * 1024 * (2 + 4 + 4)
    assert states.flops - beside_of(config_of(), BASE, [LARGE]).flops == 3 * 2 * states.trained
    relations = beside_of(config_of(LossConfig(hidden=0, relations=1, relation_heads=16)), BASE, [LARGE])
    assert relations.kept == 3 * 1024 * 2 + 3 * (768 * 2 + 2 * 4 * 16 * 512)


def test_a_cache_needs_no_teacher() -> None:
    found = beside_of(config_of(teacher="", cache="c"), BASE, [LARGE])
    assert (found.frozen, found.passing, found.flops, found.logit) == (0, 0, 0, 6)
    waiting = beside_of(config_of(cache="c"), BASE, [LARGE])
    assert (waiting.frozen, waiting.flops) == (4 * parameters(LARGE), 0), "to be evaluated beside the student"


def test_another_vocabularys_teacher_has_float32() -> None:
    loss = LossConfig(kl=0)
    found = beside_of(config_of(loss, vocabulary="words"), BASE, [LARGE])
    assert found.frozen == 4 * parameters(LARGE)
    assert found.kept == 1024 * (4 + 4 + 4)
    assert found.logit == 6, "of the masked-LM loss: the gradient and its way back"


def test_a_deeper_student_is_refused_before_it_is_run() -> None:
    with pytest.raises(MismatchError, match="24 layers, this teacher only 12"):
        beside_of(config_of(), LARGE, [BASE])


def test_a_teacher_is_known_from_the_stage_that_makes_it(tmp_path: Path) -> None:
    """Trained, converted, or through a cache of its answers; and one that is there is read."""
    large = PretrainConfig(shards="s", out="r/large", model=ModelConfig(size="large"))
    cache = CacheConfig(shards="s", teacher="r/hf", out="r/cache")
    made = {"r/large": large, "r/hf": ConvertConfig("r/large", "r/hf", "hf"), "r/cache": cache}
    before = Before(50_048, {Path(folder): config for folder, config in made.items()})
    for given in ({"teacher": "r/large/checkpoints/step_9"}, {"teacher": "r/hf"}, {"teacher": "", "cache": "r/cache"}):
        assert teachers_of(config_of(**given), before) == [LARGE]


def test_a_teacher_that_is_there_is_read(teacher_run: Path) -> None:
    (found,) = teachers_of(config_of(teacher=str(teacher_run)), Before(50_048))
    assert found == EncoderConfig.load(teacher_run)


def test_the_plan_of_a_distillation_adds_up() -> None:
    large = PretrainConfig(shards="s", out="r/large", model=ModelConfig(size="large"))
    config, fleet = (
        config_of(teacher="r/large", batch=BatchConfig(accumulation=512)),
        replace(find("a100-80gb"), measured=0.4),
    )
    rows = estimate(config, fleet, Before(50_048, {Path("r/large"): large}))
    a_token = step_flops(BASE, [512], 77) / 512 + step_flops(LARGE, [512], 77) / 512 / 3
    assert rows["tokens a second"] == pytest.approx(8 * 312e12 * 0.4 / a_token, rel=1e-6)
    assert rows["parameters of the teachers"] == parameters(LARGE)
    assert rows["computing, of which beside the student"] == f"{step_flops(LARGE, [512], 77) / 3 / 512 / a_token:.0%}"
    assert rows["GB of a checkpoint"] == round(12 * parameters(BASE) / 1e9, 2), "the teacher is not saved"


@pytest.mark.parametrize(("kind", "k"), [("top", 64), ("sample", 64), ("sample", 300)])
def test_a_caches_bytes_are_bounded(kind: str, k: int, teacher_run: Path, tiny_shards: Path) -> None:
    """By the plan, for what is written; of 300 draws among few pieces many are equal."""
    config = CacheConfig(
        shards=str(tiny_shards),
        teacher=str(teacher_run),
        steps=1,
        batch=BatchConfig(tokens=256, max_length=32),
        kind=kind,  # type: ignore[arg-type]
        k=k,
        hidden=[2],
        precision="fp32",
        out="c",
    )
    builder = CacheBuilder(config)
    (batch,) = builder.curriculum.step(0)
    tokens, masked = len(batch.packed.input_ids_t), len(batch.labels_m)
    bound = masked * position_bytes(config, builder.shards.vocab_size) + tokens * 2 * 48
    assert 0.3 * bound < len(builder.encode_batch(batch)) < bound
    rows = estimate_cache(config, find("a100-80gb"), Before(builder.shards.vocab_size))
    assert rows["tokens in all"] == 256


def test_a_cache_of_a_large_model_by_hand() -> None:
    large = PretrainConfig(shards="s", out="r/large", model=ModelConfig(size="large"))
    config = CacheConfig(shards="s", teacher="r/large", steps=100_000, out="c", precision="bf16", hidden=[24])
    rows = estimate_cache(config, replace(find("v100-32gb"), measured=0.3), Before(50_048, {Path("r/large"): large}))
    tokens = 100_000 * 8192
    assert rows["GB of the cache, before compression"] == round(tokens * (0.15 * (64 * 3 + 4) + 2 * 1024) / 1e9, 2)
    hours = tokens * step_flops(LARGE, [512], 77) / 512 / 3 / (125e12 * 0.3) / 3600
    assert rows["GPU-hours"] == round(hours)
    by_roofline = estimate_cache(config, find("v100-32gb"), Before(50_048, {Path("r/large"): large}))["GPU-hours"]
    assert isinstance(by_roofline, int)
    assert hours * 0.3 / 0.68 < by_roofline < hours, (
        "kernels beside products take time, and less than at a share of 30%"
    )


class Peak(TorchDispatchMode):
    """Bytes of tensors made under it that live at the same time, at most."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count the storages that come out."""
        inside = {x.untyped_storage()._cdata for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)}
        result = func(*args, **(kwargs or {}))
        for x in tree_leaves(result):
            if isinstance(x, torch.Tensor) and (key := x.untyped_storage()._cdata) not in self.known | inside:
                self.known.add(key)
                self.now += x.untyped_storage().nbytes()
                weakref.finalize(x.untyped_storage(), self._gone, key, x.untyped_storage().nbytes())
        self.most = max(self.most, self.now)
        return result

    def _gone(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.now -= size


@pytest.mark.parametrize(
    "loss",
    [KL, LossConfig(layers="uniform", embeddings=1), LossConfig(kl=0, mlm=0, hidden=0, relations=1)],
    ids=["kl", "states", "relations"],
)
def test_a_steps_memory_and_products_are_planned(loss: LossConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "DTYPES", set())  # whose products the counter does not know
    monkeypatch.setattr(
        "biomlm.distill.losses.predictions.BLOCK", 2 * VOCABULARY
    )  # of a few MB, which are much beside a model this small
    sizes = {"hidden_dropout": 0.0, "attention_dropout": 0.0, "num_attention_heads": 2}
    student = ModelConfig(num_hidden_layers=2, hidden_size=64, **sizes).resolve(VOCABULARY, LENGTH, 1)  # type: ignore[arg-type]
    teacher = ModelConfig(num_hidden_layers=4, hidden_size=128, **sizes).resolve(VOCABULARY, LENGTH, 1)  # type: ignore[arg-type]
    torch.manual_seed(0)
    models = MaskedLM(student).train(), MaskedLM(teacher)
    for model in models:
        model.encoder.use_attention("loop")
    answerer = Teachers([models[1]], Device(torch.device("cpu"), "fp32"), VOCABULARY, loss.temperature)
    objective = DistillObjective(answerer, student, loss, vocab_size=VOCABULARY, steps=10, sources=["teacher"])
    tokens = LENGTH * ROWS
    ids_t, positions_m = torch.randint(4, VOCABULARY, (tokens,)), torch.arange(MASKED)
    batch = Batch(Packed(ids_t, (LENGTH,) * ROWS), positions_m, ids_t[:MASKED])
    config = config_of(loss, precision="fp32", batch=BatchConfig(tokens=tokens, max_length=LENGTH))
    beside = beside_of(config, student, [teacher])
    with Peak() as peak, FlopCounterMode(display=False) as counted:
        objective(models[0], batch, LossDenominators(MASKED, tokens))["loss"].backward()
    planned = need(student, tokens, 1, half=False, recompute=False, mask_rate=MASKED / tokens, beside=beside)
    flops = step_flops(student, [LENGTH] * ROWS, MASKED if objective.config.predicts else 0) + tokens * beside.flops
    assert (planned.activations + planned.head) * 1e9 == pytest.approx(peak.most, rel=0.1)
    assert flops == pytest.approx(counted.get_total_flops(), rel=0.05), (
        "attention, which the counter misses here, is 4%"
    )
