"""Clients that keep their connections, and what becomes of their streams while servers go.

A new connection goes to a server that says it is ready, as a Kubernetes Service does it, and a
connection stays with its server until that one closes it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import httpx

LOOK_S = 0.2
"""Between two looks at who is ready: as long a server that goes gets new connections."""


@dataclass(frozen=True)
class Stream:
    """One answer as a client saw it: its id, who gave it, and whether that one then hung up."""

    url: str
    completion_id: str
    closed: bool


@dataclass
class Crowd:
    """`whole` streams, and in words those that broke or were refused."""

    urls: list[str]
    ready: list[str] = field(default_factory=list)
    whole: list[Stream] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    busy: dict[str, int] = field(default_factory=dict)
    """Streams under way, by server."""
    over: bool = False

    async def look(self) -> None:
        """Learn who is ready, late."""
        async with httpx.AsyncClient(trust_env=False) as http:
            while not self.over:
                self.ready = [url for url in self.urls if await _is_ready(http, url)]
                await asyncio.sleep(LOOK_S)

    async def talk(self, number: int) -> None:
        """One client: asks again as soon as it has its answer."""
        url = self.ready[number % len(self.ready)]
        async with httpx.AsyncClient(timeout=60, trust_env=False) as http:
            while not self.over:
                try:
                    stream = await self._stream(http, url)
                except (httpx.HTTPError, AssertionError) as error:
                    self.failed.append(f"{url}: {type(error).__name__} {error}")
                    stream = None
                else:
                    self.whole.append(stream)
                if stream is None or stream.closed:
                    url = self.ready[(number + len(self.whole)) % len(self.ready)]

    async def _stream(self, http: httpx.AsyncClient, url: str) -> Stream:
        body = {
            "model": "learnback",
            "messages": [{"role": "user", "content": "one two three four five six seven eight"}],
            "max_tokens": 24,
            "stream": True,
        }
        async with http.stream("POST", f"{url}/v1/chat/completions", json=body) as answer:
            assert answer.status_code == 200, (answer.status_code, await answer.aread())
            self.busy[url] = self.busy.get(url, 0) + 1
            try:
                text = "".join([piece async for piece in answer.aiter_text()])
            finally:
                self.busy[url] -= 1
        assert text.endswith("data: [DONE]\n\n"), "broken off"
        closed = answer.headers.get("connection") == "close"
        return Stream(url, answer.headers["x-learnback-completion-id"], closed)


@asynccontextmanager
async def crowd(urls: list[str], clients: int) -> AsyncIterator[Crowd]:
    """`clients` who talk for the length of the block, and then finish their last stream."""
    one = Crowd(urls, ready=list(urls))
    async with asyncio.TaskGroup() as group:
        group.create_task(one.look())
        for number in range(clients):
            group.create_task(one.talk(number))
        yield one
        one.over = True


async def _is_ready(http: httpx.AsyncClient, url: str) -> bool:
    try:
        return (await http.get(f"{url}/readyz")).status_code == 200
    except httpx.TransportError:
        return False
