"""Scores every completion: reads `completions`, writes `rewards`."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

from redis.asyncio import Redis
from redis.exceptions import RedisError

from learnback.contracts.messages import CompletionScored, CompletionServed
from learnback.contracts.models import Choice, CompletionEnd
from learnback.contracts.streams import REWARDS
from learnback.core.bus import BATCH_SIZE, publish
from learnback.core.clock import now
from learnback.core.errors import Unavailable
from learnback.reward import metrics
from learnback.reward.scorers.base import Answer, Scorer, Verdict, judge
from learnback.reward.scorers.judge import JudgeScorer
from learnback.reward.scorers.model import CurrentModel
from learnback.reward.scorers.rules import RuleScorer

SLOW_BATCH_SIZE = 32
"""Completions in a batch where a scorer takes up to a second for each: it must be done before the
bus gives the batch to another worker (`bus.REDELIVERY_S`)."""


@dataclass(frozen=True)
class Candidate:
    """One answer to score, and the completion that it is of."""

    served: CompletionServed
    choice: Choice

    def key_under(self, scorer: Scorer) -> str:
        """The key of the message that holds its score."""
        return f"{self.served.id}:{self.choice.index}:{scorer.name}:{scorer.version}"

    @property
    def answer(self) -> Answer:
        """As scorers see it."""
        return Answer(
            prompt=self.served.prompt,
            text=self.choice.text,
            finish_reason=self.choice.finish_reason,
            whole=self.served.end is CompletionEnd.COMPLETE,
            only_tools=bool(self.choice.tool_calls) and not self.choice.text.strip(),
        )


class Worker:
    """Applies every scorer there is: the rules, the reward model as soon as there is one, and a
    judge, if there is one, to a share of the completions."""

    def __init__(
        self,
        redis: Redis,
        current: CurrentModel,
        *,
        judge: JudgeScorer | None = None,
        judge_share: float = 1.0,
    ) -> None:
        self.redis = redis
        self.current = current
        self.rules = RuleScorer()
        self.judge = judge
        self.judge_share = judge_share
        self._published: set[str] = set()

    def scorers(self) -> list[Scorer]:
        """The scorers of this moment; a swap does not touch a list that was taken before."""
        found: list[Scorer | None] = [self.rules, self.current.scorer, self.judge]
        return [scorer for scorer in found if scorer is not None]

    def batch_size(self) -> int:
        """How many completions the scorers of this moment take at once."""
        applied = [s for s in self.scorers() if s is not self.judge or self.judge_share > 0]
        return SLOW_BATCH_SIZE if any(s.slow for s in applied) else BATCH_SIZE

    async def handle(self, served: Sequence[CompletionServed]) -> None:
        """Score a batch; its scores are on their stream when this returns.

        Each scorer's are published as soon as it is done, so that none waits for a slower one.
        Raises Unavailable; then the batch is tried again, and what was published is not repeated.
        Repeating it elsewhere publishes the same facts under the same keys.
        """
        candidates = [c for completion in served for c in candidates_of(completion)]
        scoring = [self._apply(scorer, candidates) for scorer in self.scorers()]
        failed = [e for e in await asyncio.gather(*scoring, return_exceptions=True) if e]
        if failed:
            raise failed[0]
        self._published.clear()

    async def publish(self, scores: Sequence[CompletionScored]) -> None:
        """Write scores to their stream. Raises Unavailable."""
        try:
            await publish(self.redis, REWARDS, scores)
        except (RedisError, OSError) as error:
            raise Unavailable(f"Redis can't be reached: {error}") from error

    async def _apply(self, scorer: Scorer, candidates: Sequence[Candidate]) -> None:
        if scorer is self.judge:
            candidates = [c for c in candidates if in_share(c.served.id, self.judge_share)]
        left = [c for c in candidates if c.key_under(scorer) not in self._published]
        if left:
            scores = await score(scorer, left)
            await self.publish(scores)
            self._published.update(s.key for s in scores)


async def score(
    scorer: Scorer, candidates: Sequence[Candidate], *, live: bool = True
) -> list[CompletionScored]:
    """What one scorer says of answers, as messages. Raises Unavailable.

    Not `live`: old answers, which say nothing about what people get now, so they are not counted.
    """
    with metrics.scoring(scorer.name):
        verdicts = await judge(scorer, [c.answer for c in candidates])
    pairs = list(zip(candidates, verdicts, strict=True))
    for candidate, verdict in pairs if live else ():
        metrics.scored(scorer.name, candidate.served.track, verdict)
    return [_scored(scorer, candidate, verdict) for candidate, verdict in pairs]


def candidates_of(served: CompletionServed) -> list[Candidate]:
    """The answers of one completion; none if there is no text on record to judge."""
    reason = _nothing_to_score(served)
    if reason is not None:
        metrics.skipped(reason)
        return []
    return [Candidate(served, choice) for choice in served.choices]


def in_share(completion_id: str, share: float) -> bool:
    """Whether a completion is among that share of all; the same answer on every machine."""
    return zlib.crc32(completion_id.encode("utf-8", "surrogatepass")) / 2**32 < share


def _nothing_to_score(served: CompletionServed) -> str | None:
    if served.end is CompletionEnd.REFUSED:
        return "refused"
    if not served.stored:
        return "not_stored"
    return None if served.choices else "no_answer"


def _scored(scorer: Scorer, candidate: Candidate, verdict: Verdict) -> CompletionScored:
    served = candidate.served
    return CompletionScored(
        completion_id=served.id,
        tenant=served.tenant,
        choice=candidate.choice.index,
        scorer=scorer.name,
        scorer_version=scorer.version,
        version=served.version,
        track=served.track,
        at=now(),
        score=verdict.score,
        error=verdict.error,
        components=dict(verdict.components),
    )
