"""Metrics of the reward process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter

from prometheus_client import Counter, Gauge, Histogram

from learnback.models.judge import Comparison
from learnback.reward.scorers.base import Verdict

SCORES = Counter(
    "learnback_reward_scores_total", "Choices judged, by scorer and outcome.", ["scorer", "outcome"]
)
SCORE = Histogram(
    "learnback_reward_score_points",
    "Scores given to completions; each scorer has a scale of its own.",
    ["scorer", "track"],
    buckets=(-3, -2, -1.5, -1, -0.5, -0.25, -0.1, 0, 0.1, 0.25, 0.5, 1, 1.5, 2, 3),
)
SCORING = Histogram(
    "learnback_reward_scoring_seconds", "Time that a scorer took for one batch.", ["scorer"]
)
SKIPPED = Counter(
    "learnback_reward_skipped_completions_total", "Completions with nothing to score.", ["reason"]
)
RESCORED = Counter(
    "learnback_reward_rescored_total", "Choices of old completions judged since somebody asked."
)
SWAPS = Counter("learnback_reward_model_swaps_total", "Times another reward model took over.")
READY = Gauge("learnback_reward_model_ready", "1 if there is a learned reward model, else 0.")
REFUSED = Gauge(
    "learnback_reward_model_refused",
    "1 while the reward model that the registry names can't be used here, and an older one scores.",
)
COMPARISONS = Counter(
    "learnback_reward_judge_comparisons_total",
    "Pairs judged in both orders: verdicts, ties, ties for one place in both orders, errors.",
    ["outcome"],
)


@contextmanager
def scoring(scorer: str) -> Iterator[None]:
    """Times one batch."""
    start = perf_counter()
    try:
        yield
    finally:
        SCORING.labels(scorer).observe(perf_counter() - start)


def scored(scorer: str, track: str, verdict: Verdict) -> None:
    """A scorer judged a choice (`score`), had nothing to judge (`unjudged`) or broke (`error`)."""
    if verdict.score is not None:
        SCORES.labels(scorer, "score").inc()
        SCORE.labels(scorer, track).observe(verdict.score)
        return
    SCORES.labels(scorer, "error" if verdict.fault else "unjudged").inc()


def skipped(reason: str) -> None:
    """A completion has nothing to score."""
    SKIPPED.labels(reason).inc()


def looked(*, swapped: bool, refused: bool) -> None:
    """The registry was asked for the reward model."""
    REFUSED.set(refused)
    if swapped:
        SWAPS.inc()
        READY.set(1)


def compared(comparison: Comparison) -> None:
    """A judge compared two answers."""
    if comparison.preferred is None:
        COMPARISONS.labels("error").inc()
    elif comparison.position is not None:
        COMPARISONS.labels(f"position_{comparison.position}").inc()
    else:
        COMPARISONS.labels("tie" if comparison.preferred == "tie" else "verdict").inc()
