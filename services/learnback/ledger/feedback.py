"""Feedback rows: how they come in, change their status, and are counted.

A status changes by `change`, which counts the revision and promises the message to the
`feedback` stream in the same transaction, so that no consumer misses it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Row,
    Select,
    and_,
    bindparam,
    delete,
    func,
    insert,
    or_,
    select,
    tuple_,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from learnback.contracts.messages import FeedbackReceived
from learnback.contracts.models import FeedbackKind, FeedbackStatus
from learnback.contracts.streams import FEEDBACK
from learnback.core.clock import now
from learnback.core.errors import Unprocessable
from learnback.ledger import outbox
from learnback.ledger.database import insert_new
from learnback.ledger.tables import feedback, idempotency_keys

JOIN_LOCK = 7_236_118_402
"""Shared by those who look a completion up to add feedback, exclusive to those who add or erase
completions: otherwise each could miss what the other has not committed yet."""


@dataclass(frozen=True)
class Change:
    """A new status for a row as it was read."""

    row: Row[Any]
    status: FeedbackStatus
    reason: str | None = None
    values: tuple[tuple[str, Any], ...] = ()
    """More columns to set, the same ones in every change of a call."""


async def add(connection: AsyncConnection, rows: Sequence[dict[str, Any]]) -> None:
    """Add new signals at revision 1, and promise their messages."""
    if not rows:
        return
    await connection.execute(insert(feedback), rows)
    await outbox.append(connection, FEEDBACK, [_message(row, row["received_at"]) for row in rows])


async def change(connection: AsyncConnection, changes: Sequence[Change]) -> int:
    """Give rows a new status, if nobody changed them since they were read; how many that were.

    Read the rows `with_for_update` first: then all of them are changed.
    """
    at = now()
    changed = 0
    done: list[dict[str, Any]] = []
    for one in changes:
        values = {
            "status": one.status.value,
            "status_reason": one.reason,
            "revision": one.row.revision + 1,
            "changed_at": at,
            **dict(one.values),
        }
        result = await connection.execute(
            update(feedback)
            .where(feedback.c.id == bindparam("b_id"), feedback.c.revision == bindparam("b_rev"))
            .values(**values),
            {"b_id": one.row.id, "b_rev": one.row.revision},
        )
        if result.rowcount == 1:
            changed += 1
            done.append({**one.row._mapping, **values})
    await outbox.append(connection, FEEDBACK, [_message(row, at) for row in done])
    return changed


def _message(row: dict[str, Any], at: datetime) -> FeedbackReceived:
    return FeedbackReceived(
        id=row["id"],
        tenant=row["tenant"],
        kind=FeedbackKind(row["kind"]),
        status=FeedbackStatus(row["status"]),
        revision=row["revision"],
        at=at,
        completion_id=row["completion_id"],
        supersedes=row["supersedes"],
    )


async def find(connection: AsyncConnection, tenant: str, feedback_id: str) -> Row[Any] | None:
    """A tenant's signal."""
    query = select(feedback).where(feedback.c.tenant == tenant, feedback.c.id == feedback_id)
    return (await connection.execute(query)).first()


async def locked(
    connection: AsyncConnection, ids: Collection[str]
) -> dict[tuple[str, str], Row[Any]]:
    """Signals by tenant and id, kept for this transaction."""
    if not ids:
        return {}
    query = select(feedback).where(feedback.c.id.in_(sorted(ids))).order_by(feedback.c.id)
    rows = await connection.execute(query.with_for_update())
    return {(row.tenant, row.id): row for row in rows}


def _pending() -> Select[Any]:
    return (
        select(feedback)
        .where(feedback.c.status == FeedbackStatus.PENDING_TARGET.value)
        .order_by(feedback.c.id)
        .with_for_update()
    )


async def pending_on(
    connection: AsyncConnection, completion_ids: Collection[str], sessions: Collection[str]
) -> list[Row[Any]]:
    """Signals that wait for one of these completions or sessions, kept for this transaction."""
    found: dict[str, Row[Any]] = {}
    ids = sorted(completion_ids)
    conditions: list[ColumnElement[bool]] = [
        feedback.c.completion_id.in_(ids),
        feedback.c.other_completion_id.in_(ids),
    ]
    if sessions:
        outcome = feedback.c.kind == FeedbackKind.OUTCOME.value
        conditions.append(and_(outcome, feedback.c.session.in_(sorted(sessions))))
    for condition in conditions:  # one by one: an OR over three columns would use no index
        for row in await connection.execute(_pending().where(condition)):
            found[row.id] = row
    return list(found.values())


async def pending_since(
    connection: AsyncConnection, before: datetime, limit: int
) -> list[Row[Any]]:
    """Signals that have waited for their completion since before a time."""
    query = _pending().where(feedback.c.received_at < before).limit(limit)
    return list((await connection.execute(query)).all())


async def about(connection: AsyncConnection, tenant: str, completion_id: str) -> list[Row[Any]]:
    """All signals about a completion, kept for this transaction."""
    query = (
        select(feedback)
        .where(
            feedback.c.tenant == tenant,
            or_(
                feedback.c.completion_id == completion_id,
                feedback.c.other_completion_id == completion_id,
            ),
        )
        .order_by(feedback.c.id)
        .with_for_update()
    )
    return list((await connection.execute(query)).all())


async def page(
    connection: AsyncConnection,
    tenant: str,
    *,
    completion_id: str | None,
    status: FeedbackStatus | None,
    kind: FeedbackKind | None,
    after: str | None,
    limit: int,
) -> list[Row[Any]]:
    """A tenant's signals, newest first; `after` is the id of the last one seen."""
    query = (
        select(feedback)
        .where(feedback.c.tenant == tenant)
        .order_by(feedback.c.received_at.desc(), feedback.c.id.desc())
        .limit(limit)
    )
    if completion_id is not None:
        query = query.where(
            or_(
                feedback.c.completion_id == completion_id,
                feedback.c.other_completion_id == completion_id,
            )
        )
    if status is not None:
        query = query.where(feedback.c.status == status.value)
    if kind is not None:
        query = query.where(feedback.c.kind == kind.value)
    if after is not None:
        last = await find(connection, tenant, after)
        if last is None:
            raise Unprocessable("There is no such feedback to go on from.", field="after")
        place = tuple_(feedback.c.received_at, feedback.c.id)
        query = query.where(place < (last.received_at, last.id))
    return list((await connection.execute(query)).all())


async def replays(
    connection: AsyncConnection, wanted: Iterable[tuple[str, str]]
) -> dict[tuple[str, str], Row[Any]]:
    """What was stored under these (tenant, idempotency key): digest, feedback id and status."""
    found: dict[tuple[str, str], Row[Any]] = {}
    by_tenant: dict[str, list[str]] = {}
    for tenant, key in wanted:
        by_tenant.setdefault(tenant, []).append(key)
    for tenant, keys in by_tenant.items():
        query = (
            select(
                idempotency_keys.c.key,
                idempotency_keys.c.body_digest,
                feedback.c.id,
                feedback.c.status,
                feedback.c.status_reason,
            )
            .join(feedback, feedback.c.id == idempotency_keys.c.feedback_id)
            .where(idempotency_keys.c.tenant == tenant, idempotency_keys.c.key.in_(sorted(keys)))
        )
        rows: Sequence[Row[Any]] = (await connection.execute(query)).all()  # type: ignore[assignment]
        found |= {(tenant, row.key): row for row in rows}
    return found


async def claim(
    connection: AsyncConnection, claims: Sequence[dict[str, Any]]
) -> set[tuple[str, str]]:
    """Take idempotency keys for new signals; those (tenant, key) that nobody else has.

    Waits for a concurrent transaction that takes the same key.
    """
    won: set[tuple[str, str]] = set()
    if not claims:
        return won
    ordered = sorted(claims, key=lambda row: (row["tenant"], row["key"]))
    statement = insert_new(connection, idempotency_keys).returning(
        idempotency_keys.c.tenant, idempotency_keys.c.key
    )
    rows = await connection.execute(statement, ordered)
    won.update((row.tenant, row.key) for row in rows)
    return won


async def release(connection: AsyncConnection, claims: Sequence[tuple[str, str]]) -> None:
    """Give idempotency keys back that were claimed in this transaction, for nothing."""
    for tenant, key in claims:
        await connection.execute(
            delete(idempotency_keys).where(
                idempotency_keys.c.tenant == tenant, idempotency_keys.c.key == key
            )
        )


async def reconcile(
    connection: AsyncConnection, tenant: str | None = None
) -> dict[FeedbackStatus, int]:
    """How many signals stand in each status; every status is there, 0 included."""
    query = select(feedback.c.status, func.count()).group_by(feedback.c.status)
    if tenant is not None:
        query = query.where(feedback.c.tenant == tenant)
    counts = {FeedbackStatus(status): n for status, n in (await connection.execute(query)).all()}
    return {status: counts.get(status, 0) for status in FeedbackStatus}


async def received(connection: AsyncConnection, tenant: str | None = None) -> int:
    """How many signals ever came in: what the counts of `reconcile` add up to."""
    query = select(func.count()).select_from(feedback)
    if tenant is not None:
        query = query.where(feedback.c.tenant == tenant)
    return int((await connection.execute(query)).scalar_one())
