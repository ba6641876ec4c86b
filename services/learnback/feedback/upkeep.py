"""What runs beside the API on a clock: the grace time, trimming of streams, measuring lags."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

from learnback.contracts.streams import STREAMS
from learnback.core import streams
from learnback.core.clock import now
from learnback.core.errors import Unavailable
from learnback.feedback import metrics
from learnback.ledger import feedback as signals
from learnback.ledger import outbox
from learnback.ledger.database import Database

log = logging.getLogger(__name__)


async def every(interval: timedelta, what: Callable[[], Awaitable[Any]]) -> None:
    """Do something again and again; Redis or the ledger being away is only a warning."""
    while True:
        try:
            await what()
        except (RedisError, OSError, TimeoutError, Unavailable) as error:
            log.warning("%s: next time: %s", getattr(what, "__name__", "upkeep"), error)
        await asyncio.sleep(interval.total_seconds())


async def trim(redis: Redis, keep: int) -> int:
    """Drop entries that every group has handled, but about the newest `keep`; how many."""
    return sum([await streams.trim(redis, stream, keep) for stream in STREAMS])


async def measure(database: Database, redis: Redis) -> None:
    """Set the gauges of the ledger and of the streams."""
    async with database.read() as connection:
        waiting, since = await outbox.backlog(connection)
        counts = await signals.reconcile(connection)
    metrics.OUTBOX.set(waiting)
    metrics.OUTBOX_AGE.set((now() - since).total_seconds() if since else 0)
    for status, count in counts.items():
        metrics.SIGNALS.labels(status.value).set(count)
    for group in await streams.lags(redis):
        labels = (group.stream, group.group)
        metrics.LAG.labels(*labels).set(float("nan") if group.lag is None else group.lag)
        metrics.PENDING.labels(*labels).set(group.pending)
        metrics.DEAD.labels(*labels).set(group.dead)
    used, limit = await streams.memory(redis)
    metrics.REDIS_USED.set(used)
    metrics.REDIS_LIMIT.set(limit)
