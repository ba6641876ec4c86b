"""The bus: publish to streams, and consume them with redelivery and dead letters.

Delivery is at least once. A handler is idempotent by `message.key`; an entry is acknowledged
after its effect; one that fails `MAX_DELIVERIES` times goes to the stream's dead letters in the
same transaction as its acknowledgement.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pydantic import ValidationError
from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from learnback.contracts.messages import Message
from learnback.contracts.streams import STREAMS, Stream
from learnback.core import bus_metrics as metrics
from learnback.core.errors import Unavailable
from learnback.core.redis import check_server

log = logging.getLogger(__name__)

M = TypeVar("M", bound=Message)

BATCH_SIZE = 128
"""Measured: 38k entries/s at 128 against 53k at 512; a smaller one repeats less after a crash."""
BLOCK_MS = 1000
"""How long a read waits for news; also the longest wait of a stop."""
REDELIVERY_S = 30.0
"""Over the slowest handler times the batch, so that a slow worker is not taken for a dead one."""
MAX_DELIVERIES = 5
"""Enough to outlast a restart of the database, few enough to see a poison message today."""
RETRY_S = 1.0
"""Pause after Redis was away, so that its return is not met by a stampede."""


Entries = Sequence[tuple[bytes, dict[bytes, bytes]]]
"""Stream entries as redis-py gives them: Redis id and fields."""


@dataclass(frozen=True)
class Delivery(Generic[M]):
    """An entry as read. Without message and error it is a replay for another group."""

    entry_id: bytes
    message: M | None
    fields: dict[bytes, bytes]
    error: str | None = None
    deliveries: int = 1
    """How often it was delivered, this time included."""


def encode(message: Message) -> dict[str, str]:
    """A message as the fields of a stream entry."""
    return {"type": message.type, "body": message.model_dump_json()}


def decode(
    stream: Stream[M],
    entry_id: bytes,
    fields: dict[bytes, bytes],
    group: str | None = None,
    deliveries: int = 1,
) -> Delivery[M]:
    """A stream entry as a delivery; never raises, since anybody may have written it."""
    replayed_for = fields.get(b"group")
    if replayed_for is not None and group is not None and replayed_for != group.encode():
        return Delivery(entry_id, None, fields)
    found = fields.get(b"type", b"").decode(errors="replace")
    if found != stream.message.type:
        error = f"expected a {stream.message.type}, found {found!r}"
        return Delivery(entry_id, None, fields, error, deliveries)
    try:
        message = stream.message.model_validate_json(fields.get(b"body", b""))
    except ValidationError as invalid:
        return Delivery(entry_id, None, fields, f"unreadable body: {invalid}", deliveries)
    return Delivery(entry_id, message, fields, None, deliveries)


async def publish(redis: Redis, stream: Stream[M], messages: Iterable[M]) -> None:
    """Append messages in order, in one round trip. Raises RedisError if that is not certain."""
    pipeline = redis.pipeline(transaction=False)
    count = 0
    for message in messages:
        pipeline.xadd(stream.key, encode(message))  # type: ignore[arg-type]
        count += 1
    if count:
        await pipeline.execute()
        metrics.published(stream.name, count)


async def create_groups(redis: Redis, streams: Iterable[Stream[Any]] = STREAMS) -> None:
    """Create every consumer group from the beginning of its stream. Idempotent.

    Raises Conflict if the server is too old.
    """
    await check_server(redis)
    for stream in streams:
        for group in stream.groups:
            try:
                await redis.xgroup_create(stream.key, group, id="0", mkstream=True)
            except ResponseError as error:
                if "BUSYGROUP" not in str(error):
                    raise


Handler = Callable[[Sequence[M]], Awaitable[None]]


class Consumer(Generic[M]):
    """One worker of a consumer group: reads, handles in batches, acknowledges.

    `handler` gets the messages of a batch in stream order. If it raises, the batch is handled
    one by one, so that one poison message does not hold up the others. `Unavailable` means that
    something the handler needs is away: the batch is held and tried again, nothing new is read,
    and nothing is counted against the messages.
    """

    def __init__(
        self,
        redis: Redis,
        stream: Stream[M],
        group: str,
        handler: Handler[M],
        *,
        name: str,
        batch_size: int = BATCH_SIZE,
        redelivery_s: float = REDELIVERY_S,
        max_deliveries: int = MAX_DELIVERIES,
        block_ms: int = BLOCK_MS,
    ) -> None:
        if group not in stream.groups:
            raise ValueError(f"stream {stream.name!r} has no group {group!r}: {stream.groups}")
        self.redis = redis
        self.stream = stream
        self.group = group
        self.handler = handler
        self.name = name
        self.batch_size = batch_size
        self.redelivery_s = redelivery_s
        self.max_deliveries = max_deliveries
        self.block_ms = block_ms
        self.healthy = False
        self._stop = asyncio.Event()
        self._next_reclaim = 0.0
        self._held: dict[bytes, Delivery[M]] = {}

    def stop(self) -> None:
        """Finish the batch at hand, then return from `run_forever`."""
        self._stop.set()

    async def run_forever(self) -> None:
        """Consume until `stop`, whatever Redis does meanwhile."""
        while not self._stop.is_set():
            try:
                await self._round(self.block_ms)
                self.healthy = True
            except (RedisError, OSError, TimeoutError) as error:
                self.healthy = False
                log.warning("%s/%s: Redis is away: %s", self.stream.name, self.group, error)
                await self._pause(RETRY_S)
            except Unavailable as error:
                self.healthy = False
                log.warning("%s/%s: waiting: %s", self.stream.name, self.group, error)
                await self._pause(RETRY_S)
        await self._leave()

    async def run_until_empty(self) -> int:
        """Consume all that is there, pending entries of dead workers included; the number read."""
        total = 0
        while True:
            self._next_reclaim = 0.0
            read = await self._round(block_ms=0)
            if read == 0:
                return total
            total += read

    async def _round(self, block_ms: int) -> int:
        """One batch: what is in hand, else what others left, else news. The number taken."""
        await self._keep_held()
        if not self._held:
            await self._reclaim()
        if not self._held:
            await self._read(block_ms)
        taken = len(self._held)
        await self._process()
        return taken

    async def _read(self, block_ms: int) -> None:
        reading = self.redis.xreadgroup(
            self.group,
            self.name,
            {self.stream.key: ">"},
            count=self.batch_size,
            block=block_ms or None,
        )
        self._hold(entries_of(await self._in_group(reading)))

    async def _reclaim(self) -> None:
        """Take over what another worker (or this one, before) left unacknowledged too long."""
        loop = asyncio.get_running_loop()
        if loop.time() < self._next_reclaim:
            return
        looking = self.redis.xpending_range(
            self.stream.key,
            self.group,
            min="-",
            max="+",
            count=self.batch_size,
            idle=int(self.redelivery_s * 1000),
        )
        pending = await self._in_group(looking)
        if len(pending) < self.batch_size:  # a full batch: there may be more, look again at once
            self._next_reclaim = loop.time() + self.redelivery_s / 4
        if pending:
            await self._claim({p["message_id"]: p["times_delivered"] for p in pending})

    async def _claim(self, deliveries: dict[bytes, int]) -> None:
        claiming = self.redis.xclaim(
            self.stream.key,
            self.group,
            self.name,
            min_idle_time=int(self.redelivery_s * 1000),
            message_ids=list(deliveries),
        )
        claimed = await self._in_group(claiming)
        metrics.redelivered(self.stream.name, self.group, len(claimed))
        self._hold(claimed, deliveries)

    async def _keep_held(self) -> None:
        """Renew the lease on a batch that is tried again; forget what another worker has done.

        JUSTID: the server's count of deliveries stays as it is.
        """
        if not self._held:
            return
        claiming = self.redis.xclaim(
            self.stream.key,
            self.group,
            self.name,
            min_idle_time=0,
            message_ids=list(self._held),
            justid=True,
        )
        still = await self._in_group(claiming)
        self._held = {i: self._held[i] for i in still if i in self._held}

    async def _in_group(self, command: Awaitable[Any]) -> Any:
        """What a command answers; nothing, and the group made anew, if the server lost it."""
        try:
            return await command
        except ResponseError as error:
            if "NOGROUP" not in str(error):
                raise
            await create_groups(self.redis, [self.stream])
            return []

    def _hold(self, entries: Entries, deliveries: dict[bytes, int] | None = None) -> None:
        """Take entries in hand; `deliveries` says how often each was delivered before."""
        for entry_id, fields in entries:
            before = (deliveries or {}).get(entry_id, 0)
            self._held[entry_id] = decode(self.stream, entry_id, fields, self.group, before + 1)

    async def _process(self) -> None:
        """Bury, handle and acknowledge what is in hand; what is left was not finished."""
        for delivery in list(self._held.values()):
            if delivery.error is not None:
                await self._bury(delivery, delivery.error)
        skipped = [d.entry_id for d in self._held.values() if d.message is None]
        done = await self._handle([d for d in self._held.values() if d.message is not None])
        await self._acknowledge([*skipped, *done])
        self._held.clear()  # the rest failed: it comes back after `redelivery_s`

    async def _handle(self, readable: Sequence[Delivery[M]]) -> list[bytes]:
        """The ids of the entries whose effect is there."""
        if not readable:
            return []
        try:
            with metrics.handling(self.stream.name, self.group):
                await self.handler([d.message for d in readable if d.message is not None])
            return [d.entry_id for d in readable]
        except Unavailable:  # not the message's fault: the batch stays in hand
            raise
        except Exception:  # the one place where a handler's error is caught
            if len(readable) > 1:
                return [i for d in readable for i in await self._handle([d])]
            only = readable[0]
            log.exception("%s/%s: failed on %s", self.stream.name, self.group, only.entry_id)
            metrics.failed(self.stream.name, self.group)
            if only.deliveries >= self.max_deliveries:
                await self._bury(only, "the handler failed; its trace is in the log")
            return []

    async def _bury(self, delivery: Delivery[M], error: str) -> None:
        """Move an entry to the dead letters and acknowledge it, in one transaction."""
        fields: dict[Any, Any] = delivery.fields | {
            b"group": self.group.encode(),
            b"error": error.encode(errors="replace"),
            b"deliveries": str(delivery.deliveries).encode(),
            b"entry_id": delivery.entry_id,
        }
        transaction = self.redis.pipeline(transaction=True)
        transaction.xadd(self.stream.dead_key, fields)
        transaction.xack(self.stream.key, self.group, delivery.entry_id)
        await transaction.execute()
        self._held.pop(delivery.entry_id, None)
        metrics.buried(self.stream.name, self.group)
        log.error("%s/%s: dead letter %s", self.stream.name, self.group, delivery.entry_id)

    async def _acknowledge(self, entry_ids: Sequence[bytes]) -> None:
        if entry_ids:
            await self.redis.xack(self.stream.key, self.group, *entry_ids)
            metrics.handled(self.stream.name, self.group, len(entry_ids))

    async def _pause(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self._stop.wait(), seconds)
        except TimeoutError:
            return

    async def _leave(self) -> None:
        """Leave the group if nothing is pending under this name; else another worker reclaims."""
        try:
            mine = await self.redis.xpending_range(
                self.stream.key, self.group, "-", "+", 1, consumername=self.name
            )
            if not mine:
                await self.redis.xgroup_delconsumer(self.stream.key, self.group, self.name)
        except (RedisError, OSError) as error:
            log.warning("%s/%s: not left cleanly: %s", self.stream.name, self.group, error)


async def follow(
    redis: Redis,
    stream: Stream[M],
    on_message: Callable[[M], Awaitable[None]],
    *,
    on_connect: Callable[[], Awaitable[None]],
) -> None:
    """Read a broadcast stream for ever, from now on.

    `on_connect` runs after the reading position is fixed, at the start and after each
    reconnection: it reads the truth, so that nothing between is missed. What came while the
    connection was away is read too. `Unavailable` from either is tried again. Ends by
    cancellation.
    """
    last = b""
    while True:
        try:
            last = await _position(redis, stream, last)
            await on_connect()
            while True:
                answer = await redis.xread({stream.key: last}, count=BATCH_SIZE, block=BLOCK_MS)
                for entry_id, fields in entries_of(answer):
                    delivery = decode(stream, entry_id, fields)
                    if delivery.message is not None:
                        await on_message(delivery.message)
                    last = entry_id
        except (RedisError, OSError, TimeoutError, Unavailable) as error:
            log.warning("%s: interrupted: %s", stream.name, error)
            await asyncio.sleep(RETRY_S)


async def _position(redis: Redis, stream: Stream[Any], last: bytes) -> bytes:
    """Where to read on: after `last`, or after the newest if there is none or the stream is new."""
    newest: Any = await redis.xrevrange(stream.key, count=1)
    newest_id: bytes = newest[0][0] if newest else b"0-0"
    return last if last and order_of(last) <= order_of(newest_id) else newest_id


def order_of(entry_id: bytes) -> tuple[int, int]:
    """An entry id as something that sorts: milliseconds, then the sequence within."""
    time, _, sequence = entry_id.partition(b"-")
    return int(time), int(sequence or 0)


def entries_of(answer: Any) -> Entries:
    """The entries of the one stream in an XREAD or XREADGROUP answer (RESP2: see core.redis)."""
    return answer[0][1] if answer else []
