"""Withdrawing a signal, and erasing a completion with all that was said of it."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Row

from learnback.contracts.models import FeedbackStatus
from learnback.core.errors import Conflict, Gone, NotFound
from learnback.ledger import completions
from learnback.ledger import feedback as signals
from learnback.ledger.database import Database, lock

ERASED_VALUES: tuple[tuple[str, Any], ...] = (("body", {}), ("rater_id", None), ("session", None))


async def withdraw(database: Database, tenant: str, feedback_id: str) -> Row[Any]:
    """Take a signal back, also after training; the row as it is then. Idempotent."""
    async with database.write() as connection:
        row = (await signals.locked(connection, [feedback_id])).get((tenant, feedback_id))
        if row is None:
            raise NotFound(f"There is no feedback {feedback_id}.")
        if row.status == FeedbackStatus.ERASED:
            raise Gone(f"The feedback {feedback_id} has been erased.")
        if row.status == FeedbackStatus.SUPERSEDED:
            raise Conflict(
                f"The feedback {feedback_id} is superseded by {row.superseded_by}: "
                "withdraw that one."
            )
        if row.status != FeedbackStatus.WITHDRAWN:
            await signals.change(connection, [signals.Change(row, FeedbackStatus.WITHDRAWN)])
        found = await signals.find(connection, tenant, feedback_id)
    if found is None:
        raise NotFound(f"There is no feedback {feedback_id}.")
    return found


async def erase(database: Database, tenant: str, completion_id: str) -> int:
    """Erase a completion and all feedback about it; how many signals. Idempotent."""
    async with database.write() as connection:
        await lock(connection, signals.JOIN_LOCK)
        if await completions.find(connection, tenant, completion_id, lock=True) is None:
            raise NotFound(f"There is no completion {completion_id}.")
        rows = await signals.about(connection, tenant, completion_id)
        changes = [
            signals.Change(
                row, FeedbackStatus.ERASED, "its completion was erased on request", ERASED_VALUES
            )
            for row in rows
            if row.status != FeedbackStatus.ERASED
        ]
        await signals.change(connection, changes)
        await completions.erase(connection, tenant, completion_id)
    return len(changes)
