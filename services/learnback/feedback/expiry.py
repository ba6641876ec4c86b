"""The grace time: feedback whose completion never turned up comes to an end."""

from __future__ import annotations

from datetime import timedelta

from learnback.contracts.models import FeedbackKind, FeedbackStatus
from learnback.core.clock import now
from learnback.feedback import metrics
from learnback.ledger import feedback as signals
from learnback.ledger.database import Database

MOST_PER_COMMIT = 500
"""Keeps the ledger's write lock for well under a second."""


async def sweep(database: Database, grace: timedelta) -> int:
    """Expire what has waited longer than `grace`; the number of signals."""
    total = 0
    while True:
        async with database.write() as connection:
            waiting = await signals.pending_since(connection, now() - grace, MOST_PER_COMMIT)
            changes = [
                signals.Change(row, FeedbackStatus.EXPIRED, _reason(row.kind, grace))
                for row in waiting
            ]
            total += await signals.change(connection, changes)
        metrics.EXPIRED.inc(len(changes))
        if len(changes) < MOST_PER_COMMIT:
            return total


def _reason(kind: str, grace: timedelta) -> str:
    target = "completion of its session" if kind == FeedbackKind.OUTCOME else "such completion"
    return f"no {target} was recorded within {grace.total_seconds():g} s"
