"""Metrics of the reward process."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

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
SKIPPED = Counter(
    "learnback_reward_skipped_completions_total", "Completions with nothing to score.", ["reason"]
)
SWAPS = Counter("learnback_reward_model_swaps_total", "Times another reward model took over.")
READY = Gauge("learnback_reward_model_ready", "1 if there is a learned reward model, else 0.")


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


def swapped() -> None:
    """Another reward model took over."""
    SWAPS.inc()
    READY.set(1)
