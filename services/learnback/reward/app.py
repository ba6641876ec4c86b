"""The reward process: scores completions as they come, and answers on request."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial
from typing import Any

import httpx
from fastapi import FastAPI
from redis.asyncio import Redis

from learnback import __version__
from learnback.contracts.messages import ModelTrained
from learnback.contracts.models import VersionKind
from learnback.contracts.streams import COMPLETIONS, MODELS
from learnback.core import redis as redis_clients
from learnback.core.bus import Consumer
from learnback.core.errors import Unavailable
from learnback.core.http import BodyLimits, add_error_handlers, add_health_routes
from learnback.core.ids import worker_name
from learnback.core.limits import limit_requests
from learnback.core.logging import configure
from learnback.core.process import consumers_ready, running, serve
from learnback.core.settings import CommonSettings, keys_required
from learnback.ledger.database import Database
from learnback.ledger.keys import KeyRing
from learnback.ledger.migrate import migrate
from learnback.models.judge import Judge, read_rubric
from learnback.models.pooling_reward import models_of
from learnback.models.reward import RewardModels
from learnback.registry.artifacts import ArtifactStore
from learnback.reward import metrics, routes
from learnback.reward.rescoring import Rescorer
from learnback.reward.scorers.judge import JudgeScorer
from learnback.reward.scorers.model import CurrentModel
from learnback.reward.settings import RewardSettings
from learnback.reward.worker import Worker

log = logging.getLogger(__name__)

RESCORE_EVERY = timedelta(seconds=2)
"""Between two looks for wishes, which are an index lookup; a dataset waits for the answer."""

Close = Callable[[], Awaitable[None]]


def create_app(
    settings: RewardSettings,
    common: CommonSettings,
    *,
    database: Database,
    redis: Redis,
    models: RewardModels | None = None,
    judge: JudgeScorer | None = None,
    close: Sequence[Close] = (),
) -> FastAPI:
    """The app with its workers, which run while its lifespan does; `close` runs at its end."""
    artifacts = ArtifactStore(common.artifact_root)
    cache = common.home / "cache" / "reward"
    current = CurrentModel(database, artifacts, cache, models or models_of(common))
    worker = Worker(redis, current, judge=judge, judge_share=settings.judge_share)
    work = _Work(database, redis, worker, settings.look_every)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        await migrate(database)
        async with running(consumers=work.consumers, loops=[work.look_for_ever, work.rescore]):
            yield
        for closing in close:
            await closing()

    app = FastAPI(title="Learnback reward", version=__version__, lifespan=lifespan)
    required, ring = keys_required(common, settings.host), KeyRing(database)
    app.add_middleware(
        BodyLimits,
        max_bytes=settings.max_body_bytes,
        max_seconds=settings.body_timeout.total_seconds(),
        admit=partial(ring.authenticate, required=required),
    )
    limit_requests(app, common)
    add_error_handlers(app)
    checks = {"ledger": database.check, "bus": consumers_ready(work.consumers)}
    add_health_routes(app, checks)
    app.include_router(routes.router(worker, ring, required=required))
    app.state.worker = worker
    return app


class _Work:
    """What runs beside the API: two consumers, the look at the registry, and rescoring."""

    def __init__(
        self, database: Database, redis: Redis, worker: Worker, look_every: timedelta
    ) -> None:
        self.worker = worker
        self.look_every = look_every
        self.rescorer = Rescorer(database, worker, worker.current)
        name = worker_name()
        self.completions = Consumer(redis, COMPLETIONS, "reward", worker.handle, name=name)
        models = Consumer(redis, MODELS, "reward", self._on_models, name=name)
        self.consumers: list[Consumer[Any]] = [self.completions, models]

    async def look_for_ever(self) -> None:
        """Ask the registry for the reward model, in case that a message got lost."""
        while True:
            try:
                await self._look()
            except Unavailable as error:
                log.warning("the registry can't be asked for the reward model: %s", error)
            await asyncio.sleep(self.look_every.total_seconds())

    async def rescore(self) -> None:
        """Score old completions for whoever asks."""
        await self.rescorer.run_forever(RESCORE_EVERY)

    async def _on_models(self, trained: Sequence[ModelTrained]) -> None:
        if any(t.kind is VersionKind.REWARD_MODEL for t in trained):
            await self._look()

    async def _look(self) -> None:
        current = self.worker.current
        swapped = await current.refresh()
        metrics.looked(swapped=swapped, refused=current.problem is not None)
        self.completions.batch_size = self.worker.batch_size()
        await current.tidy()


def _judge(settings: RewardSettings) -> tuple[JudgeScorer | None, list[Close]]:
    """The judge that the settings name, and how to close its connections."""
    if not settings.judge_url:
        return None, []
    client = httpx.AsyncClient(timeout=settings.judge_timeout.total_seconds())
    judge = Judge(
        client,
        settings.judge_url,
        settings.judge_model,
        api_key=settings.judge_api_key.get_secret_value(),
        rubric=read_rubric(settings.judge_rubric),
        concurrency=settings.judge_concurrency,
    )
    return JudgeScorer(judge), [client.aclose]


def main() -> None:
    """Run the process with settings from the environment."""
    settings, common = RewardSettings(), CommonSettings()
    configure("reward", level=common.log_level, format=common.log_format)
    database = Database(common.ledger_url)
    redis = redis_clients.connect(common.redis_url)
    models = models_of(common, concurrency=settings.engine_concurrency)
    judge, close_judge = _judge(settings)

    async def close_models() -> None:
        models.close()

    close = (*close_judge, close_models, redis.aclose, database.close)
    app = create_app(
        settings, common, database=database, redis=redis, models=models, judge=judge, close=close
    )
    serve(app, settings.host, settings.port, common)
