"""Schedules against Hugging Face's, and AdamW's groups and state."""

import pytest
import torch
from torch import nn
from transformers import (
    get_cosine_schedule_with_warmup,
    get_linear_schedule_with_warmup,
    get_polynomial_decay_schedule_with_warmup,
)

from biolm.core.errors import CheckpointError, ConfigError
from biolm.model.optim import AdamW, OptimConfig, schedule

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
    optimizer = AdamW(dict(model.named_parameters()), 0, config, 10)
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


def test_missing_moments_are_named() -> None:
    model = nn.Linear(2, 2)
    optimizer = AdamW(dict(model.named_parameters()), 0, OptimConfig(), 10)
    with pytest.raises(CheckpointError, match="weight"):
        optimizer.load({}, 3)


def test_wrong_settings_are_refused() -> None:
    for settings in ({"lr": 0.0}, {"warmup": 2.0}, {"betas": (0.9, 1.0)}, {"final": -1.0}, {"decay": 0.0}):
        with pytest.raises(ConfigError):
            OptimConfig(**settings)  # type: ignore[arg-type]
