"""The counter-based generator: pure, uniform enough, and pinned by a golden value so that old runs can be resumed."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from biomlm.core import rng


@given(st.integers(0, 2**63), st.integers(1, 300))
def test_permutation_is_a_permutation(seed: int, n: int) -> None:
    assert sorted(rng.permutation(rng.key(seed, "x"), n).tolist()) == list(range(n))


@given(st.integers(0, 2**40), st.lists(st.integers(0, 2**50), min_size=1, max_size=20))
def test_numbers_depend_on_their_counter_alone(seed: int, counters: list[int]) -> None:
    together = rng.uniform(rng.key(seed), np.array(counters))
    alone = [rng.uniform(rng.key(seed), np.array([c]))[0] for c in counters]
    assert together.tolist() == alone


def test_uniform_has_the_right_moments_and_no_correlation() -> None:
    u = rng.uniform(rng.key(7, "mask", 3), np.arange(200_000))
    assert 0 <= u.min() < u.max() < 1
    assert abs(u.mean() - 0.5) < 0.003
    assert abs(u.var() - 1 / 12) < 0.001
    assert abs(np.corrcoef(u[:-1], u[1:])[0, 1]) < 0.01
    other = rng.uniform(rng.key(7, "mask", 4), np.arange(200_000))
    assert abs(np.corrcoef(u, other)[0, 1]) < 0.01


def test_integers_cover_their_range() -> None:
    drawn = rng.integers(rng.key(1), np.arange(5000), 4, 9)
    assert sorted(set(drawn.tolist())) == [4, 5, 6, 7, 8]


def test_golden_values() -> None:
    """If these change, runs that were begun before can no longer be resumed bit for bit."""
    assert rng.key(1, "mask", 2) == 11183092741191873276
    assert rng.permutation(rng.key(0, "order", 0), 6).tolist() == [4, 1, 0, 5, 3, 2]
