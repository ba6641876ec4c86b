"""Have the engine answer a request of ours, besides the one that a client waits for."""

from __future__ import annotations

import asyncio
import logging

from starlette.types import ASGIApp, Message, Receive, Scope

from learnback.inference.exchange import Exchange
from learnback.inference.prepare import Prepared
from learnback.inference.services import Services

log = logging.getLogger(__name__)


async def stays() -> Message:
    """What the server says of a client that never leaves: ourselves."""
    await asyncio.get_running_loop().create_future()
    raise AssertionError


async def aside(
    app: ASGIApp,
    scope: Scope,
    services: Services,
    prepared: Prepared,
    *,
    receive: Receive = stays,
    longest_s: float | None = None,
) -> Exchange:
    """The exchange, when it is over; it holds what the engine said, if anything."""
    exchange = Exchange(prepared.rewritten, [], receive, _unheard, lambda exchange: None)
    needs, uses = prepared.assignment.version.needs, services.follower.uses
    for name in needs:
        uses.begin(name)
    try:
        async with asyncio.timeout(longest_s):
            await app({**scope, "headers": prepared.headers}, exchange.receive, exchange.send)
    except TimeoutError:
        log.warning("%s took over %g s", prepared.completion_id, longest_s)
    except Exception:  # the engine's own app may raise anything; the exchange says that it failed
        log.exception("the engine did not answer %s", prepared.completion_id)
    finally:
        for name in needs:
            uses.end(name)
    return exchange


async def _unheard(message: Message) -> None:
    return
