"""Which of two reward models knows people better: a paired test on pairs that both were judged by.

A model is told by its margins: by how much it prefers the better answer of each held-out pair, in
calibrated logits, by feedback id. Whether it is linear or neural does not matter. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

FEW_PAIRS = 10
"""Below this many pairs in common no comparison of two models means anything."""
Z_95 = 1.645
"""One-sided."""
MIN_DIFFERENCE = 0.001
"""In nats: between two models that are both certain, any difference is significant and none
matters."""
Margins = Mapping[str, float]


@dataclass(frozen=True)
class Judged:
    """A reward model by what it makes of held-out pairs."""

    neural: bool
    margins: Margins


def may_replace(new: Judged, old: Judged) -> bool:
    """Whether the alias may move from `old` to `new`: not to what is significantly worse, and from
    a neural model to a linear one only if that is significantly better (decision 0025)."""
    if old.neural and not new.neural:
        return significantly_worse(old.margins, new.margins)
    return not significantly_worse(new.margins, old.margins)


def significantly_worse(one: Margins, other: Margins) -> bool:
    """Whether `one` predicts held-out choices worse than `other`, beyond chance.

    A paired z-test on the log losses, one-sided at 95%; False with too few pairs to tell.
    """
    common = sorted(set(one) & set(other))
    if len(common) < FEW_PAIRS:
        return False
    losses = np.logaddexp(0.0, [[-one[i], -other[i]] for i in common])  # (pairs, 2), in nats
    differences = losses[:, 0] - losses[:, 1]  # (pairs,), above 0: `one` is worse
    error = float(differences.std(ddof=1)) / math.sqrt(len(common))
    return float(differences.mean()) > max(Z_95 * error, MIN_DIFFERENCE)
