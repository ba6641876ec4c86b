"""Ratios of paired rounds, with their spread. Pure."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

RESAMPLES = 2_000


@dataclass(frozen=True)
class Spread:
    """A median over rounds and its 95% bootstrap interval."""

    median: float
    low: float
    high: float
    rounds: int

    def shown(self, digits: int = 3) -> str:
        """`0.991 [0.985, 0.997]`."""
        return f"{self.median:.{digits}f} [{self.low:.{digits}f}, {self.high:.{digits}f}]"


def spread(values: Sequence[float], seed: int = 0) -> Spread:
    """The median of `values` with a percentile bootstrap interval (Efron 1979)."""
    if not values:
        raise ValueError("no round gave a value")
    chance = random.Random(seed)
    medians = sorted(median(chance.choices(values, k=len(values))) for _ in range(RESAMPLES))
    low, high = medians[int(0.025 * RESAMPLES)], medians[int(0.975 * RESAMPLES) - 1]
    return Spread(median(values), low, high, len(values))


def ratios(values: Sequence[float], against: Sequence[float]) -> list[float]:
    """Round by round, so that what disturbs both in one round cancels out."""
    return [a / b for a, b in zip(values, against, strict=True) if b]


def differences(values: Sequence[float], against: Sequence[float]) -> list[float]:
    """Round by round."""
    return [a - b for a, b in zip(values, against, strict=True)]
