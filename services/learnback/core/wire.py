"""HTTP itself, where requests are not readable or do not come: uvicorn's protocol in our words."""

from __future__ import annotations

import asyncio
import http
from collections.abc import Callable
from datetime import timedelta

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from learnback.core.draining import Draining
from learnback.core.errors import BadRequest, LearnbackError, Timeout

Shape = Callable[[LearnbackError], tuple[str, bytes]]
"""An error as this API shows it: content type and body."""


PARTING_S = 0.2
"""How long a connection without a request is kept at the end: who sends just then gets an answer
instead of a reset."""


def protocol(head_timeout: timedelta, shape: Shape, draining: Draining) -> type[HttpToolsProtocol]:
    """The protocol for one server: unreadable requests get a 400 in the API's own shape, and a
    request's line and headers that take longer than `head_timeout` a 408. No connection is kept
    once `draining` has begun."""

    class Protocol(_Protocol):
        head_s = head_timeout.total_seconds()
        shown = staticmethod(shape)
        server_drains = draining

    return Protocol


class _Protocol(HttpToolsProtocol):
    """Between two requests uvicorn's keep-alive timeout holds; ours begins with the first byte."""

    head_s: float
    shown: Shape
    server_drains: Draining
    _head_timer: asyncio.TimerHandle | None = None
    _begun = False
    _parting = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client that connects has to say something."""
        super().connection_made(transport)
        self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is waited for any more."""
        self._head_is_there()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        super().on_message_begin()
        self._head_is_there()  # and the time from connecting to here is over
        self._begun = True
        self._wait_for_head()

    def on_headers_complete(self) -> None:
        """The head is there; what follows is the body, whose time the app limits."""
        self._head_is_there()
        super().on_headers_complete()
        if self.cycle is not None and (self._parting or self.server_drains.begun):
            self.cycle.keep_alive = False

    def shutdown(self) -> None:
        """Called by uvicorn when it listens no longer: the next answer is the last."""
        self._parting = True
        if self._answering():
            self.cycle.keep_alive = False
        else:
            self.loop.call_later(PARTING_S, self._part)

    def _part(self) -> None:
        """Hang up, unless somebody has begun to speak; that one's answer closes."""
        if not self._answering() and not self._begun:
            self.transport.close()

    def send_400_response(self, msg: str) -> None:
        """Called by uvicorn for what is no HTTP; an answer that is under way is cut off."""
        if self._answering() and self.cycle.response_started:
            self.transport.close()
        else:
            self._refuse(BadRequest("This is not HTTP/1.1, or a header of it is malformed."))

    def _wait_for_head(self) -> None:
        self._head_timer = self.loop.call_later(self.head_s, self._too_slow)

    def _head_is_there(self) -> None:
        self._begun = False
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _too_slow(self) -> None:
        """The time is over: who has said nothing gets no answer."""
        self._head_timer = None
        if self._answering():  # to the request before, which the client sent in one go with this
            self._wait_for_head()
        elif self._begun:
            self._refuse(Timeout(f"The headers did not arrive within {self.head_s:g} s."))
        else:
            self.transport.close()

    def _answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _refuse(self, error: LearnbackError) -> None:
        """Answer what never became a request, and close."""
        if self.transport.is_closing():
            return
        content_type, body = self.shown(error)
        status = http.HTTPStatus(error.status)
        head = (
            f"HTTP/1.1 {status.value} {status.phrase}\r\ncontent-type: {content_type}\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()
