"""What the ledger knows of people during a canary: their completions, rewards and feedback."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import func, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from learnback.contracts.models import (
    TAKEN_BACK,
    CompletionEnd,
    FeedbackStatus,
    RaterKind,
    Track,
)
from learnback.ledger.database import chunks
from learnback.ledger.tables import completions, feedback, rewards

BROKEN = (CompletionEnd.ENGINE_ERROR.value, CompletionEnd.REFUSED.value)
WEIGHT_DIGITS = 9
"""1 - (1 - 0.1) is not 0.1; a share of one in a billion is nobody."""
NOT_COUNTED = TAKEN_BACK | {FeedbackStatus.QUARANTINED}
"""Signals that speak for no version and no example."""


@dataclass(frozen=True)
class Served:
    """One completion as far as a canary looks at it."""

    id: str
    at: datetime
    subject: str | None
    candidate: bool
    weight: float
    """Its version's share of people, if it is the candidate's, or what the other one leaves."""
    failed: bool
    abandoned: bool
    first_byte_s: float | None


@dataclass(frozen=True)
class Pair:
    """One request that both versions answered."""

    stable: Served
    candidate: Served
    first: bool | None = None
    """Whether the candidate's answer stood first; None: nobody saw it."""


@dataclass(frozen=True)
class Signal:
    """What somebody said of a completion; `body` as it was sent."""

    completion_id: str
    other_completion_id: str | None
    kind: str
    at: datetime
    body: dict[str, Any]


async def served_between(
    connection: AsyncConnection, version: str, after: datetime, until: datetime
) -> list[Served]:
    """Completions that were assigned by chance and recorded in a span, oldest first; `candidate`
    are those of `version`, whichever alias named it.

    By when they were recorded, since an answer may take long. `after` is exclusive, `until`
    inclusive. What was refused before a version was drawn is in no record; what the engine refused
    afterwards counts as failed.
    """
    c = completions.c
    query = (
        select(
            c.id,
            c.created_at,
            c.subject,
            c.version,
            c.probability,
            c.end,
            c.status_code,
            c.first_byte_s,
        )
        .where(
            c.recorded_at > after,
            c.recorded_at <= until,
            c.track.in_([Track.STABLE.value, Track.CANDIDATE.value]),
        )
        .order_by(c.created_at, c.id)
    )
    return [_served(row, version) for row in await connection.execute(query)]


def _served(row: Any, version: str) -> Served:
    candidate = row.version == version
    abandoned = row.end == CompletionEnd.CLIENT_DISCONNECTED.value
    broken = row.end in BROKEN or row.status_code >= 500
    return Served(
        id=row.id,
        at=row.created_at,
        subject=row.subject,
        candidate=candidate,
        weight=round(row.probability if candidate else 1.0 - row.probability, WEIGHT_DIGITS),
        failed=broken and not abandoned,
        abandoned=abandoned,
        first_byte_s=row.first_byte_s,
    )


async def copies_between(
    connection: AsyncConnection, version: str, after: datetime, until: datetime
) -> list[Pair]:
    """What `version` answered to copies of requests and was recorded in a span, oldest first."""
    stable, candidate = completions.alias("stable"), completions.alias("candidate")
    query = _pairs(stable, candidate, version, after, until).where(
        candidate.c.track == Track.MIRRORED.value, stable.c.id == candidate.c.pair
    )
    return [_pair(row) for row in (await connection.execute(query)).mappings()]


async def compared_between(
    connection: AsyncConnection, version: str, after: datetime, until: datetime
) -> list[Pair]:
    """Answers of `version` and of stable that were shown side by side, as `copies_between`."""
    stable, candidate = completions.alias("stable"), completions.alias("candidate")
    query = _pairs(stable, candidate, version, after, until).where(
        candidate.c.track == Track.COMPARED.value,
        stable.c.pair == candidate.c.pair,
        stable.c.id != candidate.c.id,
    )
    return [_pair(row) for row in (await connection.execute(query)).mappings()]


def _pairs(stable: Any, candidate: Any, version: str, after: datetime, until: datetime) -> Any:
    """Both answers in one row; which two belong together is left to say.

    `after` is exclusive, `until` inclusive; both answers are recorded within moments.
    """
    return (
        select(
            *(c.label(f"stable_{c.name}") for c in _outcome(stable)),
            *(c.label(f"candidate_{c.name}") for c in _outcome(candidate)),
        )
        .where(
            candidate.c.version == version,
            stable.c.tenant == candidate.c.tenant,
            candidate.c.recorded_at > after,
            candidate.c.recorded_at <= until,
        )
        .order_by(stable.c.created_at, stable.c.id)
    )


def _outcome(table: Any) -> list[Any]:
    c = table.c
    return [c.id, c.created_at, c.subject, c.end, c.first_byte_s, c.place]


def _pair(row: Any) -> Pair:
    place = row["candidate_place"]
    first = None if place is None else place == 0
    return Pair(_side(row, "stable"), _side(row, "candidate"), first)


def _side(row: Any, name: str) -> Served:
    return Served(
        id=row[f"{name}_id"],
        at=row[f"{name}_created_at"],
        subject=row[f"{name}_subject"],
        candidate=name == "candidate",
        weight=0.0,
        failed=row[f"{name}_end"] != CompletionEnd.COMPLETE.value,
        abandoned=False,
        first_byte_s=row[f"{name}_first_byte_s"],
    )


async def people_with(connection: AsyncConnection, version: str, since: datetime) -> int:
    """How many people have got an answer of `version` by chance or beside stable's, by now."""
    c = completions.c
    query = select(func.count(func.distinct(func.coalesce(c.subject, c.id)))).where(
        c.version == version,
        c.created_at >= since,
        c.track.in_([Track.CANDIDATE.value, Track.COMPARED.value]),
    )
    return int(await connection.scalar(query) or 0)


async def learned_rewards(
    connection: AsyncConnection, ids: Sequence[str]
) -> dict[str, tuple[str, float]]:
    """The newest learned reward of each completion's first choice: reward model and score."""
    found: dict[str, tuple[str, float]] = {}
    for part in chunks(ids):
        query = (
            select(rewards.c.completion_id, rewards.c.scorer_version, rewards.c.score)
            .where(
                rewards.c.completion_id.in_(part),
                rewards.c.choice == 0,
                rewards.c.scorer == "model",
                rewards.c.score.is_not(None),
            )
            .order_by(rewards.c.created_at)
        )
        for row in await connection.execute(query):
            found[row.completion_id] = (row.scorer_version, row.score)
    return found


async def recent_rewards(
    connection: AsyncConnection, version: str, reward_model: str, limit: int
) -> list[float]:
    """The newest rewards that a reward model gave to a version's answers."""
    query = (
        select(rewards.c.score)
        .where(
            rewards.c.version == version,
            rewards.c.scorer == "model",
            rewards.c.scorer_version == reward_model,
            rewards.c.score.is_not(None),
        )
        .order_by(rewards.c.created_at.desc())
        .limit(limit)
    )
    return [float(score) for score in (await connection.scalars(query)).all()]


async def signals_about(connection: AsyncConnection, ids: Sequence[str]) -> list[Signal]:
    """What people said of completions and did not take back, in the order in which it came."""
    found: dict[str, Signal] = {}
    f = feedback.c
    for part in chunks(ids):
        query = select(
            f.id, f.completion_id, f.other_completion_id, f.kind, f.received_at, f.body
        ).where(
            or_(f.completion_id.in_(part), f.other_completion_id.in_(part)),
            f.rater_kind == RaterKind.HUMAN.value,
            f.status.not_in([status.value for status in NOT_COUNTED]),
        )
        for row in await connection.execute(query):
            found[row.id] = Signal(
                row.completion_id, row.other_completion_id, row.kind, row.received_at, row.body
            )
    return sorted(found.values(), key=lambda s: s.at)
