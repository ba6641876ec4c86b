"""What this replica tells the others, and what it knows of them.

All replicas move to a new stable version together: one that has it loaded waits for the others, so
that a person who comes back is not answered by another version at each request.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable

from sqlalchemy.ext.asyncio import AsyncConnection

from learnback.core.errors import LearnbackError
from learnback.core.ids import uuid7, worker_name
from learnback.ledger import replicas
from learnback.ledger.database import Database

log = logging.getLogger(__name__)

SPEAK_S = replicas.LIVE.total_seconds() / 5
"""Between two words of a replica that has nothing new to say."""
PATIENCE_S = 60.0
"""How long a version that is ready here waits for other replicas. Then it answers here: one replica
that can't load it must not keep a rollback, or what was forced, from everybody. What an operator
promotes without force waits for ever."""


class Presence:
    """One replica among others of the same base."""

    def __init__(self, base_digest: str) -> None:
        self.id = f"{worker_name()}-{uuid7()[-8:]}"
        self.base_digest = base_digest
        self.patience_s = PATIENCE_S
        self._others: list[replicas.Replica] = []
        self._waits_for: tuple[str, float] = ("", 0.0)
        self._said: tuple[bool, frozenset[str]] | None = None
        self._said_at = float("-inf")

    async def read(self, connection: AsyncConnection) -> None:
        """See who else is there."""
        found = await replicas.live(connection, self.base_digest)
        self._others = [r for r in found if r.id != self.id and r.serving]

    def waits(self, version: str, *, patient: bool) -> bool:
        """Whether `version`, ready here, has to wait for another replica; for ever if `patient`."""
        if all(version in other.versions for other in self._others):
            self._waits_for = ("", 0.0)
            return False
        name, since = self._waits_for
        if name != version:
            since = time.monotonic()
            self._waits_for = (version, since)
        return patient or time.monotonic() - since < self.patience_s

    async def tell(self, database: Database, *, serving: bool, versions: Iterable[str]) -> None:
        """Say what this replica can answer with, if that is new or was said long ago."""
        said = (serving, frozenset(versions))
        if said == self._said and time.monotonic() - self._said_at < SPEAK_S:
            return
        async with database.write() as connection:
            await replicas.announce(
                connection, self.id, self.base_digest, serving=serving, versions=said[1]
            )
        self._said, self._said_at = said, time.monotonic()

    async def leave(self, database: Database) -> None:
        """Say that this replica ends; who does not hear of it waits a few seconds longer."""
        try:
            async with database.write() as connection:
                await replicas.leave(connection, self.id)
        except LearnbackError as error:
            log.warning("the others were not told that this replica ends: %s", error)
