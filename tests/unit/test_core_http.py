"""What our HTTP APIs share: limits on bodies, problem documents, health."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Annotated, Any

import httpx
import pytest
from fastapi import FastAPI
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from learnback.core.errors import LearnbackError, TooManyRequests, Unauthenticated, Unavailable
from learnback.core.http import (
    MAX_DEPTH,
    BodyLimits,
    add_error_handlers,
    add_health_routes,
    json_depth,
)

json_values = st.recursive(
    st.none() | st.booleans() | st.text() | st.integers(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=60,
)


def depth(value: Any) -> int:
    if isinstance(value, list):
        return 1 + max(map(depth, value), default=0)
    if isinstance(value, dict):
        return 1 + max(map(depth, value.values()), default=0)
    return 0


@given(json_values)
def test_depth_is_that_of_the_value(value: Any) -> None:
    assert json_depth(json.dumps([value]).encode(), limit=0) in {1, depth([value])}
    padded = [value, [[]] * 40]  # enough brackets that they are counted
    assert json_depth(json.dumps(padded).encode()) == depth(padded)


@given(st.text(alphabet='[]{}"\\a', max_size=300))
def test_brackets_in_strings_do_not_count(text: str) -> None:
    body = json.dumps({"a": text * 3, "b": [[]] * 40}).encode()
    assert json_depth(body) == 3


@given(st.binary(max_size=300))
def test_depth_of_anything_is_found_without_error(body: bytes) -> None:
    assert 0 <= json_depth(body * 3) <= MAX_DEPTH + 1


def test_depth_of_a_large_hostile_body_is_found_at_once() -> None:
    started = time.perf_counter()
    assert json_depth(b"[" * 4_000_000) == MAX_DEPTH + 1
    assert json_depth(b'{"a":"' + b'\\"[' * 1_000_000 + b'"}' + b"[" * 10) == 10
    assert time.perf_counter() - started < 1.0


class Body(BaseModel):
    name: Annotated[str, Field(max_length=5)]
    inner: dict[str, list[int]] = {}


def an_app() -> FastAPI:
    app = FastAPI()
    add_error_handlers(app)

    @app.post("/things")
    async def make(body: Body) -> dict[str, str]:
        return {"name": body.name}

    @app.get("/fails/{how}")
    async def fail(how: str) -> None:
        errors: dict[str, Exception] = {
            "busy": TooManyRequests("Slow down.", retry_after_s=2.4),
            "key": Unauthenticated("Send a key."),
            "bug": ZeroDivisionError("secret detail"),
        }
        raise errors[how]

    async def fine() -> None:
        return None

    async def breaks() -> str | None:
        raise Unavailable("the ledger is away")

    add_health_routes(app, {"fine": fine, "broken": breaks})
    app.add_middleware(BodyLimits, max_bytes=200, max_seconds=0.2)
    return app


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(an_app(), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


JSON = {"content-type": "application/json"}


@pytest.mark.parametrize(
    ("body", "headers", "status", "code", "field"),
    [
        (b'{"name": "a"}', {}, 415, "unsupported_media_type", None),
        (b'{"name": "a"}', {"content-type": "text/plain"}, 415, "unsupported_media_type", None),
        (b'{"name": "' + b"a" * 300 + b'"}', JSON, 413, "body_too_large", None),
        (b'{"name": "\xff"}', JSON, 400, "malformed_request", None),
        (b'{"name": ', JSON, 400, "malformed_request", ""),
        (b"", JSON, 422, "invalid_value", ""),
        (b"[" * 40 + b"]" * 40, JSON, 400, "malformed_request", None),
        (b'{"name": "too long"}', JSON, 422, "invalid_value", "name"),
        (b'{"name": "a", "inner": {"x": [1, "b"]}}', JSON, 422, "invalid_value", "inner.x.1"),
        (b"{}", JSON, 422, "invalid_value", "name"),
    ],
)
async def test_a_bad_body_is_explained(
    client: httpx.AsyncClient,
    body: bytes,
    headers: dict[str, str],
    status: int,
    code: str,
    field: str | None,
) -> None:
    answer = await client.post("/things", content=body, headers=headers)
    said = answer.json()
    assert (answer.status_code, said["status"], said["code"]) == (status, status, code)
    assert answer.headers["content-type"] == "application/problem+json"
    assert said["detail"]
    assert said["instance"] == "/things"
    if field is not None:
        assert said["errors"][0]["field"] == field


async def test_a_good_body_in_pieces_arrives(client: httpx.AsyncClient) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for piece in (b'{"na', b'me": ', b'"abc"}'):
            yield piece

    answer = await client.post("/things", content=pieces(), headers=JSON)
    assert answer.json() == {"name": "abc"}


async def test_a_body_that_grows_over_the_limit_is_cut_off(client: httpx.AsyncClient) -> None:
    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b"a" * 100

    answer = await client.post("/things", content=endless(), headers=JSON)
    assert answer.status_code == 413


async def test_a_body_that_does_not_come_times_out() -> None:
    sent: list[Any] = []

    async def receive() -> Any:
        await asyncio.Event().wait()

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/things", "headers": []}
    await an_app()(scope | {"query_string": b""}, receive, send)
    assert sent[0]["status"] == 408


async def test_a_client_that_hangs_up_half_way_reaches_nothing() -> None:
    events = iter(
        [
            {"type": "http.request", "body": b'{"name": "a"', "more_body": True},
            {"type": "http.disconnect"},
        ]
    )
    sent: list[Any] = []

    async def receive() -> Any:
        return next(events)

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": "/things", "headers": headers}
    await an_app()(scope | {"query_string": b""}, receive, send)
    assert sent == []


@pytest.mark.parametrize(
    ("how", "status", "header"),
    [("busy", 429, ("retry-after", "2")), ("key", 401, ("www-authenticate", "Bearer"))],
)
async def test_errors_say_how_to_go_on(
    client: httpx.AsyncClient, how: str, status: int, header: tuple[str, str]
) -> None:
    answer = await client.get(f"/fails/{how}")
    assert answer.status_code == status
    assert answer.headers[header[0]] == header[1]


async def test_a_bug_tells_nothing_of_the_inside(client: httpx.AsyncClient) -> None:
    answer = await client.get("/fails/bug")
    assert (answer.status_code, answer.json()["code"]) == (500, LearnbackError.code)
    assert "secret" not in answer.text


async def test_unknown_paths_and_methods_are_problems_too(client: httpx.AsyncClient) -> None:
    assert (await client.get("/nowhere")).json()["code"] == "unknown_path"
    assert (await client.get("/things")).json()["code"] == "method_not_allowed"


async def test_readiness_names_what_is_missing(client: httpx.AsyncClient) -> None:
    answer = await client.get("/readyz")
    assert answer.status_code == 503
    checks = answer.json()["checks"]
    assert checks["fine"] == "ok"
    assert "the ledger is away" in checks["broken"]
    assert (await client.get("/healthz")).text == "ok"
    assert "python_info" in (await client.get("/metrics")).text
