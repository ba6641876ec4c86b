"""What a scorer is: it judges an answer, or says why it can't. A failure is never a score."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from learnback.contracts.models import PromptMessages
from learnback.core.errors import Unavailable


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
        """`rules`, `model`, `judge`: scores of different scorers can't be compared."""

    @property
    def version(self) -> str:
        """What judged, to the digit."""

    @property
    def slow(self) -> bool:
        """Whether an answer takes longer than milliseconds, so that batches must be small."""

    async def score(self, answers: Sequence[Answer]) -> list[Verdict]:
        """Judge answers, in order; what one gets does not depend on the others.

        Raises Unavailable where the scorer is away for a while: then nothing was judged.
        """


async def judge(scorer: Scorer, answers: Sequence[Answer]) -> list[Verdict]:
    """Score what can be scored; whatever goes wrong is an error, not a number.

    Raises Unavailable, see `Scorer.score`.
    """
    refused = [_no_answer_to_judge(answer) for answer in answers]
    left = [answer for answer, why in zip(answers, refused, strict=True) if why is None]
    found = iter(await _score(scorer, left) if left else [])
    return [next(found) if why is None else Verdict(None, why) for why in refused]


def _no_answer_to_judge(answer: Answer) -> str | None:
    if not answer.whole:
        return "the answer broke off before its end"
    return "the answer is tool calls without text" if answer.only_tools else None


async def _score(scorer: Scorer, answers: Sequence[Answer]) -> list[Verdict]:
    """A batch that fails is judged one by one: an answer that breaks a scorer costs its own score,
    not those of others."""
    try:
        return [_finite(verdict) for verdict in await scorer.score(answers)]
    except Unavailable:
        raise
    except Exception as error:  # a scorer's bug must not stop the others
        if len(answers) == 1:
            return [Verdict(None, f"{type(error).__name__}: {error}", fault=True)]
    return [verdict for answer in answers for verdict in await _score(scorer, [answer])]


def _finite(verdict: Verdict) -> Verdict:
    if verdict.score is not None and not math.isfinite(verdict.score):
        return Verdict(None, f"the score is {verdict.score}", fault=True)
    return verdict
