"""The release process: its HTTP API beside the controller."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

import httpx
from fastapi import FastAPI
from redis.asyncio import Redis
from redis.exceptions import RedisError

from learnback import __version__
from learnback.contracts.streams import MODELS
from learnback.core import logging as logs
from learnback.core.bus import Consumer
from learnback.core.http import BodyLimits, add_error_handlers, add_health_routes
from learnback.core.ids import worker_name
from learnback.core.limits import limit_requests
from learnback.core.process import consumers_ready, running, serve
from learnback.core.redis import connect
from learnback.core.settings import CommonSettings, keys_required
from learnback.ledger.database import Database
from learnback.ledger.keys import KeyRing
from learnback.ledger.migrate import check_schema, migrate
from learnback.models.pooling_reward import models_of
from learnback.registry import store
from learnback.registry.artifacts import ArtifactStore, digest_model
from learnback.registry.settings import RetentionSettings
from learnback.release.asker import Asker
from learnback.release.collecting import Collector
from learnback.release.controller import Controller
from learnback.release.engine import Engine
from learnback.release.measuring import Evaluator
from learnback.release.policy_file import read_policy
from learnback.release.routes import router
from learnback.release.second import judging
from learnback.release.settings import ReleaseSettings

log = logging.getLogger(__name__)

PROCESS = "release"
GROUP = "release"
BODY_S = 10.0
"""Longest time for a body of a few hundred bytes to arrive."""


def create_app(
    settings: ReleaseSettings,
    common: CommonSettings,
    *,
    database: Database,
    redis: Redis,
    client: httpx.AsyncClient,
) -> FastAPI:
    """The app with its collaborators; it neither opens nor closes them."""
    engine = Engine(client, settings.inference_url, settings.api_key.get_secret_value())
    artifacts = ArtifactStore(common.artifact_root)
    policy = read_policy(settings.policy)
    models = models_of(common)
    judge_key = settings.judge_api_key.get_secret_value()
    keys = KeyRing(database)
    evaluator = Evaluator(
        database,
        artifacts,
        engine,
        settings,
        common.home / PROCESS,
        policy,
        common.held_out_share,
        judging(client, policy.judge, judge_key) if policy.judge else None,
        models,
        Asker(keys, settings.api_key.get_secret_value()),
    )
    controller = Controller(database, redis, evaluator, settings)
    collector = Collector(database, artifacts, controller.leadership, RetentionSettings())
    consumer = Consumer(redis, MODELS, GROUP, controller.on_trained, name=worker_name())

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await migrate(database)
        await register_base(database, common.model)
        loops = [controller.run_forever, controller.leadership.keep, collector.run_forever]
        async with running(consumers=[consumer], loops=loops):
            yield
        await controller.leadership.give_up()
        models.close()

    app = FastAPI(title="Learnback release", version=__version__, lifespan=lifespan)
    app.state.controller = controller
    add_error_handlers(app)
    required = keys_required(common, settings.host)
    app.include_router(router(database, controller, keys, required))
    app.add_middleware(
        BodyLimits,
        max_bytes=settings.max_body_bytes,
        max_seconds=BODY_S,
        admit=partial(keys.authenticate, required=required),
    )
    limit_requests(app, common)
    add_health_routes(
        app,
        {
            "ledger": lambda: check_schema(database),
            "redis": lambda: check_redis(redis),
            "models": consumers_ready([consumer]),
        },
    )
    return app


async def register_base(database: Database, model: str) -> None:
    """Register the base model and serve it if nothing is served yet; nothing without a model.

    A folder that is not mounted here is left to who reads it: its name's digest would make another
    base model of it, which no replica serves.
    """
    if not model or (Path(model).is_absolute() and not Path(model).is_dir()):
        return
    digest = await asyncio.to_thread(digest_model, model)
    async with database.write() as connection:
        await store.ensure_base(connection, model, digest, actor=PROCESS)


async def check_redis(redis: Redis) -> str | None:
    """A readiness check."""
    try:
        await redis.ping()
    except (RedisError, OSError) as error:
        return f"Redis is away: {error}"
    return None


def main() -> None:
    """Read the settings and serve until SIGTERM."""
    settings, common = ReleaseSettings(), CommonSettings()
    logs.configure(PROCESS, level=common.log_level, format=common.log_format)
    serve(build(settings, common), settings.host, settings.port, common)


def build(settings: ReleaseSettings, common: CommonSettings) -> FastAPI:
    """The app with collaborators of its own, closed when it ends."""
    database, redis = Database(common.ledger_url), connect(common.redis_url)
    client = httpx.AsyncClient(
        timeout=httpx.Timeout(settings.request_timeout.total_seconds(), connect=5.0),
        limits=httpx.Limits(max_connections=settings.concurrency + 2),
    )
    app = create_app(settings, common, database=database, redis=redis, client=client)
    inner = app.router.lifespan_context

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            stack.push_async_callback(database.close)
            stack.push_async_callback(redis.aclose)
            stack.push_async_callback(client.aclose)
            await stack.enter_async_context(inner(app))
            yield

    app.router.lifespan_context = lifespan
    return app


if __name__ == "__main__":
    main()
