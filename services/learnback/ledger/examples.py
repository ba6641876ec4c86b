"""What became of the answers and signals that the examples of a prompt version stand on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from sqlalchemy import ColumnElement, select
from sqlalchemy.ext.asyncio import AsyncConnection

from learnback.ledger.canaries import NOT_COUNTED
from learnback.ledger.database import chunks
from learnback.ledger.tables import completions, feedback


class Sourced(Protocol):
    """Something that stands on a completion and on signals."""

    @property
    def id(self) -> str:
        """Its own id."""

    @property
    def completion_id(self) -> str | None:
        """The recorded completion."""

    @property
    def feedback_ids(self) -> tuple[str, ...]:
        """The signals."""


async def taken_back(connection: AsyncConnection, entries: Sequence[Sourced]) -> frozenset[str]:
    """Ids of those that must not be shown: their completion is erased or gone, or one of their
    signals was withdrawn, superseded, erased or found to be wrong."""
    wanted = {entry.completion_id for entry in entries if entry.completion_id}
    signals = {i for entry in entries for i in entry.feedback_ids}
    c, f = completions.c, feedback.c
    there = await _those(connection, wanted, c.id, c.erased_at.is_(None))
    revoked = await _those(connection, signals, f.id, f.status.in_(NOT_COUNTED))
    return frozenset(
        entry.id
        for entry in entries
        if (entry.completion_id and entry.completion_id not in there)
        or not revoked.isdisjoint(entry.feedback_ids)
    )


async def _those(
    connection: AsyncConnection, ids: Iterable[str], column: Any, condition: ColumnElement[bool]
) -> set[str]:
    """The ids of which `condition` holds."""
    found: set[str] = set()
    for chunk in chunks(sorted(ids)):
        query = select(column).where(column.in_(chunk), condition)
        found.update((await connection.scalars(query)).all())
    return found
