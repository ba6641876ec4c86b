"""Of all release processes one acts: the holder of the lease `release`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

from sqlalchemy.ext.asyncio import AsyncConnection

from learnback.core.errors import LearnbackError, Unavailable
from learnback.core.ids import new_id
from learnback.ledger import leases
from learnback.ledger.database import Database
from learnback.release import metrics

log = logging.getLogger(__name__)

LEASE = "release"
RENEWALS = 3
"""Per lifetime of the lease: two may fail before somebody else takes over."""


class Leadership:
    """Holds the lease, renews it, and shows its token in every write."""

    def __init__(self, database: Database, ttl: timedelta) -> None:
        self.database = database
        self.ttl = ttl
        self.holder = new_id("controller")
        self.lease: leases.Lease | None = None

    async def lead(self) -> bool:
        """Take or renew the lease; whether this process may act."""
        async with self.database.write() as connection:
            found = await leases.acquire(connection, LEASE, self.holder, self.ttl)
        if (found is None) != (self.lease is None):
            log.info("this controller %s", "acts now" if found else "waits: another one acts")
        self.lease = found
        metrics.LEADING.set(found is not None)
        return found is not None

    async def keep(self) -> None:
        """Renew for ever, so that long evaluations keep it; ends by cancellation."""
        while True:
            await asyncio.sleep(self.ttl.total_seconds() / RENEWALS)
            if self.lease is None:
                continue
            try:
                await self.lead()
            except LearnbackError as error:
                log.warning("the lease was not renewed: %s", error)

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncConnection]:
        """A transaction that fails with LeaseLost if somebody else acts by now."""
        if self.lease is None and not await self.lead():
            raise Unavailable("Another controller acts; this one waits.")
        lease = self.lease
        assert lease is not None  # noqa: S101  # `lead` said so
        async with self.database.write() as connection:
            try:
                await leases.check(connection, lease)
            except leases.LeaseLost:
                self.lease = None
                raise
            yield connection

    @property
    def token(self) -> int:
        """The lease's token; 0 without one."""
        return self.lease.token if self.lease else 0

    async def give_up(self) -> None:
        """At the end of the process: the successor need not wait."""
        lease, self.lease = self.lease, None
        if lease is None:
            return
        async with self.database.write() as connection:
            await leases.release(connection, lease)
