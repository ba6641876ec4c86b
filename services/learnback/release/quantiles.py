"""Confidence sequences for quantiles, such as the 95th percentile of the time to first byte. Pure.

Howard and Ramdas 2022 (Sequential estimation of quantiles, Bernoulli 28:1704, arXiv:1906.09712),
theorem 1 with their recommended constants: with a probability of 1 - alpha the true quantile lies
between two order statistics at all sample sizes at once. Observations must be independent and of
one distribution, so these intervals are shown to people; decisions rest on `sequential`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict


class Quantile(BaseModel):
    """A quantile with its interval; None where too few observations bound it."""

    model_config = ConfigDict(frozen=True)

    q: float
    value: float
    low: float | None
    high: float | None
    n: int


def quantile(values: Sequence[float], q: float, alpha: float = 0.05) -> Quantile | None:
    """The sample quantile with its always-valid interval; None without observations."""
    if not len(values):
        return None
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    n = len(ordered)
    spread = deviation(n, q, alpha)
    return Quantile(
        q=q,
        value=float(ordered[_rank(n, q) - 1]),
        low=_at(ordered, n * (q - spread), math.floor),
        high=_at(ordered, n * (q + spread), lambda rank: math.ceil(rank) + 1),
        n=n,
    )


def deviation(n: int, q: float, alpha: float) -> float:
    """How far the empirical distribution may stray at the quantile after n observations."""
    rest = (1.4 * math.log(math.log(2.1 * n)) + math.log(10 / alpha)) / n if n > 1 else math.inf
    return 1.5 * math.sqrt(q * (1 - q) * rest) + 0.8 * rest


def _rank(n: int, q: float) -> int:
    return min(n, max(1, math.ceil(q * n)))


def _at(ordered: NDArray[np.float64], rank: float, rounded: Callable[[float], int]) -> float | None:
    if not math.isfinite(rank):
        return None
    place = rounded(rank)
    return float(ordered[place - 1]) if 1 <= place <= len(ordered) else None
