"""Made-up tasks with one right answer, on words that no text contains: learning, not remembering.

Words are syllables drawn by a seed, so a model that solves them has the rule and not the answer.
Pure.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from typing import Literal

Kind = Literal["reverse", "swap"]
KINDS: tuple[Kind, ...] = ("reverse", "swap")
QUESTIONS: dict[Kind, str] = {
    "reverse": "Write the word {} with its letters in reverse order.",
    "swap": "Swap the first and the last word of this line, and write the new line: {}",
}
ONSETS, VOWELS = "bdfgklmnprstvz", "aeiou"
_WORD = re.compile(r"[a-z]+")


@dataclass(frozen=True)
class Task:
    """A question and its only right answer."""

    kind: Kind
    question: str
    answer: str


def make_tasks(kind: Kind, count: int, seed: int) -> list[Task]:
    """`count` different tasks of a kind; the same seed gives the same ones."""
    dice = random.Random(f"{seed}/{kind}")
    found: dict[str, Task] = {}
    while len(found) < count:
        task = _make(kind, dice)
        if task.answer not in task.question:
            found[task.question] = task
    return list(found.values())


def is_right(task: Task, said: str) -> bool:
    """Whether the words of the answer stand in what was said, together and in order; around them
    anything may stand ("The new line is: ...").
    """
    words, wanted = _WORD.findall(said.lower()), _WORD.findall(task.answer.lower())
    return any(words[i : i + len(wanted)] == wanted for i in range(len(words)))


def _make(kind: Kind, dice: random.Random) -> Task:
    words = [_word(dice) for _ in range(1 if kind == "reverse" else 4)]
    given = " ".join(words)
    answer = given[::-1] if kind == "reverse" else " ".join([words[-1], *words[1:-1], words[0]])
    return Task(kind, QUESTIONS[kind].format(given), answer)


def _word(dice: random.Random) -> str:
    """Two syllables and an end that is not the beginning, so that its reverse is another word."""
    first = dice.choice(ONSETS)
    inner = dice.choice(VOWELS) + dice.choice(ONSETS) + dice.choice(VOWELS)
    return first + inner + dice.choice([end for end in ONSETS if end != first])
