"""A server that is told to stop breaks no answer, refuses nobody, and ends with exit code 0."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI
from tests.conftest import wait_until
from tests.fake_engine import FakeEngine
from tests.inference_server import recorded, serve_app
from tests.kept_alive import crowd

from learnback.core import wire
from learnback.core.draining import Draining, DrainingServer
from learnback.core.http import add_health_routes, problem_document
from learnback.local.supervisor import free_port

LINGER_S = 1.0
CLIENTS = 8
ASK = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"


@asynccontextmanager
async def process(
    name: str, home: Path, *options: str, **settings: str
) -> AsyncIterator[tuple[str, asyncio.subprocess.Process]]:
    """A process of ours that is ready, and its URL."""
    port = free_port()
    given = {
        "LEARNBACK_HOME": str(home),
        "LEARNBACK_LINGER": str(LINGER_S),
        f"LEARNBACK_{name.upper()}_PORT": str(port),
        **settings,
    }
    command = [sys.executable, "-m", "learnback.cli", name, *options]
    url = f"http://127.0.0.1:{port}"
    with (home / f"{name}-{port}.log").open("wb") as log:
        running = await asyncio.create_subprocess_exec(
            *command, env={**os.environ, **given}, stdout=log, stderr=log
        )
    try:
        await wait_until(lambda: _ready(url, running), f"{name} is ready")
        yield url, running
    finally:
        if running.returncode is None:
            running.kill()
            await running.wait()


async def _ready(url: str, running: asyncio.subprocess.Process) -> bool:
    assert running.returncode is None
    try:
        async with httpx.AsyncClient(trust_env=False) as http:
            return (await http.get(f"{url}/readyz")).status_code == 200
    except httpx.TransportError:
        return False


async def test_a_proxy_goes_without_a_broken_or_refused_stream(
    redis: Any, valkey_url: str, tmp_path: Path
) -> None:
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        folder.mkdir()
    given = {
        "LEARNBACK_REDIS_URL": valkey_url,
        "LEARNBACK_MODEL": "models/tiny",
        "LEARNBACK_DATABASE_URL": f"sqlite:///{tmp_path / 'ledger.db'}",
    }
    engine = FakeEngine(delay_s=0.05)
    async with serve_app(engine.app) as behind:
        options = ("--engine-url", behind)
        async with process("inference", folders[0], *options, **given) as (one, going):  # noqa: SIM117
            async with process("inference", folders[1], *options, **given) as (two, staying):
                async with crowd([one, two], CLIENTS) as talk:
                    await wait_until(
                        lambda: len(talk.whole) > CLIENTS and talk.busy.get(one, 0) > 1,
                        "both answer, and one is in the midst of it",
                    )
                    going.send_signal(signal.SIGTERM)
                    told = len(talk.whole)
                    await wait_until(lambda: going.returncode is not None, "the one has gone")
                    gone = len(talk.whole)
                    await wait_until(lambda: len(talk.whole) > gone + CLIENTS, "people go on")
                assert staying.returncode is None
    assert talk.failed == []
    assert going.returncode == 0
    last = [stream for stream in talk.whole[told:] if stream.url == one]
    assert any(stream.closed for stream in last), "told to go elsewhere"
    assert {stream.url for stream in talk.whole[gone + CLIENTS :]} == {two}
    expected = {stream.completion_id for stream in talk.whole}

    async def all_recorded() -> bool:
        return expected <= {served.id for served in await recorded(redis)}

    await wait_until(all_recorded, "every answer is recorded")


async def test_a_service_says_at_once_that_it_goes_and_serves_on(
    redis: Any, valkey_url: str, tmp_path: Path
) -> None:
    async with (
        process("feedback", tmp_path, LEARNBACK_REDIS_URL=valkey_url) as (url, going),
        httpx.AsyncClient(base_url=url, trust_env=False) as http,
    ):
        kept = await http.get("/healthz")
        going.send_signal(signal.SIGTERM)
        said = await wait_until(lambda: _not_ready(url), "it is not ready any more")
        assert "told to stop" in said["checks"]["draining"]
        assert (await http.get("/healthz")).headers["connection"] == "close"
        assert "connection" not in kept.headers
        assert await asyncio.wait_for(going.wait(), 20) == 0


async def _not_ready(url: str) -> Any:
    async with httpx.AsyncClient(trust_env=False) as http:
        answer = await http.get(f"{url}/readyz")
    return answer.json() if answer.status_code == 503 else None


@asynccontextmanager
async def server(linger_s: float) -> AsyncIterator[tuple[DrainingServer, int]]:
    """A server in this process, told to stop at the latest by the end of the block."""
    app = FastAPI()
    add_health_routes(app, {})
    app.state.draining = draining = Draining(timedelta(seconds=linger_s))
    http = wire.protocol(timedelta(seconds=10), problem_document, draining)
    config = uvicorn.Config(app, port=0, http=http, log_level="warning")
    one = DrainingServer(config, draining)
    serving = asyncio.create_task(one.serve())
    await wait_until(lambda: one.started, "it listens")
    yield one, one.servers[0].sockets[0].getsockname()[1]
    one.should_exit = True
    await asyncio.wait_for(serving, 10)


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str:
    """One request on a connection; the head of its answer."""
    writer.write(ASK)
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
    await reader.readexactly(2)
    return head.decode()


async def test_a_connection_that_was_idle_gets_one_more_answer_after_listening_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(wire, "PARTING_S", 5.0)  # however slow this machine is just now
    async with server(linger_s=0) as (one, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        assert "connection: close" not in await ask(reader, writer)
        one.draining.told(one)
        await wait_until(lambda: not one.servers[0].is_serving(), "it listens no longer")
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)
        head = await ask(reader, writer)
        assert head.startswith("HTTP/1.1 200")
        assert "connection: close" in head
        assert await reader.read() == b""
        writer.close()


async def test_an_interrupt_after_the_first_cuts_the_pause_short() -> None:
    async with server(linger_s=3600) as (one, port):
        one.draining.told(one)
        one.draining.told(one, signal.SIGTERM)
        assert not one.should_exit
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        assert "connection: close" in await ask(reader, writer)
        writer.close()
        one.draining.told(one, signal.SIGINT)
        assert (one.should_exit, one.force_exit) == (True, False)
