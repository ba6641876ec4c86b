"""An HTTP engine that does exactly as a test says, and the reverse proxy before it."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import httpx
import uvicorn
from tests.conftest import wait_until

from learnback.inference.proxy import Proxy, create_app
from learnback.inference.upstream import Limits

Script = Callable[["Call"], Awaitable[None]]


class Call:
    """One request as the engine saw it, and the means to answer."""

    def __init__(
        self,
        engine: ScriptedEngine,
        head: tuple[str, dict[str, str]],
        body: bytes,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self.engine = engine
        self.method, self.target, _ = head[0].split(" ")
        self.headers = head[1]
        self.body = body
        self.reader = reader
        self.writer = writer

    async def say(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self, body: bytes, status: int = 200, extra: bytes = b"") -> None:
        head = b"HTTP/1.1 %d X\r\n%bContent-Length: %d\r\n\r\n" % (status, extra, len(body))
        await self.say(head + body)

    async def start_chunked(self) -> None:
        await self.say(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )

    async def chunk(self, data: bytes) -> None:
        await self.say(b"%x\r\n%b\r\n" % (len(data), data))


class ScriptedEngine:
    """An HTTP server with keep-alive whose every answer is `script`."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.calls: list[Call] = []
        self.connections = 0
        self.closed = 0
        self.writers: set[asyncio.StreamWriter] = set()
        self.server: asyncio.Server | None = None
        self.port = 0
        self.scheme = "http"

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}"

    async def start(self, tls: ssl.SSLContext | None = None) -> None:
        self.scheme = "https" if tls else "http"
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", self.port, ssl=tls)
        self.port = self.server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        if self.server is not None:
            self.server.close()
        self.drop_connections()

    def drop_connections(self) -> None:
        for writer in list(self.writers):
            writer.transport.abort()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.writers.add(writer)
        try:
            while True:
                call = await self.read(reader, writer)
                self.calls.append(call)
                if call.target == "/health":
                    await call.answer(b"ok")
                else:
                    await self.script(call)
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            self.closed += 1
            self.writers.discard(writer)
            writer.close()

    async def read(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Call:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        line, *rest = head.strip().split("\r\n")
        headers = dict(item.lower().split(": ", 1) for item in rest)
        if "chunked" in headers.get("transfer-encoding", ""):
            body = b""
            while size := int(await reader.readuntil(b"\r\n"), 16):
                body += (await reader.readexactly(size + 2))[:-2]
            await reader.readexactly(2)
        else:
            body = await reader.readexactly(int(headers.get("content-length", "0")))
        return Call(self, (line, headers), body, reader, writer)


@asynccontextmanager
async def engine(
    script: Script, tls: ssl.SSLContext | None = None
) -> AsyncIterator[ScriptedEngine]:
    started = ScriptedEngine(script)
    await started.start(tls)
    yield started
    await started.stop()


@asynccontextmanager
async def proxy(
    *urls: str, limits: Limits | None = None, key: str = ""
) -> AsyncIterator[tuple[Proxy, httpx.AsyncClient]]:
    """The proxy on a real socket, and a client of it."""
    app = create_app(urls, limits=limits, engine_key=key)
    config = uvicorn.Config(app, port=0, log_level="critical", http="httptools", lifespan="on")
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    await wait_until(lambda: server.started, "the proxy listens")
    port = server.servers[0].sockets[0].getsockname()[1]
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=20) as client:
        yield app, client
    server.should_exit = True
    server.force_exit = True
    await serving
