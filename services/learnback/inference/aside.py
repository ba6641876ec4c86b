"""Have the engine answer a request of ours, besides the one that a client waits for."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from learnback.inference.exchange import Exchange
from learnback.inference.prepare import Prepared
from learnback.inference.services import Services

log = logging.getLogger(__name__)


async def stays() -> Message:
    """What the server says of a client that never leaves: ourselves."""
    await asyncio.get_running_loop().create_future()
    raise AssertionError


class Leaving:
    """Whether a client has left that several requests of ours are made for."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    @property
    def gone(self) -> bool:
        """It will see nothing of what comes now."""
        return self._event.is_set()

    async def receive(self) -> Message:
        """What the server says to each of the requests."""
        await self._event.wait()
        return {"type": "http.disconnect"}

    async def watch(self, receive: Receive) -> None:
        """Wait until it leaves; its request was read."""
        await receive()
        self._event.set()


@asynccontextmanager
async def watched(receive: Receive) -> AsyncIterator[Leaving]:
    """Look after the client as long as the block is open."""
    leaving = Leaving()
    watching = asyncio.create_task(leaving.watch(receive))
    try:
        yield leaving
    finally:
        watching.cancel()


async def unheard(message: Message) -> None:
    """Nobody listens; the exchange holds what was said."""


async def aside(
    app: ASGIApp,
    scope: Scope,
    services: Services,
    prepared: Prepared,
    *,
    receive: Receive = stays,
    send: Send = unheard,
    on_last: Callable[[Exchange], None] = lambda exchange: None,
    longest_s: float | None = None,
) -> Exchange:
    """The exchange, when it is over; it holds what the engine said, if anything."""
    exchange = Exchange(
        scope, prepared.rewritten, [], receive, send, on_last, prepared.completion_id
    )
    needs, uses = prepared.assignment.version.needs, services.follower.uses
    for name in needs:
        uses.begin(name)
    try:
        async with asyncio.timeout(longest_s):
            await app({**scope, "headers": prepared.headers}, exchange.receive, exchange.send)
    except TimeoutError:
        log.warning("%s took over %g s", prepared.completion_id, longest_s)
    except Exception:  # the engine's own app may raise anything; the exchange says that it failed
        if not exchange.disconnected:
            log.exception("the engine did not answer %s", prepared.completion_id)
    finally:
        for name in needs:
            uses.end(name)
    return exchange
