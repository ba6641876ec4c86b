"""A streaming HTTP/1.1 client for one engine: keep-alive connections, back-pressure, cancellation.

It exists because this is the path of every token: a general client costs many times more CPU.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from dataclasses import dataclass

from learnback.inference.upstream_connection import (
    ClientGone,
    Connection,
    EngineBusy,
    EngineSilent,
    EngineUnreachable,
    Request,
    StaleConnection,
    parse_origin,
)


@dataclass(frozen=True)
class Limits:
    """How many connections an engine gets, and how long (seconds) we wait for what."""

    connections: int = 2048
    """Open requests of one engine; above vLLM's usual queue, below usual file limits."""
    connect_s: float = 5.0
    silence_s: float = 600.0
    """Longest wait for the next byte; a long prompt or answer without streaming is silent."""
    idle_s: float = 4.0
    """How long an unused connection is kept: less than uvicorn's 5, so that we close first."""


class Reply:
    """An answer whose head has arrived. Call `close` in the end, whatever happened."""

    __slots__ = ("_connection", "_engine", "_request", "headers", "status")

    def __init__(self, engine: Engine, request: Request, connection: Connection) -> None:
        self.status = connection.status
        self.headers = connection.headers
        """Names in lower case, in the engine's order, hop-by-hop ones included."""
        self._engine = engine
        self._request = request
        self._connection = connection

    @property
    def complete(self) -> bool:
        """Whether every byte has arrived and been read."""
        return self._connection.complete and not self._connection.pieces

    async def read(self) -> bytes:
        """All bytes that are there, at least one; empty at the end. EngineError if it is torn."""
        return await self._connection.read()

    def close(self) -> None:
        """Keep the connection if the answer was read to its end, else abort it. Idempotent."""
        if self._request.connection is self._connection:
            self._request.connection = None  # a late `cancel` must not hit who has it next
            self._engine._release(self._connection)


class Engine:
    """One engine and its connections. `outstanding` counts requests that are not finished."""

    def __init__(self, url: str, limits: Limits | None = None) -> None:
        self.url = url
        self.origin = parse_origin(url)
        self.limits = limits or Limits()
        self.outstanding = 0
        self.retried = 0
        """Requests that were sent again, since their pooled connection was dead."""
        self._idle: deque[Connection] = deque()
        self._tls: ssl.SSLContext | None = None
        if self.origin.tls:
            self._tls = ssl.create_default_context()
            self._tls.set_alpn_protocols(["http/1.1"])

    async def send(self, request: Request) -> Reply:
        """Send `request`; the reply as soon as its head is there. Raises EngineError.

        A pooled connection that is dead before any byte of the answer is replaced once.
        """
        if self.outstanding >= self.limits.connections:
            raise EngineBusy(f"All {self.limits.connections} connections are in use; try later.")
        self.outstanding += 1
        try:
            pooled = self._take() if isinstance(request.body, bytes) else None
            if pooled is not None:
                try:
                    return await self._exchange(pooled, request, pooled=True)
                except StaleConnection:
                    self.retried += 1
            return await self._exchange(await self._connect(), request, pooled=False)
        except BaseException:
            self.outstanding -= 1
            raise

    async def get(self, path: str, timeout_s: float) -> tuple[int, bytes]:
        """Status and body of a small GET; EngineError if there is none in time."""
        return await self.fetch(Request("GET", path.encode(), []), timeout_s)

    async def fetch(self, request: Request, timeout_s: float) -> tuple[int, bytes]:
        """Status and whole body of a small answer; EngineError if there is none in time."""
        try:
            async with asyncio.timeout(timeout_s):
                reply = await self.send(request)
                try:
                    pieces = []
                    while piece := await reply.read():
                        pieces.append(piece)
                    return reply.status, b"".join(pieces)
                finally:
                    reply.close()
        except TimeoutError:
            raise EngineSilent(f"{self.url} did not answer within {timeout_s:g} s.") from None

    def close(self) -> None:
        """Close the connections that nobody uses."""
        while self._idle:
            self._idle.pop().transport.abort()

    async def _exchange(self, connection: Connection, request: Request, *, pooled: bool) -> Reply:
        connection.begin(pooled=pooled, bodiless=request.method == "HEAD")
        request.connection = connection
        try:
            if request.cancelled:
                raise ClientGone("The client went away.")
            await connection.write(request, self.origin)
            await connection.head()
        except BaseException:
            request.connection = None
            connection.end()
            connection.transport.abort()
            raise
        return Reply(self, request, connection)

    def _take(self) -> Connection | None:
        """The connection used last, if it is still good; the newest are the likeliest alive."""
        oldest = asyncio.get_running_loop().time() - self.limits.idle_s
        while self._idle and self._idle[0].idle_since < oldest:
            self._idle.popleft().transport.abort()
        while self._idle:
            connection = self._idle.pop()
            if connection.reusable and not connection.transport.is_closing():
                return connection
        return None

    async def _connect(self) -> Connection:
        loop = asyncio.get_running_loop()
        origin = self.origin
        try:
            async with asyncio.timeout(self.limits.connect_s):
                _, connection = await loop.create_connection(
                    lambda: Connection(self.limits.silence_s),
                    origin.host,
                    origin.port,
                    ssl=self._tls,
                )
        except TimeoutError:
            why = f"no connection within {self.limits.connect_s:g} s"
        except OSError as error:
            why = str(error)
        else:
            return connection
        raise EngineUnreachable(f"The engine at {self.url} can't be reached: {why}.")

    def _release(self, connection: Connection) -> None:
        connection.end()
        self.outstanding -= 1
        read_whole = connection.complete and not connection.pieces
        if read_whole and connection.reusable and connection.error is None:
            connection.idle_since = connection.loop.time()
            self._idle.append(connection)
        else:
            connection.transport.abort()
