"""What came of a request, as far as it was sent."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field

from learnback.contracts.models import Choice, Usage


@dataclass(frozen=True)
class Answer:
    """Choices and usage; `failed`: the engine said in the middle that it could not go on."""

    id: str | None = None
    choices: tuple[Choice, ...] = ()
    usage: Usage = field(default_factory=Usage)
    failed: bool = False


def finish(steps: Generator[None, None, Answer]) -> Answer:
    """Run a parser to its end."""
    while True:
        try:
            next(steps)
        except StopIteration as done:
            answer: Answer = done.value
            return answer
