"""Scores every completion: reads `completions`, writes `rewards`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from redis.asyncio import Redis
from redis.exceptions import RedisError

from learnback.contracts.messages import CompletionScored, CompletionServed
from learnback.contracts.models import Choice, CompletionEnd
from learnback.contracts.streams import REWARDS
from learnback.core.bus import publish
from learnback.core.clock import now
from learnback.core.errors import Unavailable
from learnback.reward import metrics
from learnback.reward.scorers.base import Answer, Scorer, judge
from learnback.reward.scorers.model import CurrentModel
from learnback.reward.scorers.rules import RuleScorer


class Worker:
    """Applies every scorer there is: the rules, and the reward model as soon as there is one."""

    def __init__(self, redis: Redis, current: CurrentModel) -> None:
        self.redis = redis
        self.current = current
        self.rules = RuleScorer()

    def scorers(self) -> list[Scorer]:
        """The scorers of this moment; a swap does not touch a list that was taken before."""
        learned = self.current.scorer
        return [self.rules, learned] if learned else [self.rules]

    async def handle(self, served: Sequence[CompletionServed]) -> None:
        """Score a batch; its scores are on their stream when this returns.

        Repeating it publishes the same facts again under the same keys. Raises Unavailable.
        """
        scores = await asyncio.to_thread(score_batch, self.scorers(), served)
        try:
            await publish(self.redis, REWARDS, scores)
        except (RedisError, OSError) as error:
            raise Unavailable(f"Redis can't be reached: {error}") from error


def score_batch(
    scorers: Sequence[Scorer], served: Sequence[CompletionServed]
) -> list[CompletionScored]:
    """Every choice of every completion by every scorer."""
    return [score for completion in served for score in score_completion(scorers, completion)]


def score_completion(scorers: Sequence[Scorer], served: CompletionServed) -> list[CompletionScored]:
    """One completion; nothing if there is no text on record to judge."""
    reason = _nothing_to_score(served)
    if reason is not None:
        metrics.skipped(reason)
        return []
    return [_scored(scorer, served, choice) for choice in served.choices for scorer in scorers]


def _nothing_to_score(served: CompletionServed) -> str | None:
    if served.end is CompletionEnd.REFUSED:
        return "refused"
    if not served.stored:
        return "not_stored"
    return None if served.choices else "no_answer"


def _scored(scorer: Scorer, served: CompletionServed, choice: Choice) -> CompletionScored:
    verdict = judge(scorer, _answer(served, choice))
    metrics.scored(scorer.name, served.track, verdict)
    return CompletionScored(
        completion_id=served.id,
        tenant=served.tenant,
        choice=choice.index,
        scorer=scorer.name,
        scorer_version=scorer.version,
        version=served.version,
        track=served.track,
        at=now(),
        score=verdict.score,
        error=verdict.error,
        components=dict(verdict.components),
    )


def _answer(served: CompletionServed, choice: Choice) -> Answer:
    return Answer(
        prompt=served.prompt,
        text=choice.text,
        finish_reason=choice.finish_reason,
        whole=served.end is CompletionEnd.COMPLETE,
        only_tools=bool(choice.tool_calls) and not choice.text.strip(),
    )
