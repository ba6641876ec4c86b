"""What came of a request, as far as it was sent."""

from __future__ import annotations

from dataclasses import dataclass, field

from learnback.contracts.models import Choice, Usage


@dataclass(frozen=True)
class Answer:
    """Choices and usage; `failed`: the engine said in the middle that it could not go on."""

    id: str | None = None
    choices: tuple[Choice, ...] = ()
    usage: Usage = field(default_factory=Usage)
    failed: bool = False
