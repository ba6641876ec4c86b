"""The reward model of a dataset: fitted to its training rows, judged on prompts it never saw."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from learnback.models.linear_reward import LinearRewardModel, Pair, fit, metrics_of
from learnback.retraining.datasets.rows import PreferenceRow

MAX_ROWS = 20_000
"""More rows change a linear model little and cost 8 KB of memory each."""
FEW_PAIRS = 10
"""Below this many held-out pairs no comparison of two models means anything."""
Z_95 = 1.645
"""One-sided."""


def train(
    rows: Sequence[PreferenceRow], held_out: Sequence[PreferenceRow], *, seed: int
) -> tuple[LinearRewardModel, dict[str, Any]]:
    """Fit, and measure what it is worth. Raises ValueError without rows.

    `held_out_*` is measured strictly on held-out prompts; `held_out_raters_*` on people who were
    held out, whose prompts others may have judged in training.
    """
    model = fit(_pairs(sorted(rows, key=lambda r: r.prompt_key)[:MAX_ROWS]), seed=seed)
    metrics: dict[str, Any] = {
        "train_pairs": model.pairs,
        "temperature": model.temperature,
        "l2": model.l2,
        "word_scale": model.word_scale,
    }
    metrics |= metrics_of(model.evaluate(of_held_out_prompts(held_out)), "held_out")
    others = _pairs(row for row in held_out if row.side == "rater")
    metrics |= metrics_of(model.evaluate(others), "held_out_raters")
    return model, metrics


def of_held_out_prompts(held_out: Iterable[PreferenceRow]) -> list[Pair]:
    """The pairs that no model may ever have been fitted to."""
    return _pairs(row for row in held_out if row.side == "prompt")


def significantly_worse(
    new: LinearRewardModel, old: LinearRewardModel, pairs: Sequence[Pair]
) -> bool:
    """Whether the new model predicts held-out choices worse than the old one, beyond chance.

    A paired z-test on the log losses, one-sided at 95%; False with too few pairs to tell.
    """
    if len(pairs) < FEW_PAIRS:
        return False
    losses = np.array([[_loss(model, pair) for model in (new, old)] for pair in pairs])
    differences = losses[:, 0] - losses[:, 1]  # (pairs,), above 0: the new one is worse
    error = float(differences.std(ddof=1)) / math.sqrt(len(pairs))
    return float(differences.mean()) > Z_95 * error


def _loss(model: LinearRewardModel, pair: Pair) -> float:
    chance = model.win_probability(pair.prompt, pair.chosen, pair.rejected)
    return -math.log(max(chance, 1e-12))


def _pairs(rows: Iterable[PreferenceRow]) -> list[Pair]:
    return [Pair(r.prompt, r.chosen, r.rejected, r.votes * r.margin) for r in rows]
