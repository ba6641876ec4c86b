"""The feedback process for tests: its app without a network, its workers run by hand."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import httpx
import uvicorn
from fastapi import FastAPI
from sqlalchemy import select

from learnback.contracts.messages import CompletionServed, FeedbackReceived
from learnback.contracts.models import (
    Choice,
    CompletionEnd,
    FeedbackStatus,
    Scope,
    Timings,
    Track,
)
from learnback.contracts.streams import COMPLETIONS, FEEDBACK
from learnback.core import wire
from learnback.core.bus import Consumer, publish
from learnback.core.clock import now
from learnback.core.draining import Draining
from learnback.core.http import problem_document
from learnback.core.ids import uuid7
from learnback.core.redis import connect
from learnback.feedback.app import GROUP, create_app
from learnback.feedback.recorder import Recorder
from learnback.feedback.settings import FeedbackSettings
from learnback.ledger import feedback as signals
from learnback.ledger.database import Database
from learnback.ledger.keys import KeyRing, create_key
from learnback.ledger.tables import completions, feedback, idempotency_keys, outbox


def a_completion(
    prompt: str = "What is 2 + 2?", *, answers: Sequence[str] = ("4",), **changes: Any
) -> CompletionServed:
    values: dict[str, Any] = {
        "id": f"chatcmpl-{uuid7()}",
        "tenant": "default",
        "created_at": now(),
        "endpoint": "chat.completions",
        "version": "tiny-base-0",
        "track": Track.STABLE,
        "probability": 1.0,
        "end": CompletionEnd.COMPLETE,
        "status_code": 200,
        "streamed": False,
        "stored": True,
        "prompt": ({"role": "user", "content": prompt},),
        "choices": tuple(Choice(index=i, text=text) for i, text in enumerate(answers)),
        "timings": Timings(duration_s=0.1),
    }
    return CompletionServed(**values | changes)


def thumbs(completion_id: str, **changes: Any) -> dict[str, Any]:
    return {"kind": "thumbs", "completion_id": completion_id, "value": "up"} | changes


def correction(completion_id: str, **changes: Any) -> dict[str, Any]:
    return {"kind": "correction", "completion_id": completion_id, "text": "better"} | changes


def preference(first: str, second: str, /, **changes: Any) -> dict[str, Any]:
    body = {
        "kind": "preference",
        "first": {"completion_id": first},
        "second": {"completion_id": second},
        "preferred": "first",
    }
    return body | changes


@dataclass
class Service:
    """A client of the app, and the workers to run by hand."""

    client: httpx.AsyncClient
    app: FastAPI
    database: Any
    redis: Any

    @property
    def relay(self) -> Any:
        return self.app.state.parts.relay

    async def record(self, *completions: CompletionServed) -> None:
        """Let the recorder take completions from their stream."""
        await publish(self.redis, COMPLETIONS, completions)
        recorder = Recorder(self.database, self.relay.wake)
        consumer = Consumer(self.redis, COMPLETIONS, GROUP, recorder.completions, name="test")
        await consumer.run_until_empty()

    async def post(self, body: Any, status: int = 202, key: str | None = None) -> Any:
        headers = {"Idempotency-Key": key} if key else {}
        response = await self.client.post("/v1/feedback", json=body, headers=headers)
        assert response.status_code == status, response.text
        return response.json()

    async def get(self, feedback_id: str) -> Any:
        response = await self.client.get(f"/v1/feedback/{feedback_id}")
        assert response.status_code == 200, response.text
        return response.json()

    async def counts(self) -> dict[str, int]:
        """The statuses that occur; checks that they add up."""
        async with self.database.read() as connection:
            counts = await signals.reconcile(connection)
            assert sum(counts.values()) == await signals.received(connection)
        return {status.value: count for status, count in counts.items() if count}

    async def set_status(self, feedback_id: str, status: FeedbackStatus, **values: Any) -> None:
        """What retraining does to a signal."""
        async with self.database.write() as connection:
            ((_, row),) = (await signals.locked(connection, [feedback_id])).items()
            await signals.change(
                connection, [signals.Change(row, status, None, tuple(values.items()))]
            )

    async def relayed(self) -> list[FeedbackReceived]:
        """All messages on the feedback stream, after the relay ran."""
        await self.relay.run_until_empty()
        entries = await self.redis.xrange(FEEDBACK.key)
        return [FeedbackReceived.model_validate_json(fields[b"body"]) for _, fields in entries]


@asynccontextmanager
async def service(
    database: Any,
    redis: Any,
    *,
    settings: FeedbackSettings | None = None,
    require_keys: bool = False,
    secret: str | None = None,
) -> AsyncIterator[Service]:
    app = create_app(
        settings or FeedbackSettings(),
        database,
        redis,
        KeyRing(database),
        require_keys=require_keys,
    )
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    headers = {"Authorization": f"Bearer {secret}"} if secret else {}
    async with httpx.AsyncClient(
        transport=transport, base_url="http://feedback", headers=headers
    ) as client:
        yield Service(client, app, database, redis)


async def a_key(database: Any, tenant: str, *scopes: Scope) -> str:
    async with database.write() as connection:
        _, secret = await create_key(connection, tenant, "test", scopes or [Scope.FEEDBACK])
    return secret


class FlakyEdge:
    """ASGI middleware that misbehaves as told: `plan` holds what it does to the next requests.

    `drop`: the request is handled, but its answer is lost. A number: answered with that status.
    """

    def __init__(self, app: Any) -> None:
        self.app = app
        self.plan: list[str | int] = []
        self.seen: list[tuple[str, str]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        self.seen.append((scope["method"], headers.get(b"idempotency-key", b"").decode()))
        fault = self.plan.pop(0) if self.plan else None
        if isinstance(fault, int):
            head = [(b"retry-after", b"0")]
            await send({"type": "http.response.start", "status": fault, "headers": head})
            await send({"type": "http.response.body", "body": b"<html>proxy</html>"})
        elif fault == "drop":
            await self.app(scope, receive, _ignore)
            raise ConnectionResetError("the answer is lost")
        else:
            await self.app(scope, receive, send)


async def _ignore(message: Any) -> None:
    return None


@dataclass
class Live:
    """The whole process on a real port, workers included."""

    url: str
    edge: FlakyEdge

    @property
    def address(self) -> tuple[str, int]:
        host, port = self.url.removeprefix("http://").split(":")
        return host, int(port)


@contextmanager
def live(
    database_url: str,
    redis_url: str,
    *,
    settings: FeedbackSettings | None = None,
    require_keys: bool = False,
    head_timeout: timedelta = timedelta(seconds=10),
) -> Iterator[Live]:
    """Serve from a thread of its own, so that synchronous clients can talk to it."""
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    database, redis = Database(database_url), connect(redis_url)
    app = create_app(
        settings or FeedbackSettings(),
        database,
        redis,
        KeyRing(database),
        require_keys=require_keys,
        close=[redis.aclose, database.close],
    )
    edge = FlakyEdge(app)
    config = uvicorn.Config(
        edge,
        http=wire.protocol(head_timeout, problem_document, Draining()),
        log_config=None,
        lifespan="on",
        timeout_graceful_shutdown=5,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    deadline = time.monotonic() + 30
    while not server.started and time.monotonic() < deadline and thread.is_alive():
        time.sleep(0.01)
    assert server.started, "the server did not start"
    yield Live(f"http://127.0.0.1:{listening.getsockname()[1]}", edge)
    server.should_exit = True
    thread.join(30)
    assert not thread.is_alive(), "the server did not stop"


async def snapshot(database: Any) -> list[Any]:
    """All that the ledger holds."""
    async with database.read() as connection:
        return [
            sorted(map(str, await connection.execute(select(table))))
            for table in (completions, feedback, idempotency_keys, outbox)
        ]
