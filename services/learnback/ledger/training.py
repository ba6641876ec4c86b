"""What training takes from the ledger and gives back: signals with their answers, and what became
of them.

A run takes signals by writing its id into them, in one transaction; it finishes or releases them
in another. Whoever withdrew or superseded a signal meanwhile keeps the last word on its status.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, and_, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from learnback.contracts.models import TAKEN_BACK, FeedbackKind, FeedbackStatus
from learnback.core.clock import now
from learnback.ledger.database import chunks
from learnback.ledger.tables import completions, feedback, model_versions
from learnback.ledger.trainable import TRAINABLE

LEARNED = (FeedbackStatus.ACCEPTED, FeedbackStatus.TRAINED, FeedbackStatus.HELD_OUT)
"""What a cumulative dataset is made of."""
OUTVOTED = ("contradicted", "raters_disagree", "rater_disagrees_with_others")
"""Why signals were quarantined whose vote still counts: without it the others would seem to agree
ever more from run to run."""


@dataclass(frozen=True)
class Answered:
    """A recorded completion, as far as training needs it."""

    id: str
    version: str
    base_digest: str | None
    """Of the base model under `version`; None if the registry does not know the version."""
    end: str
    stored: bool
    erased: bool
    prompt: Sequence[Mapping[str, Any]]
    prompt_key: str
    choices: Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Signal:
    """A signal with the completions that it is about."""

    id: str
    tenant: str
    kind: FeedbackKind
    status: FeedbackStatus
    received_at: datetime
    rater_id: str | None
    rater_kind: str
    body: Mapping[str, Any]
    choice: int | None
    other_choice: int | None
    completion: Answered | None
    other: Answered | None
    status_reason: str | None = None


@dataclass(frozen=True)
class Outcome:
    """What became of a signal, and why if it was not trained on."""

    status: FeedbackStatus
    reason: str | None = None


StoredPrompt = tuple[str, Sequence[Mapping[str, Any]]]
"""A prompt's key and its messages."""


@dataclass(frozen=True)
class Waiting:
    """How many trainable signals wait, and when one of them last changed: both the same as
    before means that there is nothing new to look at."""

    count: int
    changed_at: datetime | None


async def waiting(connection: AsyncConnection) -> Waiting:
    """Count signals that no run has taken; an index lookup."""
    query = select(func.count(), func.max(feedback.c.changed_at)).where(_is_waiting())
    count, changed_at = (await connection.execute(query)).one()
    return Waiting(count, changed_at)


async def signals(
    connection: AsyncConnection, statuses: Sequence[FeedbackStatus] = LEARNED
) -> list[Signal]:
    """Trainable signals in any of `statuses` with their completions, by id; and those that were
    outvoted, since their votes still count."""
    first, second = completions.alias("first"), completions.alias("second")
    made_first, made_second = (
        model_versions.alias("made_first"),
        model_versions.alias("made_second"),
    )
    joined = (
        feedback.outerjoin(first, _same(first, feedback.c.completion_id))
        .outerjoin(second, _same(second, feedback.c.other_completion_id))
        .outerjoin(made_first, made_first.c.name == first.c.version)
        .outerjoin(made_second, made_second.c.name == second.c.version)
    )
    columns = [
        *(feedback.c[name] for name in _SIGNAL_COLUMNS),
        *_answered_columns(first, made_first, "first"),
        *_answered_columns(second, made_second, "second"),
    ]
    query = (
        select(*columns)
        .select_from(joined)
        .where(
            feedback.c.kind.in_(TRAINABLE),
            or_(
                feedback.c.status.in_(statuses),
                and_(
                    feedback.c.status == FeedbackStatus.QUARANTINED,
                    feedback.c.status_reason.in_(OUTVOTED),
                ),
            ),
        )
        .order_by(feedback.c.id)
    )
    return [_signal(row) for row in (await connection.execute(query)).mappings()]


async def waiting_kinds(connection: AsyncConnection) -> dict[str, int]:
    """How many signals of each kind no run has taken."""
    query = select(feedback.c.kind, func.count()).where(_is_waiting()).group_by(feedback.c.kind)
    return {kind: count for kind, count in await connection.execute(query)}


async def prompts(connection: AsyncConnection, limit: int) -> list[StoredPrompt]:
    """Up to `limit` distinct prompts with a stored answer, by key: since a key is a digest, that
    is the same even sample on every machine."""
    c = completions.c
    distinct = (
        select(func.min(c.id))
        .where(c.stored, c.erased_at.is_(None), c.status_code < 400)
        .group_by(c.prompt_key)
        .order_by(c.prompt_key)
        .limit(limit)
    )
    ids = (await connection.scalars(distinct)).all()
    found: list[StoredPrompt] = []
    for chunk in chunks(ids):
        rows = await connection.execute(select(c.prompt_key, c.prompt).where(c.id.in_(chunk)))
        found += [(key, prompt) for key, prompt in rows]
    return found


async def claim(connection: AsyncConnection, run_id: str, ids: Sequence[str]) -> int:
    """Let a run take signals; the number taken, which is less than asked if some are no longer
    waiting."""
    taken = 0
    for chunk in chunks(ids):
        changed = await connection.execute(
            update(feedback).where(feedback.c.id.in_(chunk), _is_waiting()).values(run_id=run_id)
        )
        taken += changed.rowcount
    return taken


async def release_claims(connection: AsyncConnection, run_id: str) -> int:
    """Give back what a run that came to nothing had taken; how many signals wait again."""
    held = and_(feedback.c.run_id == run_id, feedback.c.trained_version.is_(None))
    still = and_(held, feedback.c.status == FeedbackStatus.ACCEPTED)
    count = (await connection.execute(select(func.count()).where(still))).scalar_one()
    await connection.execute(update(feedback).where(held).values(run_id=None))
    return int(count)


async def finish(
    connection: AsyncConnection, run_id: str, outcomes: Mapping[str, Outcome], version: str
) -> dict[str, int]:
    """Write what became of each signal that the run had taken, and count by status.

    A signal that was withdrawn, superseded or erased meanwhile keeps that status; if it was
    trained on it still names the version, since the weights have seen it.
    """
    for outcome, ids in _by_outcome(outcomes).items():
        trained = version if outcome.status == FeedbackStatus.TRAINED else None
        for chunk in chunks(ids):
            mine = and_(feedback.c.id.in_(chunk), feedback.c.run_id == run_id)
            await _settle(connection, mine, outcome, trained)
            if trained:
                await connection.execute(
                    update(feedback).where(mine).values(trained_version=trained)
                )
    query = (
        select(feedback.c.status, func.count())
        .where(feedback.c.run_id == run_id)
        .group_by(feedback.c.status)
    )
    return {status: count for status, count in await connection.execute(query)}


async def record(connection: AsyncConnection, outcomes: Mapping[str, Outcome]) -> int:
    """Settle waiting signals that no run can use; the number that were still waiting."""
    settled = 0
    for outcome, ids in _by_outcome(outcomes).items():
        for chunk in chunks(ids):
            untaken = and_(feedback.c.id.in_(chunk), feedback.c.run_id.is_(None))
            settled += await _settle(connection, untaken, outcome, None)
    return settled


async def explain(connection: AsyncConnection, waits: Mapping[str, Outcome]) -> None:
    """Say of waiting signals why they wait. That is a note: neither the status nor the revision
    changes, so nobody is told."""
    for outcome, ids in _by_outcome(waits).items():
        for chunk in chunks(ids):
            await connection.execute(
                update(feedback)
                .where(feedback.c.id.in_(chunk), feedback.c.status == FeedbackStatus.ACCEPTED)
                .values(status_reason=outcome.reason)
            )


async def taken_back(connection: AsyncConnection, run_id: str) -> int:
    """How many signals that a run had taken were withdrawn, superseded or erased meanwhile."""
    query = select(func.count()).where(
        feedback.c.run_id == run_id, feedback.c.status.in_(TAKEN_BACK)
    )
    return int((await connection.execute(query)).scalar_one())


async def count_taken_back(connection: AsyncConnection, ids: Iterable[str]) -> int:
    """How many of these signals were withdrawn, superseded or erased."""
    count = 0
    for chunk in chunks(list(ids)):
        query = select(func.count()).where(
            feedback.c.id.in_(chunk), feedback.c.status.in_(TAKEN_BACK)
        )
        count += (await connection.execute(query)).scalar_one()
    return count


async def _settle(
    connection: AsyncConnection,
    which: ColumnElement[bool],
    outcome: Outcome,
    trained: str | None,
) -> int:
    changed = await connection.execute(
        update(feedback)
        .where(which, feedback.c.status == FeedbackStatus.ACCEPTED)
        .values(
            status=outcome.status,
            status_reason=outcome.reason,
            trained_version=trained,
            revision=feedback.c.revision + 1,
            changed_at=now(),
        )
    )
    return int(changed.rowcount)


_SIGNAL_COLUMNS = [
    "id",
    "tenant",
    "kind",
    "status",
    "received_at",
    "rater_id",
    "rater_kind",
    "body",
    "choice",
    "other_choice",
    "status_reason",
]
_ANSWERED_COLUMNS = [
    "id",
    "version",
    "end",
    "stored",
    "prompt",
    "prompt_key",
    "choices",
    "erased_at",
]


def _is_waiting() -> ColumnElement[bool]:
    return and_(
        feedback.c.status == FeedbackStatus.ACCEPTED,
        feedback.c.kind.in_(TRAINABLE),
        feedback.c.run_id.is_(None),
    )


def _same(completion: Any, target: Any) -> ColumnElement[bool]:
    """Never join another tenant's completion."""
    return and_(completion.c.id == target, completion.c.tenant == feedback.c.tenant)


def _answered_columns(completion: Any, made: Any, side: str) -> list[Any]:
    columns = [completion.c[name].label(f"{side}_{name}") for name in _ANSWERED_COLUMNS]
    return [*columns, made.c.base_digest.label(f"{side}_base_digest")]


def _signal(row: Any) -> Signal:
    own = {name: row[name] for name in _SIGNAL_COLUMNS}
    own["kind"], own["status"] = FeedbackKind(row["kind"]), FeedbackStatus(row["status"])
    return Signal(**own, completion=_answered(row, "first"), other=_answered(row, "second"))


def _answered(row: Any, side: str) -> Answered | None:
    if row[f"{side}_id"] is None:
        return None
    found = {name: row[f"{side}_{name}"] for name in (*_ANSWERED_COLUMNS, "base_digest")}
    return Answered(erased=found.pop("erased_at") is not None, **found)


def _by_outcome(outcomes: Mapping[str, Outcome]) -> dict[Outcome, list[str]]:
    grouped: dict[Outcome, list[str]] = {}
    for feedback_id, outcome in outcomes.items():
        grouped.setdefault(outcome, []).append(feedback_id)
    return grouped
