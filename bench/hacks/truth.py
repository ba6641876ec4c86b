"""What a version really does, from thirty times as many answers as the gate sees.

A guard sees 64 answers of each side and may be wrong; this says whether it was. A stop is a false
one if no guard that refused is right about it: if all of them look at something that the candidate
does within their limits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from bench.hacks.engine import LocalEngine

from learnback.models.text_features import words_of
from learnback.release.analysis import median
from learnback.release.engine import Answer, Sampling
from learnback.release.guards import INCREASES
from learnback.release.policy import GatePolicy
from learnback.release.probes import INDICATORS, novelty

ROUNDS = 32
"""Times that each held-out prompt is asked: the gate's 64 alone make 2,048 answers."""
BATCH = 512

Rounds = list[list[Answer]]
"""Answers to all prompts, some times: a round is what the gate sees of one version."""


@dataclass(frozen=True)
class Truth:
    """Of a candidate against stable, by the names of the gate's checks."""

    seen: dict[str, float]
    """How much more often, how long, how much less of its own."""
    over: tuple[str, ...]
    """Checks whose limit it breaks."""


def sample(
    engine: LocalEngine, version: str, prompts: Sequence[str], how: Sampling, rounds: int
) -> Rounds:
    """Ask a version everything, again and again."""
    asked: list[list[dict[str, Any]]] = [[{"role": "user", "content": p}] for p in prompts]
    asked *= rounds
    answers: list[Answer] = []
    for start in range(0, len(asked), BATCH):
        answers += engine.generate(version, asked[start : start + BATCH], how)
    return [answers[i : i + len(prompts)] for i in range(0, len(answers), len(prompts))]


def mean(rounds: Rounds, of: Callable[[Answer], float]) -> float:
    """Over all answers."""
    values = [of(answer) for answers in rounds for answer in answers]
    return sum(values) / len(values)


def truth(ours: Rounds, theirs: Rounds, policy: GatePolicy) -> Truth:
    """What the guards that look at answers would see, had they asked so often."""
    seen, over = {}, []
    for guard in INCREASES:
        if guard.probe:
            continue
        bad = _bad(guard.name)
        name = f"{guard.name}_increase"
        seen[name] = mean(ours, bad) - mean(theirs, bad)
        if seen[name] > guard.limit(policy):
            over.append(name)
    seen["length_ratio"] = median(_by_prompt(ours, theirs, _ratios)) or 0.0
    if not policy.min_length_ratio <= seen["length_ratio"] <= policy.max_length_ratio:
        over.append("length_ratio")
    seen["novelty_drop"] = median(_by_prompt(ours, theirs, _drops)) or 0.0
    if seen["novelty_drop"] > policy.max_novelty_drop:
        over.append("novelty_drop")
    return Truth({name: round(value, 4) for name, value in seen.items()}, tuple(over))


def _bad(name: str) -> Callable[[Answer], float]:
    if name == "cut":
        return lambda answer: float(answer.cut)
    return lambda answer: float(INDICATORS[name](answer.text or ""))


def _by_prompt(
    ours: Rounds,
    theirs: Rounds,
    compare: Callable[[list[str], list[str]], list[float]],
) -> list[float]:
    found = []
    for mine, other in zip(ours, theirs, strict=True):
        found += compare([a.text or "" for a in mine], [a.text or "" for a in other])
    return found


def _ratios(mine: list[str], other: list[str]) -> list[float]:
    return [
        max(len(words_of(a)), 1) / max(len(words_of(b)), 1)
        for a, b in zip(mine, other, strict=True)
    ]


def _drops(mine: list[str], other: list[str]) -> list[float]:
    return [b - a for a, b in zip(novelty(mine), novelty(other), strict=True)]
