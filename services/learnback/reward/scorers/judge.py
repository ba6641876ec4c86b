"""Judges with a language model behind an OpenAI-compatible API."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from learnback.models.judge import Comparison, Judge
from learnback.reward.scorers.base import Answer, Verdict


class JudgeScorer:
    """A judge as a scorer; it takes seconds, and a failure of it costs its score alone."""

    name = "judge"
    slow = True

    def __init__(self, judge: Judge) -> None:
        self.judge = judge

    @property
    def version(self) -> str:
        """The judge's model, and a digest of it and the rubric."""
        return self.judge.version

    async def score(self, answers: Sequence[Answer]) -> list[Verdict]:
        """Grades from 0 to 1, each answer by itself."""
        return list(await asyncio.gather(*(self._grade(answer) for answer in answers)))

    async def compare(self, first: Answer, second: Answer) -> Comparison:
        """Which of two answers to one prompt is better, asked in both orders."""
        return await self.judge.compare(first.prompt, first.text, second.text)

    async def _grade(self, answer: Answer) -> Verdict:
        rated = await self.judge.rate(answer.prompt, answer.text)
        return Verdict(rated.score, rated.error, fault=rated.score is None)
