"""What a rung is worth by the gold judge. Pure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

from learnback_simulator.measure import bootstrap
from learnback_simulator.preferences import Score

FAR = 5.0
"""Standard scores are cut here: what is no answer at all would else outweigh all that are."""


@dataclass
class Rung:
    """One row of the table."""

    name: str
    win_rate: float
    """Of its answers against the pretrained model's to the same prompts; a tie counts half."""
    low: float
    high: float
    """The 95 % bootstrap interval over prompts."""
    length: float
    """Mean tokens of an answer."""
    kl: float
    """From the pretrained model that is asked plainly, in nats per answer."""
    seconds: float
    """To make it; 0 where nothing is made."""
    answer_seconds: float
    """To write an answer, in batches."""
    signals: int
    """Ratings and comparisons that it learned from."""
    tasks: dict[str, float]
    """Share of made-up tasks solved, by kind."""
    metrics: dict[str, float] = field(default_factory=dict)
    """What its training run measured."""
    examples: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Scale:
    """Turns scores into standard deviations of the pretrained model's answers."""

    middle: float
    width: float

    @classmethod
    def of(cls, scores: Sequence[float]) -> Scale:
        """Median and interquartile range (1.349 standard deviations of a normal distribution):
        scores of broken answers may be absurdly low.
        """
        low, middle, high = statistics.quantiles(scores, n=4)
        return cls(middle, max((high - low) / 1.349, 1e-9))

    def standard(self, score: float) -> float:
        """Of one score, cut at `FAR`."""
        return min(max((score - self.middle) / self.width, -FAR), FAR)


def outcomes(
    score: Score, prompts: Sequence[str], new: Sequence[str], old: Sequence[str]
) -> list[float]:
    """1 where the gold judge likes the new answer better, 0 where the old one, else 0.5."""
    return [
        0.5 + 0.5 * _sign(score(prompt, a) - score(prompt, b))
        for prompt, a, b in zip(prompts, new, old, strict=True)
    ]


def interval(won: Sequence[float], seed: int) -> tuple[float, float, float]:
    """The win rate with its 95 % interval."""
    low, high = bootstrap(won, seed)
    return sum(won) / len(won), low, high


def smooth(points: Sequence[tuple[float, float]], width: int = 3) -> list[tuple[float, float]]:
    """Running means of `width` steps: a step has few answers, and its mean much noise."""
    found = []
    for end in range(width, len(points) + 1):
        window = points[end - width : end]
        found.append((sum(x for x, _ in window) / width, sum(y for _, y in window) / width))
    return found or list(points)


def root(kl: float) -> float:
    """The axis of over-optimisation curves (Gao et al. 2022, arXiv:2210.10760)."""
    return math.sqrt(max(kl, 0.0))


def _sign(value: float) -> int:
    return (value > 0) - (value < 0)
