"""What a scorer is: it judges an answer, or says why it can't. A failure is never a score."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from learnback.contracts.models import PromptMessages


@dataclass(frozen=True)
class Answer:
    """What a scorer sees. Not `whole` if it broke off on the way to the client."""

    prompt: PromptMessages
    text: str
    finish_reason: str | None = None
    whole: bool = True
    only_tools: bool = False
    """The answer is tool calls and no text."""


@dataclass(frozen=True)
class Verdict:
    """A score (higher is better) or the error that stood in its way, never both."""

    score: float | None
    error: str | None = None
    components: Mapping[str, float] = field(default_factory=dict)
    fault: bool = False
    """The scorer is broken; else an error says that the answer is none to judge."""


class Scorer(Protocol):
    """Judges answers. `version` changes whenever the same answer could get another score."""

    @property
    def name(self) -> str:
        """`rules`, `model`, ...: scores of different scorers can't be compared."""

    @property
    def version(self) -> str:
        """What judged, to the digit."""

    def score(self, answer: Answer) -> Verdict:
        """Judge one answer. Pure and quick: milliseconds."""


def judge(scorer: Scorer, answer: Answer) -> Verdict:
    """Score what can be scored; whatever goes wrong is an error, not a number."""
    if not answer.whole:
        return Verdict(None, "the answer broke off before its end")
    if answer.only_tools:
        return Verdict(None, "the answer is tool calls without text")
    try:
        verdict = scorer.score(answer)
    except Exception as error:  # a scorer's bug costs its score, not the other scorers'
        return Verdict(None, f"{type(error).__name__}: {error}", fault=True)
    if verdict.score is not None and not math.isfinite(verdict.score):
        return Verdict(None, f"the score is {verdict.score}", fault=True)
    return verdict
