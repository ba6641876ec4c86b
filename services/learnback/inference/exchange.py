"""One request on its way through the engine: passed on untouched, timed, and remembered."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from time import perf_counter, time

from starlette.types import Message, Receive, Scope, Send

from learnback.contracts.models import CompletionEnd
from learnback.inference.body import Headers

LAST_EVENTS = (b"data: [DONE]\n\n", b"[DONE]\r\n\r\n")
"""How a stream of chat completions or completions ends; all that follows is the end of HTTP."""
LAST_RESPONSE_EVENT = b"event: response.completed\n"
COMPLETION_ID = b"x-learnback-completion-id"
CLIENT_LEFT = 499
"""Stands for the status of a request whose client left before there was one, as in nginx."""
SILENT = frozenset(("2.0", "2.1", "2.2", "2.3"))
"""Versions of ASGI's HTTP whose servers, such as uvicorn, do not raise from `send` when the client
has left."""


class Exchange:
    """Stands between the server and the engine for one request.

    It keeps references to the body's pieces; none is copied, held back or parsed. `on_last` is
    called once, before the piece is sent that the client takes for the answer's last. The answer's
    start waits for its first piece, which shows whether the engine took the id that it was given.
    """

    __slots__ = (
        "_body",
        "_flows",
        "_headers",
        "_id",
        "_on_last",
        "_receive",
        "_send",
        "_silent",
        "_start",
        "answer",
        "complete",
        "created_at",
        "disconnected",
        "ended",
        "event_stream",
        "first_byte",
        "started",
        "status",
    )

    def __init__(
        self,
        scope: Scope,
        body: bytes,
        headers: Headers,
        receive: Receive,
        send: Send,
        on_last: Callable[[Exchange], None],
        completion_id: str,
    ) -> None:
        self._silent = scope["asgi"].get("spec_version", "2.0") in SILENT
        self._flows = False
        """A stream that has begun and goes on, to a client that is there as far as is known."""
        self._body: bytes | None = body
        self._headers = headers
        self._receive = receive
        self._send = send
        self._on_last = on_last
        self._id = completion_id.encode()
        self._start: Message | None = None
        self.created_at = time()
        self.started = perf_counter()
        self.first_byte: float | None = None
        self.ended: float | None = None
        self.status = 0
        self.event_stream = False
        self.answer: list[bytes] = []
        self.complete = False
        self.disconnected = False

    async def receive(self) -> Message:
        """The request as rewritten, then what the server says of the client."""
        body, self._body = self._body, None
        if body is not None:
            return {"type": "http.request", "body": body, "more_body": False}
        message = await self._receive()
        # After the last byte the server says the same of a client that is still there.
        if message["type"] == "http.disconnect" and not self.complete:
            self.disconnected, self._flows = True, False
        return message

    def send(self, message: Message) -> Awaitable[None]:
        """Pass a piece of the answer on.

        Nearly all are pieces within a stream, which cost one look and no coroutine of ours.
        """
        if self._flows and message.get("more_body"):
            body = message.get("body", b"")
            if body and not _is_last_event(body):
                self.answer.append(body)
                return self._send(message)
        return self._send_slowly(message)

    async def _send_slowly(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._begin(message)
            return
        if message["type"] != "http.response.body":
            await self._send(message)
            return
        body = message.get("body", b"")
        if self._start is not None:
            await self.begin(body)
        if self.first_byte is None:
            self.first_byte = perf_counter()
        kept = bool(body) and not self.disconnected and not self.complete
        if kept:
            self.answer.append(body)
        if not message.get("more_body", False) or (self.event_stream and _is_last_event(body)):
            self._complete()
        try:
            await self._send(message)
        except OSError:
            if not self.complete:
                self.disconnected = True
                del self.answer[len(self.answer) - kept :]
            raise
        self._flows = (
            self._silent and self.event_stream and not (self.complete or self.disconnected)
        )

    async def begin(self, piece: bytes = b"") -> None:
        """Send the start, if it is held; its headers give the answer's id where that is certain."""
        start, self._start = self._start, None
        if start is None:
            return
        if self.status >= 400 or _bears(piece, self._id):
            start["headers"].append((COMPLETION_ID, self._id))
        await self._send(start)

    def _begin(self, message: Message) -> None:
        """Hold the answer's start, with our headers."""
        self.status = message["status"]
        headers = self._response_headers(message.get("headers", ()))
        self._start = {**message, "headers": headers}

    def _complete(self) -> None:
        if self.complete or self.disconnected:
            return
        self.complete = True
        self.ended = perf_counter()
        self._on_last(self)

    def _response_headers(self, headers: Headers) -> Headers:
        kept = [header for header in headers if header[0].lower() != b"x-request-id"]
        for name, value in kept:
            if name.lower() == b"content-type":
                self.event_stream = value.lower().startswith(b"text/event-stream")
        return kept + self._headers

    @property
    def outcome(self) -> int:
        """The status, or what stands for one that was never sent."""
        return self.status or (CLIENT_LEFT if self.disconnected else 500)

    def leave(self) -> None:
        """The client left before it was given the answer."""
        self.complete, self.disconnected = False, True

    @property
    def end(self) -> CompletionEnd:
        """How it ended; an error within a stream shows only when it is parsed."""
        if self.status >= 500:
            return CompletionEnd.ENGINE_ERROR
        if self.status >= 400:
            return CompletionEnd.REFUSED
        if self.complete:
            return CompletionEnd.COMPLETE
        return (
            CompletionEnd.CLIENT_DISCONNECTED if self.disconnected else CompletionEnd.ENGINE_ERROR
        )

    @property
    def first_byte_s(self) -> float | None:
        """Seconds to the first byte of the body; None if none was sent."""
        return None if self.first_byte is None else self.first_byte - self.started

    @property
    def duration_s(self) -> float:
        """Seconds to the last byte, or to the end of whatever happened instead."""
        return (self.ended or perf_counter()) - self.started


def _bears(piece: bytes, completion_id: bytes) -> bool:
    """Whether an answer that begins so has this id."""
    return b'"id":"%b"' % completion_id in piece or b'"id": "%b"' % completion_id in piece


def _is_last_event(piece: bytes) -> bool:
    return piece.endswith(LAST_EVENTS) or piece.startswith(LAST_RESPONSE_EVENT)
