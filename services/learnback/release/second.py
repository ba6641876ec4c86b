"""A second opinion: a judge model that no candidate was ever trained on, tried on people first."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import httpx

from learnback.core.errors import Unavailable, Unprocessable
from learnback.ledger.evaluation import HeldOutComparison, HeldOutPrompt
from learnback.models.judge import Judge, read_rubric
from learnback.models.judging import Comparison
from learnback.release.analysis import Estimate, proportion, win_rate
from learnback.release.evaluation import MAX_FAILED
from learnback.release.golden_checks import Rate
from learnback.release.measured import Evaluation, Second
from learnback.release.policy import JudgePolicy
from learnback.release.questions import Side

WORTH = {"first": 1.0, "tie": 0.5, "second": 0.0}


class PairJudge(Protocol):
    """A judge of pairs; `learnback.models.judge.Judge` is one."""

    @property
    def version(self) -> str:
        """Changes with anything that it judges by."""

    async def compare(
        self, prompt: Sequence[Mapping[str, Any]], first: str, second: str
    ) -> Comparison:
        """Which answer is better, asked in both orders; never raises."""


class SecondJudge:
    """A judge with what it said of people's comparisons, which does not change."""

    def __init__(self, name: str, judge: PairJudge) -> None:
        self.name = name
        self.judge = judge
        self._tried: dict[str, float] = {}

    async def opinion(
        self,
        measured: Evaluation,
        sides: tuple[Side, Side],
        prompts: Sequence[HeldOutPrompt],
        people: Sequence[HeldOutComparison],
    ) -> Second:
        """What it says of both versions' answers, and how often people agree with it.

        Raises Unavailable if it fails on too many: an outage is no verdict.
        """
        shown = {p.key: p.messages for p in prompts}
        ours, theirs = (side.texts(measured.keys) for side in sides)
        said = await asyncio.gather(
            *(self.judge.compare(shown[k], ours[k], theirs[k]) for k in measured.keys)
        )
        await self._try(people)
        self._check(said)
        worth = {
            key: WORTH[c.preferred]
            for key, c in zip(measured.keys, said, strict=True)
            if c.preferred is not None
        }
        tried = [self._tried[p.feedback_id] for p in people if p.feedback_id in self._tried]
        return Second(
            name=self.name,
            keys=list(worth),
            outcomes=list(worth.values()),
            win_rate=win_rate(list(worth.values())),
            consistent=_consistent(said),
            agreement=_agreement(measured, worth),
            pairs=len(tried),
            correct=sum(tried),
        )

    async def _try(self, people: Sequence[HeldOutComparison]) -> None:
        """Ask of people's comparisons that it was not asked of before."""
        new = [p for p in people if p.feedback_id not in self._tried]
        said = await asyncio.gather(
            *(self.judge.compare(p.messages, p.chosen, p.rejected) for p in new)
        )
        for one, found in zip(new, said, strict=True):
            if found.preferred is not None:
                self._tried[one.feedback_id] = WORTH[found.preferred]

    def _check(self, said: Sequence[Comparison]) -> None:
        failed = [c.error for c in said if c.preferred is None]
        if len(failed) > MAX_FAILED * len(said):
            raise Unavailable(
                f"The judge {self.name} failed on {len(failed)} of {len(said)} pairs: {failed[0]}"
            )


@dataclass(frozen=True)
class Judging:
    """What a judge model does for evaluations."""

    second: SecondJudge
    rate: Rate


def judging(client: httpx.AsyncClient, policy: JudgePolicy, api_key: str) -> Judging:
    """The policy's judge; a golden item's rubric takes the place of the policy's.

    Raises Unprocessable for a rubric that can't be used.
    """
    try:
        rubric = read_rubric(policy.rubric)
    except (OSError, ValueError) as error:
        raise Unprocessable(f"The judge's rubric can't be used: {error}") from error

    def judge(rubric: str) -> Judge:
        return Judge(client, policy.url, policy.model, api_key=api_key, rubric=rubric)

    async def rate(rubric: str, messages: Sequence[dict[str, Any]], answer: str) -> float | None:
        return (await judge(rubric).rate(messages, answer)).score

    return Judging(SecondJudge(policy.model, judge(rubric)), rate)


def _consistent(said: Sequence[Comparison]) -> float | None:
    """The share of pairs whose verdict did not follow the place."""
    judged = [c for c in said if c.preferred is not None]
    return sum(c.position is None for c in judged) / len(judged) if judged else None


def _agreement(measured: Evaluation, worth: Mapping[str, float]) -> Estimate | None:
    """With the reward model, where both decided."""
    both = [
        (theirs, worth[key])
        for key, theirs in zip(measured.keys, measured.outcomes, strict=True)
        if key in worth and 0.5 not in (theirs, worth[key])
    ]
    return proportion(sum(a == b for a, b in both), len(both)) if both else None
