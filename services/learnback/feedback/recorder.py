"""The recorder: writes completions and rewards to the ledger, and joins feedback that waited."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sqlalchemy.ext.asyncio import AsyncConnection

from learnback.contracts.messages import CompletionScored, CompletionServed
from learnback.contracts.models import FeedbackStatus
from learnback.contracts.streams import COMPLETIONS, REWARDS
from learnback.core.clock import now
from learnback.feedback import metrics
from learnback.feedback.joining import aims, decide
from learnback.ledger import completions, rewards
from learnback.ledger import feedback as signals
from learnback.ledger.database import Database, lock


class Recorder:
    """Handlers of the streams that the ledger keeps; `wake` is called after each commit."""

    def __init__(self, database: Database, wake: Callable[[], None] = lambda: None) -> None:
        self.database = database
        self.wake = wake

    async def completions(self, served: Sequence[CompletionServed]) -> None:
        """Record completions and join the feedback that waits for them, in one transaction."""
        async with self.database.write() as connection:
            await lock(connection, signals.JOIN_LOCK)
            await completions.record(connection, served)
            joined = await join(connection, served)
        metrics.RECORDED.labels(COMPLETIONS.name).inc(len(served))
        for change in joined:
            metrics.JOINED.labels(change.status.value).inc()
        if joined:
            self.wake()

    async def rewards(self, scored: Sequence[CompletionScored]) -> None:
        """Record rewards."""
        async with self.database.write() as connection:
            await rewards.record(connection, scored)
        metrics.RECORDED.labels(REWARDS.name).inc(len(scored))


async def join(
    connection: AsyncConnection, served: Sequence[CompletionServed]
) -> list[signals.Change]:
    """Decide on the feedback that waited for these completions; what was changed."""
    sessions = {name for c in served if (name := completions.stored_name(c.session))}
    waiting = await signals.pending_on(connection, {c.id for c in served}, sessions)
    if not waiting:
        return []
    targets = await completions.targets(
        connection, [aim.completion_id for row in waiting for aim in aims(row.body)]
    )
    known_sessions = await completions.known_sessions(
        connection, [(row.tenant, row.session) for row in waiting if row.session]
    )
    changes: list[signals.Change] = []
    joined_at = (("joined_at", now()),)
    for row in waiting:
        known = [targets.get((row.tenant, aim.completion_id)) for aim in aims(row.body)]
        session_known = (row.tenant, row.session) in known_sessions
        verdict = decide(row.body, known, session_known=session_known)
        if verdict.status is not FeedbackStatus.PENDING_TARGET:
            changes.append(signals.Change(row, verdict.status, verdict.reason, joined_at))
    await signals.change(connection, changes)
    return changes
