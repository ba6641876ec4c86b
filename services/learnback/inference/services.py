"""What the middleware works with, opened at the server's start and closed at its end."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from starlette.types import ASGIApp

from learnback.core import logging as core_logging
from learnback.core.draining import Draining
from learnback.core.errors import LearnbackError
from learnback.core.process import running
from learnback.core.redis import connect
from learnback.core.settings import CommonSettings, keys_required
from learnback.inference import engine_server
from learnback.inference.dialects import VLLM, Dialect
from learnback.inference.follower import Follower
from learnback.inference.library import Base
from learnback.inference.loaders import AsgiLoader, HttpLoader, Loader
from learnback.inference.recorder import Recorder
from learnback.inference.resolver import BASE_DIGEST
from learnback.inference.settings import InferenceSettings
from learnback.ledger.database import Database
from learnback.ledger.keys import KeyRing
from learnback.registry.artifacts import ArtifactStore, digest_model
from learnback.registry.store import version_name

log = logging.getLogger(__name__)

ENGINE_START_S = 60.0
"""How long another engine may take to answer for the first time, once we are up."""


@dataclass(frozen=True)
class Services:
    """The collaborators of the middleware."""

    settings: InferenceSettings
    keys: KeyRing
    keys_required: bool
    follower: Follower
    recorder: Recorder
    draining: Draining


def base_of(model: str, digest: str, engine_model: str = "", dialect: Dialect = VLLM) -> Base:
    """The base version of a model; our own engine knows it by its version name."""
    name = version_name(model, "base", digest)
    return Base(name, model, digest, engine_model or name, dialect)


def public_names(settings: InferenceSettings, model: str) -> frozenset[str]:
    """The names under which people ask: ours, and the base model's, with and without its path."""
    names = {settings.public_name, model, model.rstrip("/").rsplit("/", 1)[-1]}
    return frozenset(names - {""})


@asynccontextmanager
async def open_services(
    common: CommonSettings,
    settings: InferenceSettings,
    base: Base,
    loader: Loader,
    draining: Draining,
) -> AsyncIterator[Services]:
    """Connect, follow the release and record, for the length of the block."""
    redis = connect(common.redis_url)
    database = Database(common.ledger_url)
    follower = Follower(
        database,
        ArtifactStore(common.artifact_root),
        common.home / "cache" / "adapters",
        loader,
        base,
        public_names(settings, base.model),
        refresh=settings.refresh,
    )
    recorder = Recorder(common.redis_url, common.home / "spool", spool_bytes=settings.spool_bytes)

    async def listen() -> None:
        await follower.listen(redis)

    try:
        async with recorder, running(loops=[follower.run, listen]):
            yield Services(
                settings,
                KeyRing(database),
                keys_required(common, settings.host),
                follower,
                recorder,
                draining,
            )
    finally:
        await redis.aclose()
        await database.close()


@asynccontextmanager
async def inside_vllm(app: ASGIApp, server: dict[str, Any]) -> AsyncIterator[Services]:
    """Services for vLLM's own server in this process; settings from the environment."""
    common, settings = CommonSettings(), InferenceSettings()
    core_logging.configure("inference", level=common.log_level, format=common.log_format)
    digest = os.environ.get(BASE_DIGEST)
    if digest is None:
        digest = await asyncio.to_thread(digest_model, common.model)
    base, loader = base_of(common.model, digest), AsgiLoader(app, server)
    draining = Draining(common.linger)
    engine_server.adopt(server.get("app"), common, settings, draining)
    async with open_services(common, settings, base, loader, draining) as services:
        yield services


@asynccontextmanager
async def before_engines(
    app: ASGIApp,
    server: dict[str, Any],
    settings: InferenceSettings | None = None,
    draining: Draining | None = None,
) -> AsyncIterator[Services]:
    """Services for the proxy before engines that run elsewhere; `draining` of its server."""
    common, settings = CommonSettings(), settings or InferenceSettings()
    loader = HttpLoader(settings.engine_urls, settings.engine_key)
    try:
        engine_model, dialect = await _base_of_engines(loader)
        model: str = common.model or engine_model
        digest = await asyncio.to_thread(digest_model, model)
        base = base_of(model, digest, engine_model, dialect)
        drains = draining or Draining()
        async with open_services(common, settings, base, loader, drains) as services:
            yield services
    finally:
        loader.close()


async def _base_of_engines(loader: HttpLoader) -> tuple[str, Dialect]:
    """The engine's name for its base and its dialect, as soon as it answers."""
    async with asyncio.timeout(ENGINE_START_S):
        while True:
            try:
                return await loader.base_model()
            except LearnbackError as error:
                log.warning("waiting for the engine: %s", error)
                await asyncio.sleep(1)
