"""What is decided about an adaptation, against figures that follow from the definitions."""

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from biomlm.core.errors import ConfigError
from biomlm.launch.adaptation.phases import LARGEST_STEP, RATES, STEPS, Trial, phases, rate_for

BASE = Trial(110_000_000, False, True, 512, 1, 8192, 10_000.0, "cuda")
HOUR = 3600.0


def plan(trial: Trial = BASE, **tokens: float) -> list[Any]:
    return phases(trial, tokens, most_passes=3, seconds=None)


def test_one_kind_of_text_is_one_phase() -> None:
    (phase,) = plan(notes=100e6)
    assert (phase.name, phase.sources, phase.tokens, phase.schedule) == ("adapted", (), 300e6, "linear")


def test_notes_beside_other_text_come_last_and_alone() -> None:
    general, adapted = plan(notes=20e6, pubmed=80e6)
    assert (general.sources, general.tokens, general.schedule) == ((), 300e6, "constant")
    assert (adapted.sources, adapted.tokens, adapted.schedule) == (("notes",), 60e6, "sqrt")
    assert [phase.mask_rate for phase in plan(replace(BASE, rotary=True), notes=1e6, pmc=1e6)] == [0.3, 0.15]


def test_a_budget_limits_the_passes_and_less_than_one_is_refused_in_two_lines() -> None:
    one = 100e6 / BASE.tokens_per_second / 0.8
    (phase,) = phases(BASE, {"notes": 100e6}, most_passes=3, seconds=1.5 * one)
    assert phase.passes == pytest.approx(1.5, abs=0.01)
    (phase,) = phases(BASE, {"notes": 100e6}, most_passes=3, seconds=100 * one)
    assert phase.passes == 3
    with pytest.raises(ConfigError) as error:
        phases(BASE, {"notes": 100e6}, most_passes=3, seconds=0.99 * one)
    problem, remedy = str(error.value).split("\n")
    assert "one pass over these 100,000,000 tokens takes 3:28:20" in problem
    assert "and the budget is 3:26:" in problem
    assert remedy.startswith("Raise --budget")


def test_the_rates_of_the_published_runs_come_out_at_their_batches() -> None:
    """EMBO's 64 examples of 128 tokens, and Gururangan et al.'s 2,048 of 512, which the table was not made from."""
    for tokens, rate in ((64 * 128, 5e-5), (2048 * 512, 5e-4)):
        table = rate_for(BASE)
        assert table.rate * math.sqrt(tokens / table.tokens) == pytest.approx(rate, rel=0.15)
    modern = replace(BASE, rotary=True, parameters=150_000_000)
    assert (rate_for(modern).rate, rate_for(replace(modern, parameters=396_000_000)).rate) == (3e-4, 5e-5)


def test_the_table_has_a_rate_for_every_model() -> None:
    for rotary in (False, True):
        for parameters in (1_000_000, 60_000_000, 355_000_000, 8_900_000_000):
            assert rate_for(replace(BASE, rotary=rotary, parameters=parameters)) in RATES


@given(
    notes=st.floats(1e4, 1e11),
    other=st.floats(0, 1e11),
    processes=st.sampled_from([1, 4, 8, 64]),
    micro=st.sampled_from([512, 4096, 65_536]),
)
def test_steps_are_of_a_size_that_the_processes_share_evenly(
    notes: float, other: float, processes: int, micro: int
) -> None:
    trial = replace(BASE, processes=processes, micro_batch=micro)
    for phase in phases(trial, {"notes": notes, "pubmed": other}, most_passes=2, seconds=None):
        step = phase.micro_batch * phase.accumulation
        assert phase.accumulation % processes == 0
        assert 512 <= phase.micro_batch <= max(micro, 512)
        assert step <= max(1.05 * LARGEST_STEP, processes * 512)
        assert phase.steps >= 1
        if phase.tokens >= STEPS * processes * 512:
            assert phase.steps >= 0.45 * STEPS
            assert phase.steps * step == pytest.approx(phase.tokens, rel=0.01)
