"""One HTTP/1.1 connection to an engine: what goes over it, and how that can fail.

EngineError
|-- EngineUnreachable 503   no connection: nothing was sent, so another engine may be asked
|-- EngineBusy 503          every connection that we allow is in use
|-- EngineBroken 502        no answer, half an answer, or one that is not HTTP
|-- EngineSilent 504        nothing arrived for too long
`-- ClientGone 499          `Request.cancel`: the connection is closed, so the engine aborts
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httptools

from learnback.core.errors import LearnbackError

HIGH_WATER = 256 * 1024
"""Bytes of an answer held for a slow client before its engine is made to wait."""

Headers = list[tuple[bytes, bytes]]


class EngineError(LearnbackError):
    """The engine did not answer, or not whole."""

    status, code, title = 502, "engine_error", "Engine error"


class EngineUnreachable(EngineError):
    """No connection could be made."""

    status, code, title = 503, "engine_unreachable", "Engine unreachable"


class EngineBusy(EngineError):
    """All connections to the engine are in use."""

    status, code, title = 503, "engine_busy", "Engine busy"


class EngineBroken(EngineError):
    """The connection ended before the answer did, or the answer is not HTTP."""

    status, code, title = 502, "engine_broken", "Broken answer from the engine"


class EngineSilent(EngineError):
    """The engine sent nothing for too long."""

    status, code, title = 504, "engine_silent", "Engine timeout"


class ClientGone(EngineError):
    """Whoever asked has left; there is nobody to answer."""

    status, code, title = 499, "client_gone", "Client gone"


class StaleConnection(EngineBroken):
    """A pooled connection was dead before it gave any byte: the request may be sent once more."""


@dataclass(frozen=True)
class Origin:
    """Where an engine listens."""

    host: str
    port: int
    tls: bool
    authority: bytes
    base: bytes
    """Path before every target, without a slash at its end."""


def parse_origin(url: str) -> Origin:
    """The parts of an engine's URL; ValueError says what is wrong with it.

    A `/v1` at the end is left out: it is part of every OpenAI path already.
    """
    parts = urlsplit(url if "//" in url else f"//{url}", scheme="http")
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError(f"{url!r} is no engine URL; write http://host:port or https://host")
    if parts.query or parts.fragment or parts.username is not None or " " in url:
        raise ValueError(f"{url!r}: an engine URL has no query, fragment, user or space")
    tls = parts.scheme == "https"
    port = parts.port or (443 if tls else 80)
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    authority = host if parts.port is None else f"{host}:{port}"
    base = parts.path.rstrip("/").removesuffix("/v1")
    return Origin(parts.hostname, port, tls, authority.encode("ascii"), base.encode("ascii"))


class Request:
    """One request to an engine. `cancel` ends it at any time, from any task of the loop.

    `headers` are sent as they are, without `host` and framing, which are ours. `body` is bytes,
    or an async iterator for an upload, sent chunked unless `length` says how long it is.
    """

    __slots__ = ("body", "cancelled", "connection", "headers", "length", "method", "target")

    def __init__(
        self,
        method: str,
        target: bytes,
        headers: Headers,
        body: bytes | AsyncIterator[bytes] = b"",
        length: int | None = None,
    ) -> None:
        self.method = method
        self.target = target
        self.headers = headers
        self.body = body
        self.length = len(body) if isinstance(body, bytes) else length
        self.cancelled = False
        self.connection: Connection | None = None

    def cancel(self) -> None:
        """Close the connection; who waits for the answer gets ClientGone."""
        self.cancelled = True
        if self.connection is not None:
            self.connection.fail(ClientGone("The client went away."))

    def head(self, origin: Origin) -> bytes:
        """The request line and the headers."""
        lines = [self.method.encode(), b" ", origin.base, self.target, b" HTTP/1.1\r\nhost: "]
        lines.append(origin.authority)
        for name, value in self.headers:
            lines += (b"\r\n", name, b": ", value)
        if self.length is None:
            lines.append(b"\r\ntransfer-encoding: chunked")
        elif self.length or self.method in {"POST", "PUT", "PATCH"}:
            lines.append(b"\r\ncontent-length: %d" % self.length)
        lines.append(b"\r\n\r\n")
        return b"".join(lines)


class Connection(asyncio.Protocol):
    """One connection: writes a request, parses its answer. One exchange at a time."""

    def __init__(self, silence_s: float) -> None:
        self.loop = asyncio.get_running_loop()
        self.silence_s = silence_s
        self.transport: Any = None
        self.parser = httptools.HttpResponseParser(self)
        self.idle_since = 0.0
        self._writable: asyncio.Future[None] | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.error: EngineError | None = None
        self.reusable = False
        self.active = False
        self.complete = False

    def begin(self, *, pooled: bool, bodiless: bool) -> None:
        """Forget the last exchange; `bodiless`: the answer to HEAD has no body."""
        self.active = True
        self.pooled = pooled
        self.bodiless = bodiless
        self.status = 0
        self.headers: Headers = []
        self.pieces: list[bytes] = []
        self.size = 0
        self.heard = False
        self.head_done = False
        self.complete = False
        self.until_close = True
        self.last_heard = self.loop.time()
        self._timer = self.loop.call_later(self.silence_s, self._check_silence)

    # What the loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection stands."""
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """Bytes of the answer."""
        if not self.active or self.complete:  # bytes that nobody asked for: never trust the next
            self.reusable = False
            self.transport.abort()
            return
        self.heard = True
        self.last_heard = self.loop.time()
        try:
            self.parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            if not self.complete:
                self.fail(EngineBroken(f"The engine's answer is not HTTP: {error}."))
            self.reusable = False
        if self.size > HIGH_WATER and not self.transport.is_closing():
            self.transport.pause_reading()

    def eof_received(self) -> bool:
        """The engine sends no more: the transport closes itself."""
        return False

    def connection_lost(self, error: Exception | None) -> None:
        """The end of an answer that ends so, else a failure."""
        self.reusable = False
        self.resume_writing()
        if not self.active:
            return
        if self.head_done and self.until_close and error is None and self.error is None:
            self.complete = True
            self._wake()
        elif not self.complete:
            self.fail(self._lost(error))

    def pause_writing(self) -> None:
        """The engine reads more slowly than the client uploads."""
        self._writable = self._writable or self.loop.create_future()

    def resume_writing(self) -> None:
        """The engine has caught up, or is gone."""
        waiting, self._writable = self._writable, None
        if waiting is not None and not waiting.done():
            waiting.set_result(None)

    # What the parser calls.

    def on_message_begin(self) -> None:
        """A second answer is never ours."""
        if self.complete:
            raise ValueError("a second answer to one request")

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header, or one trailer."""
        if self.head_done:  # trailers end at this hop
            return
        name = name.lower()
        if name == b"content-length" or (
            name == b"transfer-encoding" and value.lower().endswith(b"chunked")
        ):
            self.until_close = False
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        """The head is there; a 1xx is only a foretaste."""
        self.status = self.parser.get_status_code()
        if self.status < 200:
            self.headers = []
            self.until_close = True
            return
        self.reusable = self.parser.should_keep_alive() and not self.bodiless
        self.head_done = True
        if self.bodiless:  # the parser expects a body, so this connection ends here
            self.complete = True
        self._wake()

    def on_body(self, data: bytes) -> None:
        """A piece of the body."""
        if self.bodiless:
            return
        self.pieces.append(data)
        self.size += len(data)
        self._wake()

    def on_message_complete(self) -> None:
        """The last byte of the answer, or of a 1xx."""
        if self.head_done:
            self.complete = True
            self._wake()

    # What an exchange calls.

    async def write(self, request: Request, origin: Origin) -> None:
        """Send the request; stops early if the engine answers before it has heard it all."""
        head = request.head(origin)
        if isinstance(request.body, bytes):
            self.transport.write(head + request.body if request.body else head)
            return
        self.transport.write(head)
        chunked = request.length is None
        async for piece in request.body:
            if self.head_done or self.error is not None:
                self.reusable = False
                return
            self.last_heard = self.loop.time()
            if piece:
                self.transport.write(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
            if self._writable is not None:
                await self._writable
        if chunked:
            self.transport.write(b"0\r\n\r\n")

    async def head(self) -> None:
        """Return when status and headers are there."""
        while not self.head_done:
            await self._wait()

    async def read(self) -> bytes:
        """The bytes that have arrived, waiting for the first; empty at the end."""
        while not self.pieces:
            if self.complete:
                return b""
            await self._wait()
        pieces = self.pieces
        self.pieces = []
        if self.size > HIGH_WATER and not self.transport.is_closing():
            self.transport.resume_reading()
            self.last_heard = self.loop.time()
        self.size = 0
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def fail(self, error: EngineError) -> None:
        """End the exchange: whoever waits gets `error`."""
        if self.error is None:
            self.error = error
        self.reusable = False
        self.transport.abort()
        self._wake()

    def end(self) -> None:
        """Nobody reads on."""
        self.active = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def _wait(self) -> None:
        if self.error is not None:
            raise self.error
        self._waiter = self.loop.create_future()
        await self._waiter
        if self.error is not None and not self.pieces:
            raise self.error

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def _check_silence(self) -> None:
        """Fires once a silence; while we ourselves hold the engine back, it is not silent."""
        left = self.last_heard + self.silence_s - self.loop.time()
        if left > 0 or self.size > HIGH_WATER:
            self._timer = self.loop.call_later(max(left, 1.0), self._check_silence)
            return
        self.fail(EngineSilent(f"The engine sent nothing for {self.silence_s:g} s."))

    def _lost(self, error: Exception | None) -> EngineError:
        if self.pooled and not self.heard:
            return StaleConnection("The engine had closed the connection.")
        when = "in the middle of" if self.head_done else "before"
        why = f": {error}" if error else ""
        return EngineBroken(f"The engine closed the connection {when} its answer{why}.")
