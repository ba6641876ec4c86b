"""The ASGI middleware around an OpenAI-compatible engine: `vllm --middleware` loads it by name.

It lets through what our API has and nothing else: authenticates, picks the version, applies its
prompt strategy, gives the request its id, passes the answer on untouched, and records afterwards.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from learnback.contracts import models
from learnback.contracts.models import Endpoint
from learnback.core.errors import LearnbackError, Unavailable
from learnback.core.ids import uuid7
from learnback.inference import body as bodies
from learnback.inference import metrics, pages
from learnback.inference.compare import COMPARE, answer_both, pair_of
from learnback.inference.compare_streams import stream_both
from learnback.inference.exchange import Exchange
from learnback.inference.mirror import Mirror
from learnback.inference.prepare import Asked, Prepared, prepare, whose_examples
from learnback.inference.recording import measure, record
from learnback.inference.routing import subject_of
from learnback.inference.services import Services, inside_vllm
from learnback.ledger.keys import require_scope

log = logging.getLogger(__name__)

ENDPOINTS: dict[str, Endpoint] = {
    "/v1/chat/completions": "chat.completions",
    "/v1/completions": "completions",
    "/v1/responses": "responses",
}
METRICS = "/metrics"
ENGINE_PAGES = frozenset(("/health", METRICS, "/version"))
"""Pages of the engine's own that anybody may see."""

OpenServices = Callable[[ASGIApp, dict[str, Any]], AbstractAsyncContextManager[Services]]


class LearnbackMiddleware:
    """Wraps an engine's ASGI app.

    `open_services` is entered when the server starts and left when it ends; it gets the wrapped
    app and what the server adds to each scope.
    """

    def __init__(self, app: ASGIApp, open_services: OpenServices = inside_vllm) -> None:
        self.app = app
        self._open_services = open_services
        self._services: Services | None = None
        self._mirror: Mirror | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or live through the server's life."""
        if scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._lifespan(scope, receive, send)
        else:
            await receive()
            await send({"type": "websocket.close", "code": 1008, "reason": "HTTP only"})

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        server = {name: scope[name] for name in ("app", "state") if name in scope}
        async with AsyncExitStack() as stack:

            async def opening() -> Message:
                message = await receive()
                if message["type"] == "lifespan.startup":
                    opened = self._open_services(self.app, server)
                    self._services = await stack.enter_async_context(opened)
                    mirror = Mirror(self.app, self._services)
                    self._mirror = await stack.enter_async_context(mirror)
                return message

            async def closing(message: Message) -> None:
                if message["type"].startswith("lifespan.shutdown."):
                    await stack.aclose()
                await send(message)

            await self.app(scope, opening, closing)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        path, method = scope["path"], scope["method"]
        endpoint = ENDPOINTS.get(path)
        try:
            if endpoint is not None and method == "POST":
                prepared = await self._prepare(scope, receive, endpoint)
            elif _passes(scope):
                if path == METRICS:
                    metrics.ANSWERS.count()
                await self.app(scope, receive, send)
                return
            else:
                known = endpoint is not None or path in ENGINE_PAGES
                await pages.answer(self._opened(), scope, send, posted=known)
                return
        except LearnbackError as error:
            metrics.REFUSED.labels(error.code).inc()
            await pages.answer_error(send, error)
            return
        if prepared is None:
            return
        pair = pair_of(self._opened(), prepared) if prepared.asked.compares else None
        if pair is None:
            await self._serve(scope, receive, send, prepared)
            return
        answer = stream_both if prepared.asked.peeked.stream else answer_both
        await answer(self.app, self._opened(), pair, scope, receive, send)

    def _opened(self) -> Services:
        if self._services is None:
            raise Unavailable("The server is starting or stopping; try again.")
        return self._services

    async def _prepare(self, scope: Scope, receive: Receive, endpoint: Endpoint) -> Prepared | None:
        """Authenticate, read, check, assign, rewrite. None if the client has left."""
        services = self._opened()
        kept, ours = bodies.split_headers(scope["headers"])
        key = ours.get(b"authorization")
        principal = pages.at_hand(services, key) or await pages.authenticate(services, key)
        require_scope(principal, models.Scope.INFER)
        original = await bodies.read(
            receive,
            ours.get(b"content-type", b""),
            ours.get(b"content-length", b""),
            services.settings.body_bytes,
            services.settings.body_timeout.total_seconds(),
        )
        if original is None:
            return None
        peeked, fields = bodies.peek(original)
        request_id = uuid7()
        subject = subject_of(
            principal.tenant, peeked.safety_identifier, peeked.user, principal.key_id
        )
        assignment = await services.follower.assign(peeked.model, subject or request_id)
        compares, examples_of = ours.get(COMPARE) == b"1", whose_examples(principal, peeked, ours)
        asked = Asked(endpoint, original, peeked, kept, principal, subject, examples_of, compares)
        return prepare(services, asked, fields, assignment, request_id)

    async def _serve(self, scope: Scope, receive: Receive, send: Send, prepared: Prepared) -> None:
        """Let the engine answer; whatever happens to it, the exchange is recorded."""
        services = self._opened()
        headers = _response_headers(prepared)

        def on_last(exchange: Exchange) -> None:
            record(services, prepared, exchange)

        exchange = Exchange(
            scope, prepared.rewritten, headers, receive, send, on_last, prepared.completion_id
        )
        needs, uses = prepared.assignment.version.needs, services.follower.uses
        for name in needs:
            uses.begin(name)
        try:
            await self.app({**scope, "headers": prepared.headers}, exchange.receive, exchange.send)
        finally:
            for name in needs:
                uses.end(name)
            if not exchange.complete:  # it broke off, so nobody was told of its last piece
                record(services, prepared, exchange)
            measure(prepared, exchange)
            if services.follower.snapshot.mirror and self._mirror is not None:
                self._mirror.offer(scope, prepared, exchange)
            await exchange.begin()  # of an answer that ended before its first piece


def _passes(scope: Scope) -> bool:
    """Whether the engine itself answers: its own pages, and browsers' preflight requests."""
    path, method = scope["path"], scope["method"]
    if path in ENGINE_PAGES:
        return bool(method == "GET")
    if method != "OPTIONS" or not (path in ENDPOINTS or path == pages.MODELS):
        return False
    return any(name == b"access-control-request-method" for name, _ in scope["headers"])


def _response_headers(prepared: Prepared) -> bodies.Headers:
    """Headers that say who answered."""
    return [
        (b"x-request-id", prepared.request_id.encode()),
        (b"x-learnback-version", prepared.assignment.version.name.encode("latin-1", "replace")),
        (b"x-learnback-track", prepared.assignment.track.value.encode()),
    ]
