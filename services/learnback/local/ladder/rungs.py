"""The rungs that change no weights: ways to ask, applied exactly as they are served."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from learnback.inference.prompts import prompted
from learnback.local.ladder.tasks import Task

Messages = list[dict[str, str]]

CONTEXT = 8192
"""Tokens: all examples are shown, whatever the model holds."""
SHOWN = 3
"""Examples in a few-shot prompt: more cost time with each answer."""
WORDINGS = {
    "think step by step": "Let's think step by step.",
    "think, then answer": "Think step by step, then give the answer.",
    "work it out": "Let's work this out in a step by step way to be sure we have the right answer.",
}
"""Zero-shot chain of thought: Kojima et al. 2022 (arXiv:2205.11916); that of this platform; and the
wording that a search found best (Zhou et al. 2022, arXiv:2211.01910)."""
REASONED = (
    (
        "Why do we wear coats in winter?",
        "In winter the air is cold, and a body loses heat to cold air. A coat holds warm air close "
        "to the body. So we wear coats to stay warm.",
    ),
    (
        "Should I water a plant whose soil is wet?",
        "Roots need air as well as water. Wet soil has enough water and little air. So no, wait "
        "until it is dry.",
    ),
)
"""Chain of thought as Wei et al. 2022 (arXiv:2201.11903) show it: examples that reason first."""


@dataclass(frozen=True)
class Way:
    """A way to ask: the configuration of a version of kind `prompt`; empty: as people ask."""

    name: str
    config: dict[str, Any] = field(default_factory=dict)
    signals: int = 0
    """How many ratings it was made from."""

    def ask(self, messages: Messages) -> Messages:
        """What the model is asked in the place of `messages`."""
        if not self.config:
            return messages
        return prompted(self.config, messages, CONTEXT)

    def ask_task(self, task: Task, solved: Sequence[Task]) -> Messages:
        """A made-up task, with solved ones of its kind for ways that show examples."""
        messages = [{"role": "user", "content": task.question}]
        if not self.config.get("examples"):
            return self.ask(messages)
        shown = [{"user": t.question, "assistant": _solution(t, self.name)} for t in solved]
        return Way(self.name, {**self.config, "examples": shown}).ask(messages)


def ways(best: Sequence[tuple[str, str]], rated: int) -> list[Way]:
    """All of them. `best` are prompts with answers that people liked; few-shot shows the first."""
    found = [Way("zero-shot")]
    if best:
        shown = [{"user": prompt, "assistant": answer} for prompt, answer in best[:SHOWN]]
        few = {"strategy": "few_shot", "examples": shown}
        found.append(Way("few-shot", few, rated))
    reasoned = [{"user": question, "assistant": answer} for question, answer in REASONED]
    found.append(Way("chain of thought", {"strategy": "chain_of_thought", "examples": reasoned}))
    found += [
        Way(name, {"strategy": _ZERO_SHOT, "suffix": wording}) for name, wording in WORDINGS.items()
    ]
    return found


_ZERO_SHOT = "chain_of_thought"


def _solution(task: Task, way: str) -> str:
    if way != "chain of thought":
        return task.answer
    if task.kind == "reverse":
        letters = ", ".join(reversed(task.answer))
        return f"The letters are {letters}. In reverse order they spell {task.answer}."
    first, *_, last = task.answer.split()
    return f"The first word is {last} and the last one is {first}. Swapped: {task.answer}"
