"""Leases with fencing: of several processes that could act, one does.

A lease expires unless it is renewed. A holder that was paused for longer than that may wake up and
still believe that it holds it; so every write of a holder checks its token within its own
transaction (`check`), and the token has risen by then (Kleppmann 2016, "How to do distributed
locking"). Clocks only decide who waits for whom, never who may write.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from learnback.core.clock import now
from learnback.core.errors import Conflict
from learnback.ledger.database import insert_new
from learnback.ledger.tables import leases


class LeaseLost(Conflict):
    """Somebody else holds the lease by now; nothing was written."""


@dataclass(frozen=True)
class Lease:
    """The right to act under `name`; `token` is what every write shows."""

    name: str
    holder: str
    token: int


async def acquire(
    connection: AsyncConnection, name: str, holder: str, ttl: timedelta
) -> Lease | None:
    """Take the lease or renew it; None while somebody else holds it.

    Whoever takes it over gets a higher token; whoever renews it keeps the same.
    """
    at = now()
    first = insert_new(connection, leases).values(
        name=name, holder=holder, token=1, expires_at=at + ttl
    )
    if (await connection.execute(first)).rowcount == 1:
        return Lease(name, holder, 1)
    found = await connection.execute(select(leases).where(leases.c.name == name).with_for_update())
    row, at = found.one(), now()  # the row may have been waited for
    if row.holder != holder and row.expires_at > at:
        return None
    token = row.token if row.holder == holder else row.token + 1
    await connection.execute(
        update(leases)
        .where(leases.c.name == name)
        .values(holder=holder, token=token, expires_at=at + ttl)
    )
    return Lease(name, holder, token)


async def check(connection: AsyncConnection, lease: Lease) -> None:
    """Raises LeaseLost unless `lease` is still the newest; until commit nobody can take it over."""
    query = select(leases.c.token).where(leases.c.name == lease.name).with_for_update()
    token = await connection.scalar(query)
    if token != lease.token:
        raise LeaseLost(
            f"Another process acts as {lease.name} by now (token {token}, ours {lease.token})."
        )


async def release(connection: AsyncConnection, lease: Lease) -> None:
    """Give it back, so that a successor need not wait; nothing if it was lost already."""
    await connection.execute(
        update(leases)
        .where(leases.c.name == lease.name, leases.c.token == lease.token)
        .values(expires_at=now())
    )
