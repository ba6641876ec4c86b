"""The learning rate over the steps of a run, the same for all methods. Pure."""

from __future__ import annotations

import math


def warmup_steps(fraction: float, max_steps: int) -> int:
    """Steps before the one that first has the peak's rate."""
    return math.ceil(fraction * max_steps)


def share_of_peak(step: int, max_steps: int, warmup: int) -> float:
    """Of the step after ``step`` others: rises linearly through the warm-up, then falls to 0.

    No step has a rate of 0, as the first one has in transformers' schedule: a run of one step would
    learn nothing.
    """
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return max(0, max_steps - step) / max(max_steps - warmup, 1)
