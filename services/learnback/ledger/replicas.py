"""Which inference replicas live, and what each can answer with.

Replicas say so themselves, every few seconds. They say it here and not in Redis, since who can't
reach the ledger can't learn of a new version either, and a move of traffic can ask who has loaded
it within its own transaction.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from pydantic import BaseModel, ConfigDict
from sqlalchemy import delete, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from learnback.core.clock import now
from learnback.ledger.database import insert_new
from learnback.ledger.tables import replicas

LIVE = timedelta(seconds=15)
"""A replica that was silent for longer is gone: it speaks five times as often."""
FORGOTTEN = timedelta(hours=1)
"""Rows of the dead are removed then."""


class Replica(BaseModel):
    """One inference process."""

    model_config = ConfigDict(frozen=True, from_attributes=True)

    id: str
    base_digest: str
    """Of the base model that it serves."""
    serving: bool
    """Whether it is ready for requests; one that is not must catch up before it is."""
    versions: tuple[str, ...]
    """What it can answer with now: loaded, verified by digest, and used once."""
    seen_at: datetime


@dataclass(frozen=True)
class Loaded:
    """How far the live replicas are with a version."""

    replicas: int
    missing: tuple[str, ...]
    """The replicas that do not have it yet."""

    @property
    def everywhere(self) -> bool:
        """Whether all have it; of none at all nothing is known."""
        return self.replicas > 0 and not self.missing

    def __str__(self) -> str:
        """For people."""
        if self.replicas == 0:
            return "loading: no replica says that it lives"
        found = f"loading: {self.replicas - len(self.missing)} of {self.replicas} replicas"
        return f"{found} (without it: {', '.join(self.missing)})" if self.missing else found


async def announce(
    connection: AsyncConnection,
    replica: str,
    base_digest: str,
    *,
    serving: bool,
    versions: Iterable[str],
) -> None:
    """A replica lives, and can answer with `versions`."""
    at = now()
    values = {
        "base_digest": base_digest,
        "serving": serving,
        "versions": sorted(versions),
        "seen_at": at,
    }
    fresh = await connection.execute(insert_new(connection, replicas).values(id=replica, **values))
    if fresh.rowcount == 1:
        await connection.execute(delete(replicas).where(replicas.c.seen_at < at - FORGOTTEN))
        return
    await connection.execute(update(replicas).where(replicas.c.id == replica).values(**values))


async def leave(connection: AsyncConnection, replica: str) -> None:
    """A replica ends: nobody need wait for it."""
    await connection.execute(delete(replicas).where(replicas.c.id == replica))


async def live(connection: AsyncConnection, base_digest: str | None = None) -> list[Replica]:
    """The replicas that live, by their names; those that serve this base, if one is given."""
    query = select(replicas).where(replicas.c.seen_at > now() - LIVE).order_by(replicas.c.id)
    if base_digest is not None:
        query = query.where(replicas.c.base_digest == base_digest)
    return [Replica.model_validate(row) for row in await connection.execute(query)]


async def loaded(connection: AsyncConnection, version: str, base_digest: str) -> Loaded:
    """How many of those that take requests have `version`, which stands on this base."""
    serving = [r for r in await live(connection, base_digest) if r.serving]
    return Loaded(len(serving), tuple(r.id for r in serving if version not in r.versions))


async def known(connection: AsyncConnection) -> list[Replica]:
    """Also those that fell silent a while ago: they may yet use what they have loaded."""
    query = select(replicas).where(replicas.c.seen_at > now() - FORGOTTEN).order_by(replicas.c.id)
    return [Replica.model_validate(row) for row in await connection.execute(query)]
