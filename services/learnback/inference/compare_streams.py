"""Two answers side by side as one stream.

Its chunks say by `choices[].index` which answer they belong to. It begins when both have something
to say, so that who is slower to begin shows nothing of itself. A version that fails before that
leaves the other's stream alone; one that breaks off later ends its choice with the `finish_reason`
"error", and the other goes on. A client that reads slowly makes both engines wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from functools import partial

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from learnback.inference.aside import Leaving, aside, watched
from learnback.inference.compare import EVENT_STREAM, Pair, show_one
from learnback.inference.exchange import Exchange
from learnback.inference.merging import Merging, failure, read_chunk
from learnback.inference.recording import measure, record
from learnback.inference.services import Services
from learnback.inference.sse import Events


async def stream_both(
    app: ASGIApp, services: Services, pair: Pair, scope: Scope, receive: Receive, send: Send
) -> None:
    """Have both versions answer at once, and stream both answers; the good one if one fails."""
    stage = Stage(pair, send)

    async def one(place: int, client: Leaving) -> Exchange:
        prepared = pair.both[place]
        exchange = await aside(
            app,
            scope,
            services,
            prepared,
            receive=client.receive,
            send=partial(stage.take, place),
            on_last=partial(record, services, prepared),
        )
        if not exchange.complete:
            if client.gone:
                exchange.leave()
            record(services, prepared, exchange)
        measure(prepared, exchange)
        with suppress(OSError):  # the client left
            await stage.end(place)
        return exchange

    async with watched(receive) as client:
        both = await asyncio.gather(one(0, client), one(1, client))
    if not client.gone:
        await stage.close(both)


class Stage:
    """What the client sees of two streams. Each piece waits until it is known how to show it."""

    def __init__(self, pair: Pair, send: Send) -> None:
        self._pair = pair
        self._send = send
        self._merging = Merging(pair.id, pair.first.asked.peeked.model)
        self._sides = (_Side(), _Side())
        self._decided = asyncio.Event()
        self._alone: int | None = None
        """The place of the only one that is shown."""
        self._opened = False
        self._turn = asyncio.Lock()

    async def take(self, place: int, message: Message) -> None:
        """What an engine says."""
        side = self._sides[place]
        if message["type"] == "http.response.start":
            side.start = message
        if message["type"] != "http.response.body" or not side.hear(message.get("body", b"")):
            return
        self._decide()
        await self._decided.wait()
        if self._alone is None:
            await self._say(*(self._merging.chunk(place, data) for data in side.events))
        elif self._alone == place:
            await self._say(*side.pieces)
        side.events, side.pieces = [], []

    async def end(self, place: int) -> None:
        """Nothing more comes from it."""
        self._sides[place].over = True
        self._decide()
        if self._alone is None and self._begun and not all(s.over for s in self._sides):
            await self._say(self._merging.break_off(place))

    def _decide(self) -> None:
        """Both, once both have begun; one alone, once the other can't begin any more."""
        failed = [side.over and not side.begun for side in self._sides]
        if self._decided.is_set() or not (self._begun or any(failed)):
            return
        if not self._begun:
            self._alone = 1 - failed.index(True)
        self._decided.set()

    @property
    def _begun(self) -> bool:
        return all(side.begun for side in self._sides)

    async def _say(self, *pieces: bytes) -> None:
        """The next piece of the stream, after the head if it is the first."""
        body = b"".join(pieces)
        async with self._turn:
            if not self._opened:
                self._opened = True
                await self._send(self._head())
            if body:
                await self._send({"type": "http.response.body", "body": body, "more_body": True})

    def _head(self) -> Message:
        if self._alone is not None:
            return self._sides[self._alone].start
        ids = [side.id for side in self._sides if side.id is not None]
        headers = [(b"content-type", EVENT_STREAM), *self._pair.headers(ids if ids[1:] else ())]
        return {"type": "http.response.start", "status": 200, "headers": headers}

    async def close(self, both: Sequence[Exchange]) -> None:
        """The last piece."""
        if not self._opened:
            await show_one(self._send, both[self._pair.place_of_stable])
            return
        if self._alone is None:
            broken = [self._merging.break_off(place) for place in (0, 1)]
            last = b"".join(broken) + self._merging.close()
        else:
            last = b"" if both[self._alone].complete else failure()
        await self._send({"type": "http.response.body", "body": last, "more_body": False})


class _Side:
    """One engine's stream."""

    def __init__(self) -> None:
        self.start: Message = {}
        self.begun = False
        """It said something that is no error."""
        self.id: str | None = None
        """Its completion's, once it has begun."""
        self.over = False
        self.events: list[bytes] = []
        """Their data, as far as it was not shown."""
        self.pieces: list[bytes] = []
        """The same as bytes."""
        self._all = Events()

    def hear(self, piece: bytes) -> bool:
        """Take a piece; whether there is something to show."""
        if self.start.get("status") != 200:
            return False
        self.events += self._all.feed(piece)
        self.pieces.append(piece)
        if not self.begun:
            chunk = read_chunk(self.events[0]) if self.events else None
            self.begun = chunk is not None and chunk.get("error") is None
            self.id = chunk.get("id") if chunk is not None else None
        return self.begun
