"""The gate's statistics cover what they claim to cover."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from learnback.release.analysis import median, outcome, proportion, win_rate

outcomes = st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=1, max_size=60)


@given(outcomes, st.integers(0, 3))
def test_the_interval_holds_the_rate(values: list[float], seed: int) -> None:
    found = win_rate(values, seed=seed, resamples=200)
    assert found is not None
    assert 0 <= found.low <= found.rate + 1e-12
    assert found.rate - 1e-12 <= found.high <= 1
    assert found.n == len(values)


@given(outcomes)
def test_swapping_the_sides_mirrors_the_rate(values: list[float]) -> None:
    found, mirrored = win_rate(values), win_rate([1 - v for v in values])
    assert found is not None
    assert mirrored is not None
    assert found.rate == pytest.approx(1 - mirrored.rate)
    assert found.low == pytest.approx(1 - mirrored.high, abs=0.05)


def test_the_same_seed_gives_the_same_interval() -> None:
    values = [1.0, 0.0, 0.5, 1.0, 1.0] * 8
    assert win_rate(values, seed=3) == win_rate(values, seed=3)


def test_no_comparison_gives_no_rate() -> None:
    assert win_rate([]) is None
    assert median([]) is None


def test_ties_alone_prove_nothing() -> None:
    found = win_rate([0.5] * 100)
    assert found is not None
    assert (found.low, found.rate, found.high) == (0.5, 0.5, 0.5)


def test_wins_alone_still_have_a_width() -> None:
    found = win_rate([1.0] * 10)
    assert found is not None
    assert found.low < 0.8


@pytest.mark.parametrize("probability", [0.5, 0.65, 0.9])
def test_the_win_rate_interval_covers(probability: float) -> None:
    """At least 93% of 95% intervals hold the truth, at the size of a real evaluation."""
    rng = np.random.default_rng(11)
    covered = 0
    for trial in range(600):
        tied = rng.random(64) < 0.1
        won = rng.random(64) < probability
        values = np.where(tied, 0.5, won.astype(float))
        found = win_rate(values.tolist(), seed=trial, resamples=400)
        assert found is not None
        truth = 0.9 * probability + 0.05
        covered += found.low <= truth <= found.high
    assert covered / 600 >= 0.93


def test_wilson_matches_published_values() -> None:
    """Newcombe 1998 (Statist. Med. 17:857), method 3: 81/263 and 15/148, and 0/20."""
    for successes, n, low, high in [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
    ]:
        found = proportion(successes, n)
        assert (found.low, found.high) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(0, 500), st.integers(0, 500))
def test_wilson_stays_within_bounds(a: int, b: int) -> None:
    found = proportion(a, a + b)
    assert 0 <= found.low <= found.rate <= found.high <= 1


def test_wilson_without_observations_knows_nothing() -> None:
    found = proportion(0, 0)
    assert (found.low, found.high) == (0, 1)


def test_more_successes_than_trials_are_refused() -> None:
    with pytest.raises(ValueError, match="no proportion"):
        proportion(3, 2)


@pytest.mark.parametrize(
    ("candidate", "stable", "expected"),
    [(1.0, 0.0, 1.0), (0.0, 1.0, 0.0), (0.3, 0.3, 0.5), (0.1 + 0.2, 0.3, 0.5)],
)
def test_outcomes(candidate: float, stable: float, expected: float) -> None:
    assert outcome(candidate, stable) == expected
