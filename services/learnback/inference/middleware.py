"""The ASGI middleware around an OpenAI-compatible engine: `vllm --middleware` loads it by name.

It lets through what our API has and nothing else: authenticates, picks the version, applies its
prompt strategy, gives the request its id, passes the answer on untouched, and records afterwards.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass
from typing import Any

import msgspec
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from learnback.contracts import models
from learnback.contracts.models import Endpoint
from learnback.core.errors import BadRequest, LearnbackError, Unavailable
from learnback.core.ids import uuid7
from learnback.inference import body as bodies
from learnback.inference import metrics, pages, prompts
from learnback.inference.examples import Applied
from learnback.inference.exchange import Exchange
from learnback.inference.routing import Assignment, subject_of
from learnback.inference.served import Served
from learnback.inference.services import Services, inside_vllm
from learnback.ledger.keys import Principal, require_scope

log = logging.getLogger(__name__)

ENDPOINTS: dict[str, Endpoint] = {
    "/v1/chat/completions": "chat.completions",
    "/v1/completions": "completions",
    "/v1/responses": "responses",
}
ID_PREFIX: dict[Endpoint, str] = {
    "chat.completions": "chatcmpl-",
    "completions": "cmpl-",
    "responses": "resp_",
}
"""What engines put before the request id to make the response's id."""
ENGINE_PAGES = frozenset(("/health", "/metrics", "/version"))
"""Pages of the engine's own that anybody may see."""

OpenServices = Callable[[ASGIApp, dict[str, Any]], AbstractAsyncContextManager[Services]]


@dataclass(frozen=True, slots=True)
class Prepared:
    """A request that is fit for the engine."""

    request_id: str
    completion_id: str
    original: bytes
    rewritten: bytes
    headers: bodies.Headers
    peeked: bodies.Peek
    principal: Principal
    subject: str | None
    assignment: Assignment
    applied: Applied | None
    """What the version's prompt strategy did; None: it has none."""


class LearnbackMiddleware:
    """Wraps an engine's ASGI app.

    `open_services` is entered when the server starts and left when it ends; it gets the wrapped
    app and what the server adds to each scope.
    """

    def __init__(self, app: ASGIApp, open_services: OpenServices = inside_vllm) -> None:
        self.app = app
        self._open_services = open_services
        self._services: Services | None = None

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
        if endpoint is not None and prepared is not None:
            await self._serve(scope, receive, send, endpoint, prepared)

    def _opened(self) -> Services:
        if self._services is None:
            raise Unavailable("The server is starting or stopping; try again.")
        return self._services

    async def _prepare(self, scope: Scope, receive: Receive, endpoint: Endpoint) -> Prepared | None:
        """Authenticate, read, check, assign, rewrite. None if the client has left."""
        services = self._opened()
        kept, ours = bodies.split_headers(scope["headers"])
        principal = await pages.authenticate(services, ours.get(b"authorization"))
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
        applied = _apply_strategy(services, assignment, endpoint, fields, principal.tenant)
        completion_id = ID_PREFIX[endpoint] + request_id
        engine_model = assignment.version.engine_model
        rewritten = bodies.rewrite(
            fields, engine_model, endpoint, completion_id, services.settings.drop_fields
        )
        return Prepared(
            request_id=request_id,
            completion_id=completion_id,
            original=original,
            rewritten=rewritten,
            headers=bodies.engine_headers(kept, rewritten, request_id),
            peeked=peeked,
            principal=principal,
            subject=subject,
            assignment=assignment,
            applied=applied,
        )

    async def _serve(
        self, scope: Scope, receive: Receive, send: Send, endpoint: Endpoint, prepared: Prepared
    ) -> None:
        """Let the engine answer; whatever happens to it, the exchange is recorded."""
        services = self._opened()
        headers = _response_headers(prepared, honest_id=not services.recorder.ids_differ)

        def record(exchange: Exchange) -> None:
            try:
                services.recorder.submit(_served(services, endpoint, prepared, exchange))
            except Exception:  # the request is answered; recording must not change that
                log.exception("%s was not recorded", prepared.completion_id)
                metrics.DROPPED.labels("bug").inc()

        exchange = Exchange(prepared.rewritten, headers, receive, send, record)
        needs, uses = prepared.assignment.version.needs, services.follower.uses
        for name in needs:
            uses.begin(name)
        try:
            await self.app({**scope, "headers": prepared.headers}, exchange.receive, exchange.send)
        finally:
            for name in needs:
                uses.end(name)
            if not exchange.complete:  # it broke off, so nobody was told of its last piece
                record(exchange)
            _measure(endpoint, prepared, exchange)


def _passes(scope: Scope) -> bool:
    """Whether the engine itself answers: its own pages, and browsers' preflight requests."""
    path, method = scope["path"], scope["method"]
    if path in ENGINE_PAGES:
        return bool(method == "GET")
    if method != "OPTIONS" or not (path in ENDPOINTS or path == pages.MODELS):
        return False
    return any(name == b"access-control-request-method" for name, _ in scope["headers"])


def _apply_strategy(
    services: Services,
    assignment: Assignment,
    endpoint: Endpoint,
    fields: bodies.Fields,
    tenant: str,
) -> Applied | None:
    """Change `fields` as the version's prompt strategy says; None if it has none."""
    version, follower = assignment.version, services.follower
    if version.strategy is None:
        return None
    prompter = follower.banks.prompter(version.name, version.strategy)
    try:
        applied = prompts.apply(prompter, endpoint, fields, tenant, follower.context)
    except msgspec.DecodeError as error:
        raise BadRequest(f"The body is not JSON: {error}.") from None
    for name, value in applied.changed.items():
        fields[name] = msgspec.Raw(msgspec.json.encode(value))
    return applied


def _response_headers(prepared: Prepared, *, honest_id: bool) -> bodies.Headers:
    """Headers that say who answered; the id only while the engine gives the id that we ask for."""
    headers = [
        (b"x-request-id", prepared.request_id.encode()),
        (b"x-learnback-version", prepared.assignment.version.name.encode("latin-1", "replace")),
        (b"x-learnback-track", prepared.assignment.track.value.encode()),
    ]
    if honest_id:
        headers.append((b"x-learnback-completion-id", prepared.completion_id.encode()))
    return headers


def _served(
    services: Services, endpoint: Endpoint, prepared: Prepared, exchange: Exchange
) -> Served:
    """What is to be recorded of an exchange."""
    peeked, assignment = prepared.peeked, prepared.assignment
    metadata = peeked.metadata or {}
    applied = prepared.applied or Applied()
    return Served(
        id=prepared.completion_id,
        tenant=prepared.principal.tenant,
        created_at=exchange.created_at,
        endpoint=endpoint,
        version=assignment.version.name,
        track=assignment.track,
        probability=assignment.probability,
        prompt_strategy=assignment.version.name if applied.changed else None,
        request=prepared.original,
        answer=exchange.answer,
        event_stream=exchange.event_stream,
        streamed=bool(peeked.stream),
        stored=services.settings.store_default if peeked.store is None else peeked.store,
        status=exchange.status or 500,
        end=exchange.end,
        subject=prepared.subject,
        session=metadata.get("session_id"),
        metadata=metadata,
        first_byte_s=exchange.first_byte_s,
        duration_s=exchange.duration_s,
        examples=applied.examples,
        strategy_skipped=applied.skipped,
    )


def _measure(endpoint: Endpoint, prepared: Prepared, exchange: Exchange) -> None:
    track = prepared.assignment.track.value
    metrics.requests(endpoint, track, exchange.status).inc()
    metrics.duration(endpoint, track).observe(exchange.duration_s)
    if exchange.first_byte_s is not None:
        metrics.first_byte(endpoint, track).observe(exchange.first_byte_s)
    applied = prepared.applied
    if applied is not None:
        metrics.EXAMPLES.inc(len(applied.examples))
        metrics.EXAMPLES_LEFT_OUT.inc(applied.left_out)
        if applied.skipped is not None:
            metrics.STRATEGY_SKIPPED.labels(applied.skipped.value).inc()
