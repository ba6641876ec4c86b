"""The API: score answers, compare two, list the scorers."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header

from learnback.contracts.models import Scope
from learnback.core.errors import Unavailable, Unprocessable
from learnback.ledger.keys import KeyRing, require_scope
from learnback.reward import metrics
from learnback.reward.schemas import (
    CompareIn,
    ComparisonOut,
    ComparisonsOut,
    MessageIn,
    ScoreIn,
    ScoreOut,
    ScorerOut,
    ScorersOut,
    ScoresOut,
)
from learnback.reward.scorers.base import Answer, Scorer, Verdict, judge
from learnback.reward.scorers.judge import JudgeScorer
from learnback.reward.scorers.model import ModelScorer
from learnback.reward.worker import Worker


def router(worker: Worker, ring: KeyRing, *, required: bool) -> APIRouter:
    """All routes; each needs a key with the scope `infer` if keys are `required`."""

    async def infer(authorization: Annotated[str | None, Header()] = None) -> None:
        principal = await ring.authenticate(authorization, required=required)
        require_scope(principal, Scope.INFER)

    routes = APIRouter(dependencies=[Depends(infer)])

    @routes.post("/v1/score")
    async def score(body: ScoreIn) -> ScoresOut:
        """Score answers, by the scorers named or by all but the judge."""
        answers = _answers(body)
        scorers = _named(worker.scorers(), body.scorers)
        judged = await asyncio.gather(*(_verdicts(scorer, answers) for scorer in scorers))
        by_answer = zip(*judged, strict=True)
        return ScoresOut(
            scores=[
                _shown(place, scorer, verdict)
                for place, verdicts in enumerate(by_answer)
                for scorer, verdict in zip(scorers, verdicts, strict=True)
            ]
        )

    @routes.post("/v1/compare")
    async def compare(body: CompareIn) -> ComparisonsOut:
        """Say which of two answers is better; a judge is asked in both orders."""
        prompt = _prompt(body.prompt)
        pair = Answer(prompt, body.first), Answer(prompt, body.second)
        scorers = _named(worker.scorers(), body.scorers)
        found = await asyncio.gather(*(_compare(scorer, *pair) for scorer in scorers))
        return ComparisonsOut(comparisons=list(found))

    @routes.get("/v1/scorers")
    async def scorers() -> ScorersOut:
        """List the scorers of this moment with their versions."""
        found = [ScorerOut(name=s.name, version=s.version, kind=_kind(s)) for s in worker.scorers()]
        return ScorersOut(scorers=found, problem=worker.current.problem)

    return routes


def _answers(body: ScoreIn) -> list[Answer]:
    if body.items is not None:
        if (body.prompt, body.answer, body.answers) != (None, None, None):
            raise Unprocessable("Give either `items` or one `prompt`.", field="items")
        return [Answer(_prompt(item.prompt), item.answer) for item in body.items]
    if body.prompt is None:
        raise Unprocessable("Give a `prompt` with its `answer`, or `items`.", field="prompt")
    texts = [body.answer] if body.answer is not None else body.answers
    if texts is None or (body.answer is not None and body.answers is not None):
        raise Unprocessable("Give either `answer` or `answers`.", field="answer")
    prompt = _prompt(body.prompt)
    return [Answer(prompt, text) for text in texts]


def _prompt(given: str | list[MessageIn]) -> tuple[dict[str, Any], ...]:
    if isinstance(given, str):
        return ({"role": "user", "content": given},)
    return tuple(message.model_dump() for message in given)


def _named(there: Sequence[Scorer], names: Sequence[str] | None) -> list[Scorer]:
    """The scorers asked for, each once; all but the judge if none is named."""
    if names is None:
        return [scorer for scorer in there if scorer.name != JudgeScorer.name]
    by_name = {scorer.name: scorer for scorer in there}
    missing = [name for name in names if name not in by_name]
    if missing:
        raise Unprocessable(
            f"There is no scorer {missing[0]!r} now; there are: {', '.join(by_name)}.",
            field="scorers",
        )
    return [by_name[name] for name in dict.fromkeys(names)]


async def _verdicts(scorer: Scorer, answers: Sequence[Answer]) -> list[Verdict]:
    """Somebody waits: what is away is an error of its own scores, not of all."""
    try:
        return await judge(scorer, answers)
    except Unavailable as error:
        return [Verdict(None, error.detail, fault=True)] * len(answers)


def _shown(place: int, scorer: Scorer, verdict: Verdict) -> ScoreOut:
    return ScoreOut(
        answer=place,
        scorer=scorer.name,
        scorer_version=scorer.version,
        score=verdict.score,
        error=verdict.error,
        components=dict(verdict.components),
    )


async def _compare(scorer: Scorer, first: Answer, second: Answer) -> ComparisonOut:
    out = ComparisonOut(scorer=scorer.name, scorer_version=scorer.version, preferred=None)
    if isinstance(scorer, JudgeScorer):
        said = await scorer.compare(first, second)
        metrics.compared(said)
        update: dict[str, Any] = {"preferred": said.preferred, "position": said.position}
        return out.model_copy(update=update | {"error": said.error})
    one, other = await _verdicts(scorer, [first, second])
    if one.score is None or other.score is None:
        return out.model_copy(update={"error": one.error or other.error})
    margin = one.score - other.score
    preferred = "tie" if margin == 0 else "first" if margin > 0 else "second"
    chance = 0.5 * (1.0 + math.tanh(0.5 * margin)) if isinstance(scorer, ModelScorer) else None
    return out.model_copy(update={"preferred": preferred, "probability": chance})


def _kind(scorer: Scorer) -> Any:
    return scorer.model.kind if isinstance(scorer, ModelScorer) else scorer.name
