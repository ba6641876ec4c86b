"""Looking after streams: lag, dead letters, replay, trimming."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from learnback.contracts.streams import KEY_PREFIX, STREAMS, Stream
from learnback.core.bus import order_of
from learnback.core.errors import Conflict

OWNER = f"{KEY_PREFIX}ledger"
"""The id of the ledger whose processes use these streams."""
PAGE = 500
"""Dead letters read at once."""


@dataclass(frozen=True)
class GroupLag:
    """How far a group is behind: `lag` entries not yet read, `pending` read and not yet done."""

    stream: str
    group: str
    lag: int | None
    pending: int
    dead: int


@dataclass(frozen=True)
class DeadLetter:
    """A message that could not be handled, with the reason."""

    id: str
    stream: str
    group: str
    type: str
    body: str
    error: str
    deliveries: int


async def lags(redis: Redis) -> list[GroupLag]:
    """The lag of every group of every stream; `lag` is None where the server can't tell."""
    found: list[GroupLag] = []
    for stream in STREAMS:
        try:
            infos = {_text(i["name"]): i for i in await redis.xinfo_groups(stream.key)}
        except ResponseError:  # the stream does not exist yet
            infos = {}
        dead = await _count_dead(redis, stream)
        unread = {"lag": await redis.xlen(stream.key)}  # a group that is not there yet
        for group in stream.groups:
            info = infos.get(group, unread)
            found.append(
                GroupLag(
                    stream.name,
                    group,
                    info.get("lag"),
                    int(info.get("pending", 0)),
                    dead[group],
                )
            )
    return found


async def claim(redis: Redis, ledger: str, *, take: bool = False) -> None:
    """Let these streams belong to a ledger, by its id. Safe to repeat.

    Raises Conflict if they belong to another one: what two loops say would mix. With `take` they
    change hands.
    """
    if take:
        await redis.set(OWNER, ledger)
        return
    await redis.set(OWNER, ledger, nx=True)
    owner = _text(await redis.get(OWNER) or b"")
    if owner != ledger:
        raise Conflict(
            f"These streams belong to another ledger ({owner}, not {ledger}): two loops would mix. "
            "Give each a database number of its own (redis://host:6379/1). If the other ledger is "
            "gone for good: `learnback migrate --take-streams`."
        )


async def memory(redis: Redis) -> tuple[int, int]:
    """Bytes that the server uses, and its limit (0: none), beyond which it refuses to write."""
    told: dict[str, Any] = await redis.info("memory")
    return int(told["used_memory"]), int(told["maxmemory"])


async def dead_letters(redis: Redis, stream: Stream[Any]) -> list[DeadLetter]:
    """All dead letters of a stream, newest first."""
    return [letter async for letter in _each_dead(redis, stream)]


async def dead_letter(redis: Redis, stream: Stream[Any], letter_id: str) -> DeadLetter | None:
    """One dead letter by its id; None if there is none."""
    try:
        entries: Any = await redis.xrange(stream.dead_key, letter_id, letter_id)
    except ResponseError:  # no stream's id at all
        return None
    return _letters(stream, entries)[0] if entries else None


async def _each_dead(redis: Redis, stream: Stream[Any]) -> AsyncIterator[DeadLetter]:
    """Newest first, a page at a time."""
    newest = "+"
    while page := await redis.xrevrange(stream.dead_key, newest, count=PAGE):
        for letter in _letters(stream, page):
            yield letter
        newest = f"({letter.id}"


async def _count_dead(redis: Redis, stream: Stream[Any]) -> Counter[str]:
    """Dead letters by group. Their bodies are only read where several groups share them."""
    count = await redis.xlen(stream.dead_key)
    if count and len(stream.groups) > 1:
        return Counter([letter.group async for letter in _each_dead(redis, stream)])
    return Counter({group: count for group in stream.groups})


def _letters(stream: Stream[Any], entries: Any) -> list[DeadLetter]:
    return [
        DeadLetter(
            id=_text(entry_id),
            stream=stream.name,
            group=_text(fields.get(b"group", b"")),
            type=_text(fields.get(b"type", b"")),
            body=_text(fields.get(b"body", b"")),
            error=_text(fields.get(b"error", b"")),
            deliveries=int(fields.get(b"deliveries", 0)),
        )
        for entry_id, fields in entries
    ]


async def replay(redis: Redis, stream: Stream[Any], letter: DeadLetter) -> None:
    """Put a dead letter back for the group that failed on it, in one transaction."""
    transaction = redis.pipeline(transaction=True)
    transaction.xadd(stream.key, {"type": letter.type, "body": letter.body, "group": letter.group})
    transaction.xdel(stream.dead_key, letter.id)
    await transaction.execute()


async def trim(redis: Redis, stream: Stream[Any], keep: int = 10_000) -> int:
    """Drop the oldest of what every group has handled; about the newest `keep` stay.

    By MINID below the oldest entry that any group still needs: MAXLEN would drop unread ones.
    The server drops whole nodes, so a few more than `keep` stay. Returns the number dropped.
    """
    excess = await redis.xlen(stream.key) - keep
    if excess <= 0:
        return 0
    bound = await _oldest_needed(redis, stream)
    if bound is None:
        return 0
    return int(await redis.xtrim(stream.key, minid=bound, approximate=True, limit=excess))


async def _oldest_needed(redis: Redis, stream: Stream[Any]) -> bytes | None:
    """The oldest entry that a group still needs (or has read last); None: all of them."""
    if not stream.groups:
        newest: Any = await redis.xrevrange(stream.key, count=1)
        return newest[0][0] if newest else None
    infos = {_text(info["name"]): info for info in await redis.xinfo_groups(stream.key)}
    if not infos.keys() >= set(stream.groups):
        return None
    needed: list[bytes] = []
    for name, info in infos.items():
        summary = await redis.xpending(stream.key, name)
        needed.append(summary["min"] or info["last-delivered-id"])
    return min(needed, key=order_of)


def _text(value: bytes | str) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
