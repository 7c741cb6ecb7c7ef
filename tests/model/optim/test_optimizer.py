"""Schedules against Hugging Face's, AdamW's groups and state, and LAMB and StableAdamW against their papers."""

import math
import sys
import types
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import (
    get_cosine_schedule_with_warmup,
    get_linear_schedule_with_warmup,
    get_polynomial_decay_schedule_with_warmup,
)

from biomlm.core.errors import CheckpointError, ConfigError
from biomlm.core.fields import without_effect
from biomlm.model.optim.config import OptimConfig
from biomlm.model.optim.optimizer import Optimizer, schedule
from biomlm.model.optim.registry import OPTIMISERS, Row

STEPS, WARM = 200, 20


def ours(**settings: object) -> list[float]:
    config = OptimConfig(warmup=WARM / STEPS, **settings)  # type: ignore[arg-type]
    return [schedule(step, STEPS, config) for step in range(STEPS)]


@pytest.mark.parametrize(
    ("settings", "make"),
    [
        ({"schedule": "linear"}, get_linear_schedule_with_warmup),
        ({"schedule": "cosine"}, get_cosine_schedule_with_warmup),
        (
            {"schedule": "polynomial", "power": 2.0, "final": 0.0},
            lambda o, w, n: get_polynomial_decay_schedule_with_warmup(o, w, n, lr_end=0.0, power=2.0),
        ),
    ],
)
def test_decays_equal_hugging_faces(settings: dict[str, object], make: object) -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = make(optimizer, WARM, STEPS)  # type: ignore[operator]
    mine = ours(**settings)
    for step in range(STEPS):
        if step >= WARM:
            assert mine[step] == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-9)
        optimizer.step()
        theirs.step()


@pytest.mark.parametrize("name", ["linear", "cosine", "polynomial", "wsd", "sqrt"])
def test_every_decay_rises_holds_and_ends_at_its_share(name: str) -> None:
    rates = ours(schedule=name, final=0.1, decay=0.25)
    assert rates[:WARM] == pytest.approx([(i + 1) / WARM for i in range(WARM)])
    assert max(rates) <= 1
    assert all(a >= b for a, b in zip(rates[WARM:], rates[WARM + 1 :], strict=False))
    assert rates[-1] == pytest.approx(0.1, abs=0.02)
    if name in ("wsd", "sqrt"):
        assert rates[WARM : STEPS - 50] == [1.0] * (STEPS - 50 - WARM)
        assert rates[STEPS - 25] == pytest.approx(0.1 + 0.9 * (0.5 if name == "wsd" else 1 - 0.5**0.5))


def test_constant_stays() -> None:
    assert ours(schedule="constant", final=0.5)[WARM:] == [1.0] * (STEPS - WARM)


def test_biases_and_norms_are_not_decayed_and_the_update_is_torchs() -> None:
    torch.manual_seed(0)
    model, twin = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4)), nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))
    twin.load_state_dict(model.state_dict())
    config = OptimConfig(lr=0.1, weight_decay=0.5, clip=0, warmup=0, schedule="constant")
    optimizer = Optimizer(dict(model.named_parameters()), 0, config, 10)
    groups = [
        {"params": [twin[0].weight], "weight_decay": 0.5},
        {"params": [twin[0].bias, *twin[1].parameters()], "weight_decay": 0.0},
    ]
    reference = torch.optim.AdamW(groups, lr=0.1, betas=config.betas, eps=config.eps)
    x = torch.randn(5, 3)
    for step in range(3):
        model(x).pow(2).sum().backward()
        optimizer.step(step)
        reference.zero_grad()
        twin(x).pow(2).sum().backward()
        reference.step()
    for a, b in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def by_hand(name: str, w: np.ndarray, grads: list[np.ndarray], config: OptimConfig) -> np.ndarray:
    """The papers' algorithms on one matrix, with the bias taken off by dividing."""
    (b1, b2), m, v = config.betas, np.zeros_like(w), np.zeros_like(w)
    for t, g in enumerate(grads, 1):
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
        mean, square = m / (1 - b1**t), v / (1 - b2**t)
        update = mean / (np.sqrt(square) + config.eps)
        if name == "lamb":
            update = update + config.weight_decay * w
            w = w - config.lr * np.linalg.norm(w) / np.linalg.norm(update) * update
        else:
            rate = config.lr / max(1.0, np.sqrt((g * g / np.maximum(square, config.eps**2)).mean()))
            w = w - rate * config.weight_decay * w - rate * update
    return w


@pytest.mark.parametrize("name", ["lamb", "stableadamw"])
def test_other_optimisers_follow_their_papers_and_go_on_from_their_moments(name: Any) -> None:
    """The third gradient is a hundred times the others, which StableAdamW must damp."""
    rng = np.random.default_rng(0)
    start = rng.normal(size=(4, 3)).astype(np.float32)
    grads = [rng.normal(size=(4, 3)).astype(np.float32) * (100 if i == 2 else 1) for i in range(5)]
    config = OptimConfig(name=name, lr=0.1, weight_decay=0.3, clip=0, warmup=0, schedule="constant")

    def run(w: nn.Parameter, optimizer: Optimizer, steps: range) -> None:
        for step in steps:
            w.grad = torch.from_numpy(grads[step])
            optimizer.step(step)

    w = nn.Parameter(torch.from_numpy(start.copy()))
    optimizer = Optimizer({"w": w}, 0, config, 10)
    run(w, optimizer, range(3))
    resumed = nn.Parameter(w.detach().clone())
    again = Optimizer({"w": resumed}, 0, config, 10)
    again.load({k: t.clone() for k, t in optimizer.tensors().items()}, 3)
    run(w, optimizer, range(3, 5))
    run(resumed, again, range(3, 5))
    np.testing.assert_allclose(w.detach().numpy(), by_hand(name, start, grads, config), atol=2e-6)
    assert torch.equal(w, resumed)


def test_an_option_that_an_optimiser_does_not_read_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    row = Row(build_at="biomlm.model.optim.adamw:build", about="made up", options=("betas",), state=("exp_avg",))
    monkeypatch.setitem(OPTIMISERS, "made", row)  # type: ignore[misc]
    given = OptimConfig(name="made", betas=(0.5, 0.5), eps=1e-3, weight_decay=0.5)
    idle = dict(without_effect(given))
    assert idle.keys() == {"eps", "weight_decay"}
    assert idle["eps"].startswith("--optim.name adamw or lamb")
    assert not dict(without_effect(OptimConfig(name="lamb", betas=(0.5, 0.5), eps=1e-3, weight_decay=0.5)))


def test_lamb_leaves_tensors_without_decay_to_adam() -> None:
    bias, twin = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
    config = OptimConfig(name="lamb", lr=0.1, clip=0, warmup=0, schedule="constant")
    reference = torch.optim.AdamW([twin], lr=0.1, betas=config.betas, eps=config.eps, weight_decay=0)
    optimizer = Optimizer({"bias": bias}, 0, config, 10)
    for step in range(3):
        bias.grad = twin.grad = torch.tensor([1.0, -2.0, 0.5 * step])
        optimizer.step(step)
        reference.step()
    torch.testing.assert_close(bias, twin)


class AsInApex(torch.optim.Optimizer):
    """Signatures and counts as in apex/optimizers/fused_adam.py and fused_lamb.py at its release 25.09; the arithmetic is left out."""

    def __init__(self, params: Any, **defaults: Any):
        super().__init__(params, defaults)

    def zero_grad(self) -> None:  # type: ignore[override]
        raise AssertionError("it takes no set_to_none")

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            if "step" in group:
                group["step"] += 1
            else:
                group["step"] = 1


class FusedAdam(AsInApex):
    def __init__(self, params: Any, lr: float = 1e-3, bias_correction: bool = True, betas: Any = (0.9, 0.999), eps: float = 1e-8,
                 adam_w_mode: bool = True, weight_decay: float = 0.0, amsgrad: bool = False, set_grad_none: bool = True,
                 capturable: bool = False, master_weights: bool = False):  # fmt: skip
        assert adam_w_mode
        assert not capturable
        assert not master_weights
        assert not amsgrad
        super().__init__(
            params, lr=lr, bias_correction=bias_correction, betas=betas, eps=eps, weight_decay=weight_decay
        )


class FusedLAMB(AsInApex):
    def __init__(self, params: Any, lr: float = 1e-3, bias_correction: bool = True, betas: Any = (0.9, 0.999), eps: float = 1e-6,
                 weight_decay: float = 0.01, amsgrad: bool = False, adam_w_mode: bool = True, grad_averaging: bool = True,
                 set_grad_none: bool = True, max_grad_norm: float = 1.0, use_nvlamb: bool = False):  # fmt: skip
        assert max_grad_norm == 0, "the gradient is clipped already"
        assert grad_averaging
        assert not use_nvlamb, "tensors without decay take the plain step"
        super().__init__(
            params, lr=lr, bias_correction=bias_correction, betas=betas, eps=eps, weight_decay=weight_decay
        )


@pytest.mark.parametrize(("name", "fused"), [("adamw", FusedAdam), ("lamb", FusedLAMB)])
def test_apexs_fused_optimisers_are_taken_by_option_and_count_on(
    name: Any, fused: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its wiring only: apex itself has to be built for a GPU."""
    w, config = nn.Parameter(torch.ones(2, 2)), OptimConfig(name=name, apex=True, betas=(0.5, 0.6), eps=1e-3)
    with pytest.raises(ConfigError, match="on a GPU only"):
        Optimizer({"w": w}, 0, config, 10)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(ConfigError, match="is not installed, or was built without CUDA"):
        Optimizer({"w": w}, 0, config, 10)
    monkeypatch.setitem(sys.modules, "amp_C", types.ModuleType("amp_C"))
    monkeypatch.setitem(sys.modules, "apex", types.ModuleType("apex"))
    optimizers = types.ModuleType("apex.optimizers")
    vars(optimizers)[fused.__name__] = fused
    monkeypatch.setitem(sys.modules, "apex.optimizers", optimizers)
    optimizer = Optimizer({"w": w}, 0, config, 10)
    assert isinstance(optimizer.inner, fused)
    optimizer.load({"exp_avg.w": torch.ones(2, 2), "exp_avg_sq.w": torch.ones(2, 2)}, 7)
    w.grad = torch.ones(2, 2)
    optimizer.step(7)
    (group,) = optimizer.inner.param_groups
    assert (group["step"], group["betas"], group["eps"], group["weight_decay"]) == (8, (0.5, 0.6), 1e-3, 0.01)
    assert w.grad is None


def test_the_running_mean_of_the_weights_follows_its_formula_is_saved_and_takes_their_place() -> None:
    w = nn.Parameter(torch.zeros(2))
    config = OptimConfig(lr=0.1, ema=0.5, clip=0, warmup=0, schedule="constant")
    optimizer, mean = Optimizer({"w": w}, 0, config, 10), None
    for step in range(6):
        w.grad = torch.tensor([1.0, -1.0])
        optimizer.step(step)
        decay = min(0.5, (1 + step) / (10 + step))
        mean = w.detach().clone() if mean is None else decay * mean + (1 - decay) * w.detach()
    again = Optimizer({"w": w}, 0, config, 10)
    again.load(optimizer.tensors(), 6)
    trained = w.detach().clone()
    with again.averaged():
        torch.testing.assert_close(w.detach(), mean)
    assert torch.equal(w, trained)


def test_missing_moments_are_named() -> None:
    model = nn.Linear(2, 2)
    optimizer = Optimizer(dict(model.named_parameters()), 0, OptimConfig(), 10)
    with pytest.raises(CheckpointError, match="weight"):
        optimizer.load({}, 3)


def test_wrong_settings_are_refused() -> None:
    for settings in ({"lr": 0.0}, {"warmup": 2.0}, {"betas": (0.9, 1.0)}, {"final": -1.0}, {"decay": 0.0}):
        with pytest.raises(ConfigError):
            OptimConfig(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", get_args(get_type_hints(OptimConfig)["schedule"]))
def test_the_rate_never_falls_at_once(name: str) -> None:
    """Warm-up and decay that overlap would make it: they are refused."""
    for warmup, decay in np.random.default_rng(0).uniform(0.01, 1, (40, 2)).tolist():
        settings = {"schedule": name, "warmup": warmup, "decay": decay}
        if name in ("wsd", "sqrt") and warmup + decay > 1:
            with pytest.raises(ConfigError, match="overlap"):
                OptimConfig(**settings)
            continue
        rates = [schedule(step, 1000, OptimConfig(**settings)) for step in range(1000)]
        falling = 1000 * (decay if name in ("wsd", "sqrt") else 1 - warmup)
        steepest = 1 / math.sqrt(max(falling, 1)) if name == "sqrt" else 2 / max(falling, 2)
        assert -np.diff(rates).min() <= steepest + 1e-9


class Kernels(TorchDispatchMode):
    """Counts what is computed, and what the host waits for."""

    def __init__(self) -> None:
        super().__init__()
        self.count, self.reads = 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += not func.is_view
        self.reads += func.overloadpacket.__name__ in ("_local_scalar_dense", "item")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", ["lamb", "stableadamw"])
def test_steps_after_a_resume_wait_for_nothing_and_take_all_tensors_at_once(name: Any) -> None:
    def kernels(tensors: int) -> Kernels:
        named = {str(i): nn.Parameter(torch.ones(3, 2 + i % 3)) for i in range(tensors)}
        optimizer = Optimizer(named, 0, OptimConfig(name=name, clip=0), 10)
        optimizer.load({f"{m}.{n}": torch.ones_like(p) for n, p in named.items() for m in ("exp_avg", "exp_avg_sq")}, 7)
        for p in named.values():
            p.grad = torch.ones_like(p)
        with Kernels() as seen:
            optimizer.inner.step()
        assert [group["step"] for group in optimizer.inner.param_groups] == [8]
        return seen

    few, many = kernels(5), kernels(50)
    assert few.reads == many.reads == 0
    assert few.count == many.count <= 21
