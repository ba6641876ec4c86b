"""The feedback process: its HTTP API, and the workers beside it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from fastapi import FastAPI
from redis.asyncio import Redis

from learnback import __version__
from learnback.contracts.streams import COMPLETIONS, REWARDS
from learnback.core import http, logging, process
from learnback.core.bus import Consumer
from learnback.core.ids import worker_name
from learnback.core.limits import RateLimiter, limit_requests
from learnback.core.redis import connect
from learnback.core.settings import CommonSettings, keys_required
from learnback.feedback import completion_routes, errors, expiry, routes, upkeep
from learnback.feedback.intake import Intake
from learnback.feedback.parts import Parts
from learnback.feedback.recorder import Recorder
from learnback.feedback.relay import Relay
from learnback.feedback.settings import FeedbackSettings
from learnback.ledger.database import Database
from learnback.ledger.keys import KeyRing
from learnback.ledger.migrate import migrate

GROUP = "feedback"
Close = Callable[[], Awaitable[None]]

DESCRIPTION = """Say what you think of an answer, and look up what became of it.

Every signal is durable before its `202`. Send an `Idempotency-Key` to retry without counting twice.
Errors are `application/problem+json` (RFC 9457), and `errors` names the fields."""


def create_app(
    settings: FeedbackSettings,
    database: Database,
    redis: Redis,
    keyring: KeyRing,
    *,
    require_keys: bool,
    common: CommonSettings | None = None,
    close: Sequence[Close] = (),
) -> FastAPI:
    """The app with its workers, which run while its lifespan does; `close` runs at its end."""
    relay = Relay(database, redis, settings.relay_interval)
    recorder = Recorder(database, relay.wake)
    limiter = RateLimiter(settings.rate_per_s, settings.rate_burst)
    intake = Intake(database, relay.wake)
    consumers: list[Consumer[Any]] = [
        Consumer(redis, COMPLETIONS, GROUP, recorder.completions, name=worker_name()),
        Consumer(redis, REWARDS, GROUP, recorder.rewards, name=worker_name()),
    ]

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await migrate(database)
        async with process.running(
            consumers=consumers, loops=[relay.run_forever, *_clockwork(settings, database, redis)]
        ):
            yield
        for closing in close:
            await closing()

    app = FastAPI(
        title="Learnback feedback", version=__version__, description=DESCRIPTION, lifespan=lifespan
    )
    app.state.parts = Parts(database, keyring, require_keys, intake, relay, limiter)
    app.include_router(routes.router)
    app.include_router(completion_routes.router)
    app.add_middleware(
        http.BodyLimits,
        max_bytes=settings.max_body_bytes,
        max_seconds=settings.body_timeout.total_seconds(),
        admit=partial(keyring.authenticate, required=require_keys),
    )
    limit_requests(app, common or CommonSettings())
    http.add_error_handlers(app)
    errors.add_invalid_handler(app)
    http.add_health_routes(
        app, {"ledger": database.check, "streams": process.consumers_ready(consumers)}
    )
    return app


def _clockwork(
    settings: FeedbackSettings, database: Database, redis: Redis
) -> list[Callable[[], Awaitable[None]]]:
    """The loops that run on a clock."""
    sweep = partial(expiry.sweep, database, settings.grace)
    measure = partial(upkeep.measure, database, redis)
    trim = partial(upkeep.trim, redis, settings.keep_entries)

    async def expiring() -> None:
        await upkeep.every(settings.sweep_interval, sweep)

    async def measuring() -> None:
        await upkeep.every(settings.lag_interval, measure)

    async def trimming() -> None:
        await upkeep.every(settings.trim_interval, trim)

    return [expiring, measuring, trimming]


def main() -> None:
    """Run the feedback process until SIGTERM."""
    common, settings = CommonSettings(), FeedbackSettings()
    logging.configure("feedback", level=common.log_level, format=common.log_format)
    database = Database(common.ledger_url)
    redis = connect(common.redis_url)
    app = create_app(
        settings,
        database,
        redis,
        KeyRing(database),
        require_keys=keys_required(common, settings.host),
        common=common,
        close=[redis.aclose, database.close],
    )
    process.serve(app, settings.host, settings.port, common)
