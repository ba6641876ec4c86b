"""The relay: takes what the outbox promised to its stream, in order, at least once."""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta

from redis.asyncio import Redis
from redis.exceptions import RedisError
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from learnback.contracts.streams import by_name
from learnback.core import bus
from learnback.core.errors import Unavailable
from learnback.feedback import metrics
from learnback.ledger import outbox
from learnback.ledger.database import Database

log = logging.getLogger(__name__)

RELAY_LOCK = 7_236_118_403
"""PostgreSQL advisory lock: one relay at a time across replicas keeps the order of messages."""
GATHER_S = 0.02
"""Pause after being woken, so that a burst of commits costs one round and not one each."""
BATCH_SIZE = 512
"""One round trip to Redis; what a crash between publishing and deleting repeats at most."""


class Relay:
    """Publishes outbox messages, woken after each commit and otherwise every `interval`.

    A message is deleted after Redis has it, so a crash between the two sends it twice: its key
    tells consumers that it is a repeat.
    """

    def __init__(
        self, database: Database, redis: Redis, interval: timedelta = timedelta(seconds=1)
    ) -> None:
        self.database = database
        self.redis = redis
        self.interval = interval
        self.healthy = True
        self._woken = asyncio.Event()
        self._alone = asyncio.Lock()

    def wake(self) -> None:
        """Say that there is something to relay."""
        self._woken.set()

    async def run_forever(self) -> None:
        """Relay until cancelled, whatever Redis and the ledger do meanwhile."""
        while True:
            try:
                await self.run_until_empty()
                self.healthy = True
            except (RedisError, OSError, TimeoutError, Unavailable) as error:
                self.healthy = False
                log.warning("relay: waiting: %s", error)
                await asyncio.sleep(self.interval.total_seconds())
            await self._rest()

    async def run_until_empty(self) -> int:
        """Relay all that waits; the number of messages."""
        total = 0
        while True:
            self._woken.clear()
            sent = await self._round()
            total += sent
            if sent < BATCH_SIZE:
                return total

    async def _rest(self) -> None:
        try:
            await asyncio.wait_for(self._woken.wait(), self.interval.total_seconds())
        except TimeoutError:
            return
        await asyncio.sleep(GATHER_S)

    async def _round(self) -> int:
        async with self._alone:
            if self.database.sqlite:
                return await self._round_of_the_only_process()
            return await self._round_among_replicas()

    async def _round_of_the_only_process(self) -> int:
        """On SQLite: without a transaction while Redis works, which would hold up all writers."""
        async with self.database.read() as connection:
            waiting = await outbox.oldest(connection, BATCH_SIZE)
        if waiting:
            await self._publish(waiting)
            async with self.database.write() as connection:
                await outbox.remove(connection, [row.id for row in waiting])
        return len(waiting)

    async def _round_among_replicas(self) -> int:
        async with self.database.write() as connection:
            if not await _locked(connection):
                return 0
            waiting = await outbox.oldest(connection, BATCH_SIZE)
            if waiting:
                await self._publish(waiting)
                await outbox.remove(connection, [row.id for row in waiting])
        return len(waiting)

    async def _publish(self, waiting: list[outbox.Waiting]) -> None:
        """In order; messages of one stream that follow one another share a round trip."""
        start = 0
        for end in range(1, len(waiting) + 1):
            if end == len(waiting) or waiting[end].stream != waiting[start].stream:
                stream = by_name(waiting[start].stream)
                bodies = [row.body for row in waiting[start:end]]
                messages = [stream.message.model_validate_json(body) for body in bodies]
                await bus.publish(self.redis, stream, messages)
                start = end
        metrics.RELAYED.inc(len(waiting))


async def _locked(connection: AsyncConnection) -> bool:
    query = text("SELECT pg_try_advisory_xact_lock(:id)")
    return bool((await connection.execute(query, {"id": RELAY_LOCK})).scalar_one())
