"""People who chat and compare: what a server learns from."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from learnback_simulator.http import Answer, Server
from learnback_simulator.people import Person


@dataclass
class Counts:
    """What happened in a session."""

    asked: int = 0
    answers: int = 0
    tokens: int = 0
    preferences: int = 0
    ties: int = 0
    silent: int = 0


Progress = Callable[[Counts], None]


async def chat_and_compare(
    server: Server,
    people: Sequence[Person],
    prompts: Sequence[str],
    *,
    model: str = "learnback",
    max_tokens: int = 40,
    temperature: float = 1.0,
    answers_each: int = 2,
    concurrency: int = 16,
    seed: int = 0,
    progress: Progress = lambda counts: None,
) -> Counts:
    """Each prompt is asked once, by one of `people`, who compares its answers in pairs.

    With `answers_each` n, a prompt gives n // 2 comparisons of different answers. Identical
    answers are not compared. `progress` is called after each prompt.
    """
    counts = Counts()
    gate = asyncio.Semaphore(concurrency)

    async def one(index: int, prompt: str) -> None:
        person = people[index % len(people)]
        async with gate:
            answers = await server.ask(
                model,
                prompt,
                n=answers_each,
                max_tokens=max_tokens,
                user=person.id,
                temperature=temperature,
                seed=seed * 1_000_003 + index,
            )
        counts.asked += 1
        counts.answers += len(answers)
        counts.tokens += sum(answer.tokens for answer in answers)
        for first, second in _pairs(answers, seed + index):
            await _compare(server, person, prompt, first, second, counts)
        progress(counts)

    async with asyncio.TaskGroup() as group:
        for index, prompt in enumerate(prompts):
            group.create_task(one(index, prompt))
    return counts


def _pairs(answers: Sequence[Answer], seed: int) -> list[tuple[Answer, Answer]]:
    """Disjoint pairs of different answers, in a random order on the screen."""
    different = list({answer.text.strip(): answer for answer in answers}.values())
    random.Random(seed).shuffle(different)
    return list(zip(different[::2], different[1::2], strict=False))


async def _compare(
    server: Server, person: Person, prompt: str, first: Answer, second: Answer, counts: Counts
) -> None:
    said = person.compare(prompt, first.text, second.text)
    if said is None:
        counts.silent += 1
        return
    await server.prefer(first, second, said, rater=person.id)
    if said.startswith("tie"):
        counts.ties += 1
    else:
        counts.preferences += 1
