"""Pure statistics of the gate: win rates with bootstrap intervals, proportions with Wilson's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

Array = NDArray[np.float64]

CONFIDENCE = 0.95
Z_95 = 1.959963984540054
"""The normal quantile of a two-sided 95% interval."""
RESAMPLES = 4000
"""Puts the Monte-Carlo error of a bound near 0.001 at 64 prompts: far below its own width."""


class Estimate(BaseModel):
    """A rate with its 95% interval; `n` independent observations stand behind it."""

    model_config = ConfigDict(frozen=True)

    rate: float
    low: float
    high: float
    n: int


def outcome(candidate: float, stable: float, tolerance: float = 1e-9) -> float:
    """A paired comparison of scores: 1 if the candidate wins, 0.5 for a tie, 0 if it loses."""
    if abs(candidate - stable) <= tolerance:
        return 0.5
    return 1.0 if candidate > stable else 0.0


def win_rate(
    outcomes: Sequence[float], *, seed: int = 0, resamples: int = RESAMPLES
) -> Estimate | None:
    """The mean of paired outcomes (1, 0.5, 0), one per prompt; None without any.

    Interval: percentile bootstrap over prompts (Efron 1979, Ann. Statist. 7:1-26; Efron and
    Tibshirani 1993, ch. 13), widened to at least Wilson's for the same count: with few prompts
    the percentile interval is too narrow, and with nothing but wins it has no width at all.
    """
    if not outcomes:
        return None
    values: Array = np.asarray(outcomes, dtype=np.float64)  # (n,)
    rng = np.random.default_rng(seed)
    drawn = rng.integers(0, len(values), size=(resamples, len(values)))  # (resamples, n)
    means = values[drawn].mean(axis=1)  # (resamples,)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return _at_least_wilson(values, float(low), float(high))


def _at_least_wilson(values: Array, low: float, high: float) -> Estimate:
    """Ties carry less variance than wins and losses, so Wilson's is taken over what was decided."""
    rate = float(values.mean())
    decided = values[values != 0.5]
    if len(decided):
        wilson = proportion(float(decided.sum()), len(decided))
        share = len(decided) / len(values)
        low = min(low, share * wilson.low + (1 - share) / 2)
        high = max(high, share * wilson.high + (1 - share) / 2)
    return Estimate(rate=rate, low=low, high=high, n=len(values))


def proportion(successes: float, n: int) -> Estimate:
    """A proportion with Wilson's score interval (Wilson 1927, JASA 22:209-212).

    `successes` may count ties as halves. Without observations the interval is [0, 1]. Raises
    ValueError unless 0 <= successes <= n.
    """
    if not 0 <= successes <= n:
        raise ValueError(f"{successes} of {n} is no proportion")
    if n == 0:
        return Estimate(rate=0.5, low=0.0, high=1.0, n=0)
    rate = successes / n
    z2 = Z_95**2
    centre = (rate + z2 / (2 * n)) / (1 + z2 / n)
    half = Z_95 * math.sqrt(rate * (1 - rate) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    return Estimate(
        rate=rate,
        low=min(rate, max(0.0, centre - half)),
        high=max(rate, min(1.0, centre + half)),
        n=n,
    )


def median(values: Sequence[float]) -> float | None:
    """The middle value; None without any."""
    return float(np.median(values)) if len(values) else None


def as_data(estimate: Estimate | None) -> dict[str, Any] | None:
    """For reports: JSON without infinities."""
    return estimate.model_dump() if estimate else None
