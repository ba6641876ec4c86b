"""One request on its way through the engine: passed on untouched, timed, and remembered."""

from __future__ import annotations

from dataclasses import dataclass
from time import perf_counter, time

from starlette.types import Message, Receive, Send

from learnback.contracts.models import CompletionEnd, Endpoint
from learnback.inference.body import Headers
from learnback.inference.routing import Assignment


@dataclass(frozen=True, slots=True)
class Served:
    """All that the recorder needs to know of a request that is over; bytes as they came."""

    id: str
    tenant: str
    created_at: float
    """Unix time in seconds."""
    endpoint: Endpoint
    assignment: Assignment
    prompt_strategy: str | None
    request: bytes
    """The body as the client sent it."""
    answer: list[bytes]
    event_stream: bool
    """Whether `answer` is a stream of events, as its content type says."""
    streamed: bool
    stored: bool
    status: int
    end: CompletionEnd
    subject: str | None
    session: str | None
    metadata: dict[str, str]
    first_byte_s: float | None
    duration_s: float

    @property
    def size(self) -> int:
        """Bytes that it holds in memory."""
        return len(self.request) + sum(map(len, self.answer))


class Exchange:
    """Stands between the server and the engine for one request.

    It keeps references to the body's pieces; nothing is copied, held back or parsed.
    """

    __slots__ = (
        "_body",
        "_headers",
        "_receive",
        "_send",
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

    def __init__(self, body: bytes, headers: Headers, receive: Receive, send: Send) -> None:
        self._body: bytes | None = body
        self._headers = headers
        self._receive = receive
        self._send = send
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
            self.disconnected = True
        return message

    async def send(self, message: Message) -> None:
        """Pass a piece of the answer on."""
        kind = message["type"]
        if kind == "http.response.body":
            if self.first_byte is None:
                self.first_byte = perf_counter()
            try:
                await self._send(message)
            except OSError:
                self.disconnected = True
                raise
            if not self.disconnected:
                if body := message.get("body"):
                    self.answer.append(body)
                if not message.get("more_body", False):
                    self.complete = True
                    self.ended = perf_counter()
            return
        if kind == "http.response.start":
            self.status = message["status"]
            message = {**message, "headers": self._response_headers(message.get("headers", ()))}
        await self._send(message)

    def _response_headers(self, headers: Headers) -> Headers:
        kept = [header for header in headers if header[0].lower() != b"x-request-id"]
        for name, value in kept:
            if name.lower() == b"content-type":
                self.event_stream = value.lower().startswith(b"text/event-stream")
        return kept + self._headers

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
