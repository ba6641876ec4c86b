"""A version's way to people, as the release process keeps it: asks, approvals, steps, looks."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict
from sqlalchemy import func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from learnback.core.clock import now
from learnback.core.errors import Conflict
from learnback.ledger.database import insert_new
from learnback.ledger.tables import looks, releases
from learnback.ledger.types import storable

QUIET = frozenset({"hold", "watch", "inconclusive"})
"""Verdicts that change nothing: the same one again is not kept twice."""
PROGRESS = ("loading_since", "step", "step_since", "canary_since", "watched_since", "plan")
"""What is not known (any more) of a version that has not begun its way to people."""


class Approval(BaseModel):
    """Somebody let a version take a step, or did not."""

    model_config = ConfigDict(frozen=True)

    step: int
    approved: bool
    by: str
    reason: str
    at: datetime


class Release(BaseModel):
    """One version's way; `revision` 0 and nothing else before its first change."""

    model_config = ConfigDict(frozen=True, from_attributes=True)

    version: str
    revision: int = 0
    asked_at: datetime | None = None
    """Somebody asked for this version: it goes before all that came by themselves."""
    asked_by: str | None = None
    asked_reason: str | None = None
    evaluating_since: datetime | None = None
    awaiting_step: int | None = None
    """The step that waits for somebody's approval."""
    approvals: tuple[Approval, ...] = ()
    loading_since: datetime | None = None
    """Since when replicas load it; nobody gets it before all of them have."""
    step: int | None = None
    step_since: datetime | None = None
    canary_since: datetime | None = None
    watched_since: datetime | None = None
    """It was promoted then, and some people stayed with the version before to compare with."""
    ended_at: datetime | None = None
    plan: dict[str, Any] | None = None
    """What was fixed as replicas began to load it: the policy, and what it is compared with."""

    @property
    def loading(self) -> bool:
        """Whether replicas load it and nobody gets it yet."""
        begun = self.loading_since is not None and self.canary_since is None
        return begun and self.ended_at is None

    @property
    def watched(self) -> bool:
        """Whether it is stable and some people still have the version before."""
        return self.watched_since is not None and self.ended_at is None

    @property
    def mirroring(self) -> bool:
        """Whether its step is one of which nobody sees the answers."""
        if self.plan is None or self.step is None:
            return False
        return bool(self.plan["policy"]["steps"][self.step].get("mirror"))


class Look(BaseModel):
    """One look at a canary: what was measured, and the verdict."""

    model_config = ConfigDict(frozen=True, from_attributes=True)

    version: str
    number: int
    at: datetime
    step: int
    weight: float
    verdict: str
    reason: str
    measured: dict[str, Any]
    token: int
    """Of the lease under which it was taken."""


async def find(connection: AsyncConnection, version: str, *, lock: bool = False) -> Release:
    """Where a version stands on its way; `lock` keeps it for this transaction."""
    query = select(releases).where(releases.c.version == version)
    row = (await connection.execute(query.with_for_update() if lock else query)).first()
    return Release.model_validate(row) if row else Release(version=version)


async def known(connection: AsyncConnection) -> dict[str, Release]:
    """All that ever began their way, by version."""
    rows = await connection.execute(select(releases))
    return {row.version: Release.model_validate(row) for row in rows}


async def change(
    connection: AsyncConnection,
    version: str,
    *,
    expected_revision: int | None = None,
    **values: Any,
) -> Release:
    """Change a version's row, adding it if need be. Conflict if it is not at `expected_revision`.

    The row stays locked until the transaction ends.
    """
    fresh = {"version": version, "revision": 0, "approvals": [], "changed_at": now()}
    await connection.execute(insert_new(connection, releases).values(**fresh))
    before = await find(connection, version, lock=True)
    if expected_revision is not None and before.revision != expected_revision:
        raise Conflict(
            f"{version} changed meanwhile (revision {before.revision}, expected "
            f"{expected_revision}). Read it again and decide anew.",
            field="expected_revision",
        )
    changed = {"revision": before.revision + 1, "changed_at": now(), **values}
    await connection.execute(
        update(releases).where(releases.c.version == version).values(**changed)
    )
    return await find(connection, version)


async def approve(connection: AsyncConnection, release: Release, approval: Approval) -> Release:
    """Append an approval and end the wait for it."""
    kept = [one.model_dump(mode="json") for one in (*release.approvals, approval)]
    return await change(
        connection,
        release.version,
        expected_revision=release.revision,
        approvals=storable(kept),
        awaiting_step=None,
    )


async def keep_look(connection: AsyncConnection, look: Look) -> Look:
    """Append a look that says something new, and return it; else the last one, which said it.

    Its number must be the next one, so of two lookers one fails.
    """
    before = await looks_of(connection, look.version, limit=1)
    if before and look.verdict in QUIET and _said(before[0]) == _said(look):
        return before[0]
    row = look.model_dump()
    await connection.execute(insert(looks).values(**row | {"measured": storable(look.measured)}))
    return look


def _said(look: Look) -> str:
    """What a look saw and decided; the time that has passed is nothing new."""
    reason = re.sub(r"[\d.:]+", "", look.reason)
    measured = storable(look.measured)
    return json.dumps([look.step, look.weight, look.verdict, reason, measured], sort_keys=True)


async def next_look(connection: AsyncConnection, version: str) -> int:
    """The number of a version's next look, from 1."""
    found = await connection.scalar(
        select(func.max(looks.c.number)).where(looks.c.version == version)
    )
    return int(found or 0) + 1


async def looks_of(
    connection: AsyncConnection, version: str, limit: int = 1000, before: int | None = None
) -> list[Look]:
    """The newest looks at a version, oldest first; `before`: with smaller numbers."""
    query = (
        select(looks).where(looks.c.version == version).order_by(looks.c.number.desc()).limit(limit)
    )
    if before is not None:
        query = query.where(looks.c.number < before)
    rows: Sequence[Any] = (await connection.execute(query)).all()
    return [Look.model_validate(row) for row in reversed(rows)]
