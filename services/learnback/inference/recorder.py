"""The way of a completion from the request that is over to the stream, past every outage.

A request only appends to a bounded buffer. A task beside parses and publishes; while Redis is
away it writes to the spool, and another task publishes from there, oldest first, until nothing is
left. What could not be kept is counted.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from pydantic import ValidationError
from redis.asyncio import Redis
from redis.exceptions import RedisError

from learnback.contracts.messages import CompletionServed
from learnback.contracts.streams import COMPLETIONS
from learnback.core.bus import publish
from learnback.inference import metrics
from learnback.inference.completion import completion_of
from learnback.inference.exchange import Served
from learnback.inference.spool import Spool, SpoolFull

log = logging.getLogger(__name__)

BATCH = 128
"""Measured for the bus: one round trip costs as much as fifty messages."""
BUFFER_BYTES = 256 << 20
"""Memory that waiting completions may take, whatever their number."""
LINGER_S = 0.02
"""Wait for company before a round trip; nobody sees 20 ms here, and CPU halves."""
PUBLISH_S = 5.0
"""A Redis that takes longer is away."""
RETRY_S = 1.0
"""Between attempts to reach a Redis that is away."""


class Recorder:
    """Records completions while its block is open, and at its end those that still wait.

    `ids_differ`: an engine gave a response another id than the one it was asked to give.
    """

    def __init__(
        self,
        redis: Redis,
        spool_root: Path,
        *,
        buffer_completions: int = 10_000,
        spool_bytes: int = 1 << 30,
        retry_s: float = RETRY_S,
    ) -> None:
        self.redis = redis
        self.ids_differ = False
        self.buffer_completions = buffer_completions
        self.retry_s = retry_s
        self._spool = Spool(spool_root, spool_bytes)
        self._buffer: deque[Served] = deque()
        self._buffered_bytes = 0
        self._handling = 0
        self._wake = asyncio.Event()
        self._away = asyncio.Event()
        self._disk = asyncio.Lock()
        self._closing = False
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def waiting(self) -> int:
        """Completions that are in memory only."""
        return len(self._buffer) + self._handling

    @property
    def spooled_bytes(self) -> int:
        """Bytes that wait on disk."""
        return self._spool.size

    def submit(self, served: Served) -> None:
        """Take a completion over; never waits. Beyond the buffer it is dropped and counted."""
        size = served.size
        full = len(self._buffer) >= self.buffer_completions
        if full or self._buffered_bytes + size > BUFFER_BYTES:
            metrics.DROPPED.labels("buffer_full").inc()
            return
        self._buffer.append(served)
        self._buffered_bytes += size
        self._wake.set()

    async def __aenter__(self) -> Recorder:
        """Start; what an earlier process left on disk goes first."""
        metrics.BUFFER.set_function(lambda: self.waiting)
        metrics.SPOOL.set_function(lambda: self.spooled_bytes)
        metrics.SPOOL_LIMIT.set(self._spool.limit_bytes)
        if not self._spool.empty:
            self._away.set()
        self._tasks = [
            asyncio.create_task(self._write(), name="recorder"),
            asyncio.create_task(self._replay(), name="spool"),
        ]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Publish what waits, or leave it on disk for the next start."""
        writing, replaying = self._tasks
        self._closing = True
        self._wake.set()
        await writing
        replaying.cancel()
        await asyncio.wait([replaying])
        await asyncio.to_thread(self._spool.close)

    async def _write(self) -> None:
        """From memory to Redis, or to the disk."""
        while not (self._closing and not self._buffer):
            await self._wake.wait()
            if not self._closing:
                await asyncio.sleep(LINGER_S)
            batch = self._take()
            try:
                await self._deliver(await self._describe(batch))
            except Exception:  # this task's edge: recording must go on
                log.exception("%d completions were not recorded", len(batch))
                metrics.DROPPED.labels("bug").inc(len(batch))
            self._handling = 0

    def _take(self) -> list[Served]:
        batch = [self._buffer.popleft() for _ in range(min(BATCH, len(self._buffer)))]
        self._buffered_bytes -= sum(served.size for served in batch)
        self._handling = len(batch)
        if not self._buffer and not self._closing:
            self._wake.clear()
        return batch

    async def _describe(self, batch: Sequence[Served]) -> list[CompletionServed]:
        messages = []
        for served in batch:
            try:
                message = await completion_of(served)
            except Exception:  # one that can't be described must not take the others along
                log.exception("%s can't be described", served.id)
                metrics.DROPPED.labels("bug").inc()
                continue
            self.ids_differ = self.ids_differ or message.id != served.id
            messages.append(message)
            metrics.ENDED.labels(message.track.value, message.end.value).inc()
            await asyncio.sleep(0)
        return messages

    async def _deliver(self, messages: Sequence[CompletionServed]) -> None:
        """Publish, or spool behind what is on disk already, so that the order stays."""
        if not self._away.is_set() and await self._publish(messages):
            return
        lines = [message.model_dump_json().encode() for message in messages]
        async with self._disk:
            try:
                await asyncio.to_thread(self._spool.append, lines)
            except SpoolFull:
                log.error("the spool is full: %d completions are lost", len(lines))
                metrics.DROPPED.labels("spool_full").inc(len(lines))
            except OSError as error:
                log.error("the disk failed, %d completions are lost: %s", len(lines), error)
                metrics.DROPPED.labels("disk").inc(len(lines))
            if not self._spool.empty:
                self._away.set()

    async def _publish(self, messages: Sequence[CompletionServed]) -> bool:
        """Whether all of `messages` are certainly on the stream."""
        try:
            async with asyncio.timeout(PUBLISH_S):
                await publish(self.redis, COMPLETIONS, messages)
        except (RedisError, OSError, TimeoutError) as error:
            log.warning("Redis is away, completions go to disk: %s", error)
            return False
        metrics.RECORDED.inc(len(messages))
        return True

    async def _replay(self) -> None:
        """From the disk to Redis, for as long as anything is there."""
        while True:
            await self._away.wait()
            try:
                done = await self._replay_segment()
            except OSError as error:
                log.error("the spool can't be read: %s", error)
                done = False
            if not done:
                await asyncio.sleep(self.retry_s)

    async def _replay_segment(self) -> bool:
        """Publish the oldest segment and remove it; False if Redis is still away."""
        async with self._disk:
            oldest = await asyncio.to_thread(self._spool.oldest)
        if oldest is not None:
            messages = _readable(oldest[1])
            for at in range(0, len(messages), BATCH):
                if not await self._publish(messages[at : at + BATCH]):
                    return False
        async with self._disk:  # nothing may be appended between the look and the switch
            if oldest is not None:
                await asyncio.to_thread(self._spool.remove, oldest[0])
            if self._spool.empty:
                self._away.clear()
        return True


def _readable(lines: Sequence[bytes]) -> list[CompletionServed]:
    """The lines as messages; one that a crash tore was never acknowledged, and is counted."""
    messages = []
    for line in lines:
        try:
            messages.append(CompletionServed.model_validate_json(line))
        except ValidationError:
            metrics.UNREADABLE.inc()
    return messages
