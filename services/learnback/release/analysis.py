"""Pure statistics of the gate: win rates with bootstrap intervals, proportions with Wilson's, and
exact tests of whether a candidate does something more often than stable."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

Array = NDArray[np.float64]

CONFIDENCE = 0.95
RESAMPLES = 4000
"""Puts the Monte-Carlo error of a bound near 0.001 at 64 prompts: far below its own width."""


class Estimate(BaseModel):
    """A rate with its interval, of 95% unless told; `n` independent observations are behind it."""

    model_config = ConfigDict(frozen=True)

    rate: float
    low: float
    high: float
    n: int


class Contrast(BaseModel):
    """How often each side did something that it should not, on the same prompts.

    `p` is the chance of so large an excess of the candidate's if both were alike (one-sided).
    """

    model_config = ConfigDict(frozen=True)

    n: int
    candidate: float
    stable: float
    p: float

    @property
    def increase(self) -> float:
        """The candidate's rate less stable's."""
        return self.candidate - self.stable


def more_often(ours: Sequence[bool], theirs: Sequence[bool]) -> Contrast | None:
    """Whether the candidate does something more often than stable; None without prompts.

    The exact test of McNemar (1947, Psychometrika 12:153-157): where just one of the two did it,
    a fair coin decides which. What both do on the same prompt says nothing.
    """
    if not ours:
        return None
    pairs = list(zip(ours, theirs, strict=True))
    only_ours = sum(a and not b for a, b in pairs)
    only_theirs = sum(b and not a for a, b in pairs)
    return Contrast(
        n=len(pairs),
        candidate=sum(ours) / len(pairs),
        stable=sum(theirs) / len(pairs),
        p=at_least(only_ours, only_ours + only_theirs),
    )


def at_least(heads: int, tosses: int) -> float:
    """The chance of at least so many heads of a fair coin: the sign test, exact."""
    if heads <= 0:
        return 1.0
    return sum(math.comb(tosses, k) for k in range(heads, tosses + 1)) / (1 << tosses)


def outcome(candidate: float, stable: float, tolerance: float = 1e-9) -> float:
    """A paired comparison of scores: 1 if the candidate wins, 0.5 for a tie, 0 if it loses."""
    if abs(candidate - stable) <= tolerance:
        return 0.5
    return 1.0 if candidate > stable else 0.0


def win_rate(
    outcomes: Sequence[float],
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
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
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return _at_least_wilson(values, float(low), float(high), confidence)


def _at_least_wilson(values: Array, low: float, high: float, confidence: float) -> Estimate:
    """Ties carry less variance than wins and losses, so Wilson's is taken over what was decided."""
    rate = float(values.mean())
    decided = values[values != 0.5]
    if len(decided):
        wilson = proportion(float(decided.sum()), len(decided), confidence)
        share = len(decided) / len(values)
        low = min(low, share * wilson.low + (1 - share) / 2)
        high = max(high, share * wilson.high + (1 - share) / 2)
    return Estimate(rate=rate, low=low, high=high, n=len(values))


def proportion(successes: float, n: int, confidence: float = CONFIDENCE) -> Estimate:
    """A proportion with Wilson's score interval (Wilson 1927, JASA 22:209-212).

    `successes` may count ties as halves. Without observations the interval is [0, 1]. Raises
    ValueError unless 0 <= successes <= n.
    """
    if not 0 <= successes <= n:
        raise ValueError(f"{successes} of {n} is no proportion")
    if n == 0:
        return Estimate(rate=0.5, low=0.0, high=1.0, n=0)
    rate = successes / n
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    z2 = z**2
    centre = (rate + z2 / (2 * n)) / (1 + z2 / n)
    half = z * math.sqrt(rate * (1 - rate) / n + z2 / (4 * n * n)) / (1 + z2 / n)
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
