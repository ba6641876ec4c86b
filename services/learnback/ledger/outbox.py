"""The outbox: messages decided in a transaction, on their way to their stream."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

from sqlalchemy import delete, func, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from learnback.contracts.messages import Message
from learnback.contracts.streams import Stream
from learnback.core.clock import now
from learnback.ledger.tables import outbox

M = TypeVar("M", bound=Message)


@dataclass(frozen=True)
class Waiting:
    """A message that is not known to be on its stream."""

    id: int
    stream: str
    body: str


async def append(connection: AsyncConnection, stream: Stream[M], messages: Iterable[M]) -> None:
    """Promise messages to a stream, in order, with the transaction at hand."""
    at = now()
    rows = [
        {"stream": stream.name, "body": m.model_dump_json(), "created_at": at} for m in messages
    ]
    if rows:
        await connection.execute(insert(outbox), rows)


async def oldest(connection: AsyncConnection, limit: int) -> list[Waiting]:
    """The messages that have waited longest, in the order in which they were promised."""
    query = select(outbox.c.id, outbox.c.stream, outbox.c.body).order_by(outbox.c.id).limit(limit)
    return [Waiting(*row) for row in await connection.execute(query)]


async def remove(connection: AsyncConnection, ids: Sequence[int]) -> None:
    """Forget messages that are on their stream."""
    await connection.execute(delete(outbox).where(outbox.c.id.in_(ids)))


async def backlog(connection: AsyncConnection) -> tuple[int, datetime | None]:
    """How many messages wait, and since when the oldest does."""
    query = select(func.count(), func.min(outbox.c.created_at)).select_from(outbox)
    count, since = (await connection.execute(query)).one()
    return int(count), since
