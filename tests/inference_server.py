"""The middleware on a real socket before the fake engine, with the real Valkey and ledger."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from tests.conftest import wait_until
from tests.factories import a_version
from tests.fake_engine import FakeEngine

from learnback.contracts.messages import CompletionServed, ReleaseChanged
from learnback.contracts.models import Alias
from learnback.contracts.streams import COMPLETIONS, RELEASES
from learnback.core.bus import publish
from learnback.core.clock import now
from learnback.core.draining import Draining
from learnback.core.settings import CommonSettings
from learnback.inference.library import Base
from learnback.inference.loaders import AsgiLoader, HttpLoader
from learnback.inference.middleware import LearnbackMiddleware
from learnback.inference.proxy import create_app
from learnback.inference.services import Services, base_of, open_services
from learnback.inference.settings import InferenceSettings
from learnback.registry import store
from learnback.registry.artifacts import ArtifactStore

DIGEST = "0" * 64
MODEL = "models/tiny"


@dataclass
class Server:
    """A running server: `http` is a client of it."""

    url: str
    home: Path
    http: httpx.AsyncClient
    engine: FakeEngine
    base: Base
    common: CommonSettings
    services: list[Services] = field(default_factory=list)

    @property
    def now(self) -> Services:
        """The services in use."""
        return self.services[-1]

    async def chat(self, text: str = "a b c", **fields: Any) -> httpx.Response:
        """A chat request by the public name."""
        messages = [{"role": "user", "content": text}]
        body = {"model": "learnback", "messages": messages, **fields}
        return await self.http.post("/v1/chat/completions", json=body)


@asynccontextmanager
async def serve_app(app: Any) -> AsyncIterator[str]:
    """`app` on a free port with its lifespan; the URL."""
    config = uvicorn.Config(
        app, host="127.0.0.1", port=0, log_level="warning", lifespan="on", access_log=False
    )
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve())
    try:
        await wait_until(lambda: server.started or task.done(), "the server starts")
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        await task


@asynccontextmanager
async def inference_server(
    home: Path,
    redis_url: str,
    engine: FakeEngine | None = None,
    *,
    require_keys: bool = False,
    wait_ready: bool = True,
    proxied: bool = False,
    **settings: Any,
) -> AsyncIterator[Server]:
    """A server whose release is the base, unless the ledger in `home` says otherwise.

    `proxied`: the engine is a server of its own, and our proxy stands before it.
    """
    engine = engine or FakeEngine()
    common = CommonSettings(home=home, redis_url=redis_url, require_keys=require_keys, model=MODEL)
    chosen = InferenceSettings(**{"refresh": timedelta(seconds=0.2)} | settings)
    base = base_of(MODEL, DIGEST)
    opened: list[Services] = []
    draining = Draining()

    async with AsyncExitStack() as stack:
        inner: Any = engine.app
        remote: HttpLoader | None = None
        if proxied:
            engine_url = await stack.enter_async_context(serve_app(engine.app))
            inner, remote = create_app([engine_url]), HttpLoader([engine_url])
            base = base_of(MODEL, DIGEST, *await remote.base_model())

        @asynccontextmanager
        async def open_here(app: Any, server: dict[str, Any]) -> AsyncIterator[Services]:
            loader = remote or AsgiLoader(app, server)
            async with open_services(common, chosen, base, loader, draining) as services:
                opened.append(services)
                yield services

        url = await stack.enter_async_context(serve_app(LearnbackMiddleware(inner, open_here)))
        client = httpx.AsyncClient(base_url=url, timeout=30, trust_env=False)
        http = await stack.enter_async_context(client)
        server = Server(url, home, http, engine, base, common, opened)
        if wait_ready:
            await wait_until(lambda: _ready(http), "the server is ready")
        yield server
        if remote is not None:
            remote.close()


async def _ready(http: httpx.AsyncClient) -> bool:
    return (await http.get("/readyz")).status_code == 200


async def recorded(redis: Any) -> list[CompletionServed]:
    """All completions on the stream, in order."""
    entries = await redis.xrange(COMPLETIONS.key)
    return [CompletionServed.model_validate_json(fields[b"body"]) for _, fields in entries]


async def wait_recorded(redis: Any, count: int = 1) -> list[CompletionServed]:
    """The completions on the stream once there are `count`."""

    async def enough() -> list[CompletionServed]:
        found = await recorded(redis)
        return found if len(found) >= count else []

    return list(await wait_until(enough, f"{count} completions are recorded"))


async def add_adapter(server: Server, name: str, **changes: Any) -> Path:
    """Register an adapter with its files; the folder of the files in the store."""
    folder = server.home / "made" / name
    folder.mkdir(parents=True)
    (folder / "adapter_model.safetensors").write_text(f"weights of {name}")
    artifacts = ArtifactStore(server.common.artifact_root)
    digest = artifacts.put(folder, f"adapters/{name}")
    values = {
        "base_digest": DIGEST,
        "artifact": f"adapters/{name}",
        "artifact_digest": digest,
    } | changes
    async with server.now.follower.database.write() as connection:
        await store.register(connection, a_version(name, **values))
    return server.home / "artifacts" / "adapters" / name


async def move(
    server: Server, alias: Alias, version: str | None, weight: float = 1.0, redis: Any = None
) -> None:
    async with server.now.follower.database.write() as connection:
        before = await store.alias_state(connection, alias)
        after = await store.move_alias(
            connection,
            alias,
            version,
            expected_revision=before.revision,
            actor="test",
            reason="test",
            weight=weight,
        )
    if redis is not None:
        message = ReleaseChanged(alias=alias, version=version, revision=after.revision, at=now())
        await publish(redis, RELEASES, [message])


async def version_for(server: Server, **fields: Any) -> str:
    answer = await server.chat(**fields)
    assert answer.status_code == 200, answer.text
    return answer.headers["x-learnback-version"]


async def swap_under_load(server: Server, names: list[str], redis: Any) -> list[httpx.Response]:
    """Make each version stable in turn while eight people stream answers; all their answers."""
    stop = asyncio.Event()
    answers: list[httpx.Response] = []

    async def person(name: str) -> None:
        while not stop.is_set():
            answers.append(await server.chat("a b c d e", stream=True, user=name))

    people = [asyncio.create_task(person(f"user-{i}")) for i in range(8)]
    for name in names:
        await move(server, Alias.STABLE, name, redis=redis)
        await wait_until(lambda n=name: server.now.follower.snapshot.stable == n, name)
        seen = len(answers)
        await wait_until(lambda n=seen: len(answers) > n + 16, "everybody got an answer")
    stop.set()
    await asyncio.gather(*people)
    return answers
