"""What people got: how often they like one version's answers better than another's."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from learnback_simulator.http import Server
from learnback_simulator.preferences import Score

RESAMPLES = 5000


@dataclass(frozen=True)
class Comparison:
    """Two versions' answers to one prompt; `outcome` is 1 if the new one is liked better, 0 if
    the old one is, 0.5 if both are liked the same."""

    prompt: str
    old: str
    new: str
    outcome: float


@dataclass(frozen=True)
class WinRate:
    """A win rate with its 95 % percentile bootstrap interval over prompts (Efron 1979)."""

    rate: float
    low: float
    high: float
    comparisons: tuple[Comparison, ...]


async def measure(
    server: Server,
    score: Score,
    prompts: Sequence[str],
    *,
    old: str,
    new: str,
    max_tokens: int = 40,
    temperature: float = 0.7,
    concurrency: int = 16,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> WinRate:
    """Ask both versions the same prompts with the same seeds, and judge without error.

    `store: false` keeps these answers out of the server's training.
    """
    gate = asyncio.Semaphore(concurrency)
    done = 0

    async def answer(version: str, index: int, prompt: str) -> str:
        nonlocal done
        async with gate:
            (given,) = await server.ask(
                version,
                prompt,
                n=1,
                max_tokens=max_tokens,
                user="measure",
                temperature=temperature,
                seed=seed * 1_000_003 + index,
                store=False,
            )
        done += 1
        progress(done, 2 * len(prompts))
        return given.text

    async with asyncio.TaskGroup() as group:
        tasks = [
            (p, group.create_task(answer(old, i, p)), group.create_task(answer(new, i, p)))
            for i, p in enumerate(prompts)
        ]
    comparisons = tuple(
        Comparison(p, a.result(), b.result(), _outcome(score, p, a.result(), b.result()))
        for p, a, b in tasks
    )
    low, high = bootstrap([c.outcome for c in comparisons], seed)
    rate = sum(c.outcome for c in comparisons) / len(comparisons)
    return WinRate(rate, low, high, comparisons)


def bootstrap(outcomes: Sequence[float], seed: int = 0) -> tuple[float, float]:
    """The 2.5th and 97.5th percentile of the mean over resamples with replacement."""
    dice = random.Random(seed)
    count = len(outcomes)
    means = sorted(sum(dice.choices(outcomes, k=count)) / count for _ in range(RESAMPLES))
    return means[int(0.025 * RESAMPLES)], means[int(0.975 * RESAMPLES) - 1]


def _outcome(score: Score, prompt: str, old: str, new: str) -> float:
    difference = score(prompt, new) - score(prompt, old)
    return 0.5 if difference == 0 else float(difference > 0)
