"""Confidence sequences of quantiles hold at all sizes at once."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from learnback.release.quantiles import quantile


@pytest.mark.parametrize(("q", "truth"), [(0.5, np.log(2)), (0.95, np.log(20))])
def test_the_quantile_is_inside_at_every_size(q: float, truth: float) -> None:
    """Of an exponential distribution, looked at 40 times: at most 5% ever miss it."""
    missed = 0
    for seed in range(200):
        values = np.random.default_rng(seed).exponential(size=2000)
        found = [quantile(values[:n], q) for n in range(50, 2001, 50)]
        missed += any(
            (f.low is not None and truth < f.low) or (f.high is not None and truth > f.high)
            for f in found
            if f is not None
        )
    assert missed <= 10


def test_more_observations_narrow_it() -> None:
    values = np.random.default_rng(0).exponential(size=100_000)
    small, large = quantile(values[:2000], 0.5), quantile(values, 0.5)
    assert small is not None
    assert large is not None
    assert large.high - large.low < (small.high - small.low) / 3  # type: ignore[operator]


@given(st.lists(st.floats(0, 100), min_size=1, max_size=300), st.floats(0.01, 0.99))
def test_the_value_is_within_its_interval(values: list[float], q: float) -> None:
    found = quantile(values, q)
    assert found is not None
    assert found.low is None or found.low <= found.value
    assert found.high is None or found.value <= found.high


def test_few_observations_bound_nothing() -> None:
    found = quantile([1.0, 2.0, 3.0], 0.95)
    assert found is not None
    assert (found.low, found.high) == (None, None)
    assert quantile([], 0.5) is None
