"""Whatever a client sends within our OpenAPI document, or a bit beside it, is no 500."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.checks import not_a_server_error
from tests.inference_server import Server, inference_server

from learnback.inference.openapi import document

schema = schemathesis.openapi.from_dict(document())
schema.config.generation.update(modes=list(schemathesis.GenerationMode))


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory, valkey_url: str) -> Iterator[str]:
    """A server in a thread of its own, since schemathesis calls from ours."""
    started = threading.Event()
    running: list[tuple[Server, asyncio.AbstractEventLoop, asyncio.Event]] = []
    home: Path = tmp_path_factory.mktemp("home")

    async def serve() -> None:
        async with inference_server(home, valkey_url) as server:
            stop = asyncio.Event()
            running.append((server, asyncio.get_running_loop(), stop))
            started.set()
            await stop.wait()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    assert started.wait(60)
    server, loop, stop = running[0]
    yield server.url
    loop.call_soon_threadsafe(stop.set)
    thread.join(30)


@schema.parametrize()
@settings(
    max_examples=30,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.generate],
)
def test_no_server_error(case: schemathesis.Case, url: str) -> None:
    answer = case.call(base_url=url)
    case.validate_response(answer, checks=[not_a_server_error])
    if answer.text == "Invalid HTTP request received.":  # the HTTP server, before us
        return
    if answer.status_code >= 400 and case.method.upper() != "HEAD":
        assert "message" in answer.json()["error"]
