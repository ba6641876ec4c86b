"""The reward process: scores completions as they come, and answers on request."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Header
from pydantic import BaseModel, ConfigDict, Field
from redis.asyncio import Redis

from learnback import __version__
from learnback.contracts.messages import ModelTrained
from learnback.contracts.models import Scope, VersionKind
from learnback.contracts.streams import COMPLETIONS, MODELS
from learnback.core import redis as redis_clients
from learnback.core.bus import Consumer
from learnback.core.errors import Unavailable, Unprocessable
from learnback.core.http import BodyLimits, add_error_handlers, add_health_routes
from learnback.core.logging import configure
from learnback.core.process import consumers_ready, running, serve
from learnback.core.settings import CommonSettings, keys_required
from learnback.ledger.database import Database
from learnback.ledger.keys import KeyRing, require_scope
from learnback.ledger.migrate import migrate
from learnback.registry.artifacts import ArtifactStore
from learnback.reward import metrics
from learnback.reward.scorers.base import Answer, Scorer, judge
from learnback.reward.scorers.model import CurrentModel
from learnback.reward.settings import RewardSettings
from learnback.reward.worker import Worker

log = logging.getLogger(__name__)

Close = Callable[[], Awaitable[None]]

MAX_ANSWERS = 64
"""In one request: a batch of rollouts, not a data set."""


class MessageIn(BaseModel):
    """A chat message; what else OpenAI's shape holds is let through and not looked at."""

    model_config = ConfigDict(extra="allow")

    role: str = Field(max_length=64)
    content: str | list[dict[str, Any]] | None = None


class ScoreIn(BaseModel):
    """One prompt with one `answer` or several `answers`."""

    model_config = ConfigDict(extra="forbid")

    prompt: str | list[MessageIn]
    answer: str | None = None
    answers: list[str] | None = Field(None, min_length=1, max_length=MAX_ANSWERS)


class ScoreOut(BaseModel):
    """A verdict on one answer: a score, or the error that stood in its way."""

    answer: int
    """Its place in the request, from 0."""
    scorer: str
    scorer_version: str
    score: float | None
    error: str | None
    components: dict[str, float]


class ScoresOut(BaseModel):
    """All answers by all scorers."""

    scores: list[ScoreOut]


def create_app(
    settings: RewardSettings,
    common: CommonSettings,
    *,
    database: Database,
    redis: Redis,
    close: Sequence[Close] = (),
) -> FastAPI:
    """The app with its workers, which run while its lifespan does; `close` runs at its end."""
    artifacts = ArtifactStore(common.artifact_root)
    current = CurrentModel(database, artifacts, common.home / "cache" / "reward")
    worker = Worker(redis, current)

    name = f"{socket.gethostname()}-{os.getpid()}"
    completions = Consumer(redis, COMPLETIONS, "reward", worker.handle, name=name)
    models = Consumer(redis, MODELS, "reward", partial(_on_models, current), name=name)

    async def looking() -> None:
        await _look_for_ever(current, settings.look_every)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        await migrate(database)
        async with running(
            consumers=[completions, models],
            loops=[looking],
        ):
            yield
        for closing in close:
            await closing()

    app = FastAPI(title="Learnback reward", version=__version__, lifespan=lifespan)
    app.add_middleware(
        BodyLimits,
        max_bytes=settings.max_body_bytes,
        max_seconds=settings.body_timeout.total_seconds(),
    )
    add_error_handlers(app)
    checks = {"ledger": database.check, "bus": consumers_ready([completions, models])}
    add_health_routes(app, checks)
    _add_routes(app, worker, KeyRing(database), required=keys_required(common, settings.host))
    app.state.worker = worker
    return app


async def _on_models(current: CurrentModel, trained: Sequence[ModelTrained]) -> None:
    if any(t.kind is VersionKind.REWARD_MODEL for t in trained):
        await _look(current)


async def _look_for_ever(current: CurrentModel, every: timedelta) -> None:
    while True:
        try:
            await _look(current)
        except Unavailable as error:
            log.warning("the registry can't be asked for the reward model: %s", error)
        await asyncio.sleep(every.total_seconds())


async def _look(current: CurrentModel) -> None:
    if await current.refresh():
        metrics.swapped()


def _add_routes(app: FastAPI, worker: Worker, ring: KeyRing, *, required: bool) -> None:
    async def infer(authorization: Annotated[str | None, Header()] = None) -> None:
        principal = await ring.authenticate(authorization, required=required)
        require_scope(principal, Scope.INFER)

    @app.post("/v1/score", dependencies=[Depends(infer)])
    async def score(body: ScoreIn) -> ScoresOut:
        """Score answers by every scorer there is."""
        answers = _answers(body)
        scores = await asyncio.to_thread(_scores, worker.scorers(), answers)
        return ScoresOut(scores=scores)


def _answers(body: ScoreIn) -> list[Answer]:
    texts = [body.answer] if body.answer is not None else body.answers
    if texts is None or (body.answer is not None and body.answers is not None):
        raise Unprocessable("Give either `answer` or `answers`.", field="answer")
    if isinstance(body.prompt, str):
        prompt: tuple[dict[str, Any], ...] = ({"role": "user", "content": body.prompt},)
    else:
        prompt = tuple(message.model_dump() for message in body.prompt)
    return [Answer(prompt, text) for text in texts]


def _scores(scorers: Sequence[Scorer], answers: Sequence[Answer]) -> list[ScoreOut]:
    found: list[ScoreOut] = []
    for place, answer in enumerate(answers):
        for scorer in scorers:
            verdict = judge(scorer, answer)
            found.append(
                ScoreOut(
                    answer=place,
                    scorer=scorer.name,
                    scorer_version=scorer.version,
                    score=verdict.score,
                    error=verdict.error,
                    components=dict(verdict.components),
                )
            )
    return found


def main() -> None:
    """Run the process with settings from the environment."""
    settings, common = RewardSettings(), CommonSettings()
    configure("reward", level=common.log_level, format=common.log_format)
    database = Database(common.ledger_url)
    redis = redis_clients.connect(common.redis_url)
    close = (redis.aclose, database.close)
    app = create_app(settings, common, database=database, redis=redis, close=close)
    serve(app, settings.host, settings.port)
