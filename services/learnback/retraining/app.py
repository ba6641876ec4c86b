"""The retraining process: watches the ledger, trains, registers; takes wishes over HTTP."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial

from fastapi import FastAPI
from redis.asyncio import Redis

from learnback import __version__
from learnback.contracts.messages import FeedbackReceived
from learnback.contracts.streams import FEEDBACK
from learnback.core import redis as redis_clients
from learnback.core.bus import Consumer
from learnback.core.http import BodyLimits, add_error_handlers, add_health_routes
from learnback.core.ids import worker_name
from learnback.core.kubernetes import Cluster
from learnback.core.limits import limit_requests
from learnback.core.logging import configure
from learnback.core.process import consumers_ready, running, serve
from learnback.core.settings import CommonSettings, keys_required
from learnback.ledger.database import Database
from learnback.ledger.keys import KeyRing
from learnback.ledger.migrate import check_schema, migrate
from learnback.registry import store
from learnback.registry.artifacts import ArtifactStore, digest_model
from learnback.retraining import routes
from learnback.retraining.cycle import Cycle
from learnback.retraining.kubernetes_launcher import KubernetesLauncher
from learnback.retraining.launcher import Launcher, SubprocessLauncher
from learnback.retraining.registrar import Registrar
from learnback.retraining.settings import FilterSettings, MethodSettings, RetrainingSettings
from learnback.retraining.watch import Watch

log = logging.getLogger(__name__)

Close = Callable[[], Awaitable[None]]

MAX_BODY_BYTES = 64 * 1024
BODY_SECONDS = 10.0


def create_app(
    settings: RetrainingSettings,
    common: CommonSettings,
    *,
    database: Database,
    redis: Redis,
    base: store.ModelVersion,
    cluster: Cluster | None = None,
    close: Sequence[Close] = (),
) -> FastAPI:
    """The app with its workers, which run while its lifespan does; `close` runs at its end.

    `cluster` is where jobs run if the settings name a job template.
    """
    launcher = _launcher(settings, cluster)
    cycle = _cycle(settings, common, database, redis, base, launcher)
    watch = Watch(cycle, settings.poll.total_seconds(), common.home / "retraining.lock")

    async def on_feedback(_messages: Sequence[FeedbackReceived]) -> None:
        watch.wake.set()  # the ledger is the record: the message only says "look now"

    name = worker_name()
    consumer = Consumer(redis, FEEDBACK, "retraining", on_feedback, name=name)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        async with running(consumers=[consumer], loops=[watch.run_forever]):
            yield
        await cycle.close()
        for closing in close:
            await closing()

    app = FastAPI(title="Learnback retraining", version=__version__, lifespan=lifespan)
    required, ring = keys_required(common, settings.host), KeyRing(database)
    app.add_middleware(
        BodyLimits,
        max_bytes=MAX_BODY_BYTES,
        max_seconds=BODY_SECONDS,
        admit=partial(ring.authenticate, required=required),
    )
    limit_requests(app, common)
    add_error_handlers(app)
    add_health_routes(
        app,
        {
            "ledger": database.check,
            "schema": lambda: check_schema(database),
            "bus": consumers_ready([consumer]),
            "alone": watch.check,
        },
    )
    app.state.parts = routes.Parts(settings, database, watch, ring, required)
    app.include_router(routes.router)
    return app


def _cycle(
    settings: RetrainingSettings,
    common: CommonSettings,
    database: Database,
    redis: Redis,
    base: store.ModelVersion,
    launcher: Launcher,
) -> Cycle:
    artifacts = ArtifactStore(common.artifact_root)
    return Cycle(
        settings,
        base,
        database,
        launcher,
        Registrar(database, redis, artifacts, common.home / "cache" / "retraining"),
        common.home / "runs",
        common.held_out_share,
        FilterSettings(),
        MethodSettings(),
    )


def _launcher(settings: RetrainingSettings, cluster: Cluster | None) -> Launcher:
    """Jobs in the cluster if there is a template for them, else as processes beside us."""
    if settings.job_template is not None and cluster is not None:
        return KubernetesLauncher(cluster, settings.job_template)
    return SubprocessLauncher(
        settings.job_command, threads=settings.job_threads, niceness=settings.niceness
    )


async def prepare(common: CommonSettings, database: Database) -> store.ModelVersion:
    """Bring the ledger's schema up to date and register the base model."""
    await migrate(database)
    digest = await asyncio.to_thread(digest_model, common.model)
    async with database.write() as connection:
        return await store.ensure_base(connection, common.model, digest, actor="retraining")


def main() -> None:
    """Run the process with settings from the environment."""
    settings, common = RetrainingSettings(), CommonSettings()
    configure("retraining", level=common.log_level, format=common.log_format)
    if not common.model:
        raise SystemExit("LEARNBACK_MODEL is not set: name the base model's folder or hub name")
    started = time.monotonic()
    base = asyncio.run(_prepare_once(common))
    log.info("base model %s (%.1f s)", base.name, time.monotonic() - started)
    database = Database(common.ledger_url)
    redis = redis_clients.connect(common.redis_url)
    cluster = Cluster.around_us() if settings.job_template is not None else None
    close = [redis.aclose, database.close, *([cluster.close] if cluster else [])]
    app = create_app(
        settings, common, database=database, redis=redis, base=base, cluster=cluster, close=close
    )
    serve(app, settings.host, settings.port, common)


async def _prepare_once(common: CommonSettings) -> store.ModelVersion:
    database = Database(common.ledger_url)
    try:
        return await prepare(common, database)
    finally:
        await database.close()
