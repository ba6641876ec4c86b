"""A streaming reverse proxy before engines that can't load our middleware.

It forwards to the engine with the fewest open requests. Bytes of bodies go through untouched, in
both directions; hop-by-hop headers end here, and so does the caller's `Authorization`, which holds
our key and not the engine's. Engines answer uncompressed, so that the answer can be recorded.

`/health` says whether any engine is well. `/metrics` is of this process alone: engines have their
own and are scraped themselves, since two engines' series can't be told apart once merged.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Sequence

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from starlette.types import Receive, Scope, Send

from learnback.core.errors import LearnbackError, Unavailable
from learnback.inference.errors import openai_error
from learnback.inference.upstream import Engine, Limits, Reply
from learnback.inference.upstream_connection import (
    ClientGone,
    EngineBusy,
    EngineError,
    EngineUnreachable,
    Headers,
    Request,
)

log = logging.getLogger(__name__)

HOP_BY_HOP = frozenset(
    (
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    )
)
OURS = frozenset((b"host", b"content-length", b"expect", b"authorization", b"accept-encoding"))
"""Request headers that are about this hop: we write our own, or none."""
HEALTH_TIMEOUT_S = 2.0
RECHECK_S = 0.5
"""First pause before an engine that could not be reached is asked again; doubles."""
RECHECK_MAX_S = 8.0


def end_to_end(headers: Headers, dropped: frozenset[bytes] = frozenset()) -> Headers:
    """The headers that go on to the next hop, without those named by `Connection`."""
    named: frozenset[bytes] = frozenset()
    for name, value in headers:
        if name == b"connection":
            named |= {token.strip().lower() for token in value.split(b",")}
    return [
        header
        for header in headers
        if header[0] not in HOP_BY_HOP and header[0] not in dropped and header[0] not in named
    ]


def least_busy(engines: Sequence[Engine], down: set[Engine], turn: int) -> Engine | None:
    """The engine with the fewest open requests; among equals the next in turn."""
    count = len(engines)
    order = (engines[(turn + i) % count] for i in range(count))
    return min((e for e in order if e not in down), key=lambda e: e.outstanding, default=None)


def create_app(
    engine_urls: Sequence[str],
    *,
    engine_key: str = "",
    limits: Limits | None = None,
    registry: CollectorRegistry | None = None,
) -> Proxy:
    """An ASGI app that answers every request with one of the engines; ValueError for a bad URL.

    `engine_key` is sent to the engines as a bearer token. `registry` is what `/metrics` shows.
    """
    if not engine_urls:
        raise ValueError("name at least one engine URL")
    return Proxy([Engine(url, limits) for url in engine_urls], engine_key, registry)


class Proxy:
    """The app of `create_app`. Its engines are checked again while they can't be reached."""

    def __init__(
        self, engines: Sequence[Engine], engine_key: str, registry: CollectorRegistry | None
    ) -> None:
        self.engines = engines
        self.down: set[Engine] = set()
        self._registry = registry
        self._turn = 0
        self._rechecks: set[asyncio.Task[None]] = set()
        self._added: Headers = [(b"accept-encoding", b"identity")]
        if engine_key:
            self._added.append((b"authorization", b"Bearer " + engine_key.encode()))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1003, "reason": "HTTP only"})
        elif scope["path"] == "/health":
            await self._health(send)
        elif scope["path"] == "/metrics":
            shown = generate_latest(self._registry) if self._registry else generate_latest()
            await _answer(send, 200, shown, CONTENT_TYPE_LATEST)
        else:
            await self._forward(scope, receive, send)

    async def _forward(self, scope: Scope, receive: Receive, send: Send) -> None:
        client = _Client(receive)
        reply: Reply | None = None
        try:
            reply = await self._ask(await self._request(scope, client))
            await _pass_on(reply, send)
        except ClientGone:
            return
        except LearnbackError as error:
            if reply is None:
                await _answer_error(send, error)
            else:  # an answer that is left unfinished: the server cuts the client's connection
                log.warning("An answer was cut off: %s", error.detail)
        finally:
            client.forget()
            if reply is not None:
                reply.close()

    async def _request(self, scope: Scope, client: _Client) -> Request:
        """The request as the engine gets it: whole if it came whole, else as a stream."""
        headers = end_to_end(scope["headers"], OURS) + self._added
        target = scope.get("raw_path") or scope["path"].encode()
        if scope["query_string"]:
            target += b"?" + scope["query_string"]
        first, more = await client.first()
        if more:
            declared = dict(scope["headers"]).get(b"content-length")
            length = int(declared) if declared else None
            client.request = Request(scope["method"], target, headers, client.upload(first), length)
        else:
            client.request = Request(scope["method"], target, headers, first)
            client.watch()
        return client.request

    async def _ask(self, request: Request) -> Reply:
        """The reply of one engine; another is asked as long as none could be reached."""
        while True:
            engine = least_busy(self.engines, self.down, self._turn)
            if engine is None:
                raise Unavailable("No engine can be reached; they are being checked. Try again.")
            self._turn += 1
            try:
                return await engine.send(request)
            except EngineUnreachable as error:
                self._mark_down(engine, error)

    def _mark_down(self, engine: Engine, error: EngineError) -> None:
        if engine in self.down:
            return
        self.down.add(engine)
        log.warning("%s It gets no requests until it answers again.", error.detail)
        task = asyncio.create_task(self._recheck(engine))
        self._rechecks.add(task)
        task.add_done_callback(self._rechecks.discard)

    async def _recheck(self, engine: Engine) -> None:
        pause = RECHECK_S
        while not await is_well(engine):
            await asyncio.sleep(pause)
            pause = min(pause * 2, RECHECK_MAX_S)
        self.down.discard(engine)
        log.warning("The engine at %s answers again.", engine.url)

    async def _health(self, send: Send) -> None:
        well = await asyncio.gather(*(is_well(engine) for engine in self.engines))
        shown = {e.url: "ok" if ok else "down" for e, ok in zip(self.engines, well, strict=True)}
        body = json.dumps({"engines": shown}).encode()
        await _answer(send, 200 if any(well) else 503, body)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await send({"type": "lifespan.startup.complete"})
            elif message["type"] == "lifespan.shutdown":
                self.close()
                await send({"type": "lifespan.shutdown.complete"})
                return

    def close(self) -> None:
        """Stop checking and close idle connections."""
        for task in self._rechecks:
            task.cancel()
        for engine in self.engines:
            engine.close()


async def is_well(engine: Engine) -> bool:
    """Whether the engine answers; one without `/health` is well if it answers at all."""
    try:
        status, _ = await engine.get("/health", HEALTH_TIMEOUT_S)
    except EngineBusy:
        return True
    except EngineError:
        return False
    return status < 500


class _Client:
    """The client's side of one request: its body, and whether it is still there."""

    def __init__(self, receive: Receive) -> None:
        self.request: Request | None = None
        self._receive = receive
        self._watcher: asyncio.Task[None] | None = None

    async def first(self) -> tuple[bytes, bool]:
        """The first piece of the body, and whether there are more."""
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise ClientGone("The client went away.")
        return message.get("body", b""), message.get("more_body", False)

    async def upload(self, piece: bytes) -> AsyncIterator[bytes]:
        """The whole body in pieces, `piece` first; then the client is watched."""
        more = True
        while more:
            yield piece
            piece, more = await self.first()
        yield piece
        self.watch()

    def watch(self) -> None:
        """Cancel the request when the client goes away."""
        self._watcher = asyncio.create_task(self._watch())

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            continue
        if self.request is not None:
            self.request.cancel()

    def forget(self) -> None:
        """The exchange is over."""
        if self._watcher is not None:
            self._watcher.cancel()


async def _pass_on(reply: Reply, send: Send) -> None:
    """The reply to the client; a slow client makes `send` wait, and so the engine."""
    await send(
        {
            "type": "http.response.start",
            "status": reply.status,
            "headers": end_to_end(reply.headers),
        }
    )
    more = True
    while more:
        piece = await reply.read()
        more = not reply.complete
        if not more:  # before the last byte, which lets the client ask again at once
            reply.close()
        await send({"type": "http.response.body", "body": piece, "more_body": more})


async def _answer_error(send: Send, error: LearnbackError) -> None:
    await _answer(send, error.status, openai_error(error))


async def _answer(
    send: Send, status: int, body: bytes, content_type: str = "application/json"
) -> None:
    headers = [
        (b"content-type", content_type.encode()),
        (b"content-length", b"%d" % len(body)),
    ]
    if status == 503:
        headers.append((b"retry-after", b"1"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})
