"""The reward model of a dataset: fitted to its training rows, judged on prompts it never saw."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from learnback.models.linear_reward import LinearRewardModel, Pair, fit, metrics_of
from learnback.retraining.datasets.rows import PreferenceRow

MAX_ROWS = 20_000
"""More rows change a linear model little and cost 8 KB of memory each."""


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


def held_out_margins(
    model: LinearRewardModel, held_out: Iterable[PreferenceRow]
) -> dict[str, float]:
    """By how much the model prefers the better answer of each pair of a held-out prompt, in logits
    by the pair's first feedback id."""
    return {
        row.feedback_ids[0]: model.score(row.prompt, row.chosen)
        - model.score(row.prompt, row.rejected)
        for row in held_out
        if row.side == "prompt"
    }


def _pairs(rows: Iterable[PreferenceRow]) -> list[Pair]:
    return [Pair(r.prompt, r.chosen, r.rejected, r.votes * r.margin) for r in rows]
