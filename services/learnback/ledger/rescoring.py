"""Old completions that a reward model has not scored, and who asked that it does.

A dataset, an evaluation or an operator asks by a row; the reward process, the one writer of the
stream `rewards`, works rows off; the feedback process records what comes of it. So nobody else
needs a reward model in memory, and a score is the same whoever wanted it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, and_, delete, func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from learnback.contracts.messages import CompletionServed
from learnback.contracts.models import CompletionEnd, Timings
from learnback.core.clock import now
from learnback.core.ids import digest_text
from learnback.ledger.database import chunks, insert_new
from learnback.ledger.tables import completions, rescorings, rewards

OPEN = "asked", "running"
SCORER = "model"
KEPT = timedelta(days=7)
"""From the end of a wish until its row goes: people look at what became of theirs."""
RECORDED_WITHIN = timedelta(seconds=30)
"""From the end of a wish until its last scores are in the ledger: the feedback process's lag."""


@dataclass(frozen=True)
class Rescoring:
    """A wish for scores; `completion_ids` None: of all completions since `since`."""

    id: str
    reward_model: str
    since: datetime | None
    completion_ids: tuple[str, ...] | None
    state: str
    error: str | None
    asked_by: str
    asked_at: datetime
    position: str
    """The last completion that was looked at: a process that takes over goes on after it."""
    scored: int
    failed: int
    changed_at: datetime


async def ask(
    connection: AsyncConnection,
    reward_model: str,
    *,
    asked_by: str,
    since: datetime | None = None,
    ids: Sequence[str] | None = None,
) -> Rescoring | None:
    """Ask that completions without a score by `reward_model` get one; None if all have theirs.

    Idempotent: the same wish is the same row, however much of it is done by then. One that ended
    is opened again if something is missing and there was time to record it. A choice that the
    model could not judge counts as done: its reward says why.
    """
    lacking = None if ids is None else tuple(await _lacking(connection, reward_model, ids))
    at = now()
    wish = Rescoring(
        id=_id(reward_model, since, None if ids is None else sorted(set(ids))),
        reward_model=reward_model,
        since=since,
        completion_ids=lacking,
        state="asked",
        error=None,
        asked_by=asked_by,
        asked_at=at,
        position="",
        scored=0,
        failed=0,
        changed_at=at,
    )
    if not await remaining(connection, wish):
        return None
    values = _values(wish)
    await connection.execute(insert_new(connection, rescorings).values(**values))
    ended = and_(rescorings.c.id == wish.id, rescorings.c.state.not_in(OPEN))
    recorded = rescorings.c.changed_at < at - RECORDED_WITHIN
    await connection.execute(update(rescorings).where(ended, recorded).values(**values))
    return await get(connection, wish.id)


async def get(connection: AsyncConnection, rescoring_id: str) -> Rescoring | None:
    """One wish as it stands."""
    query = select(rescorings).where(rescorings.c.id == rescoring_id)
    row = (await connection.execute(query)).first()
    return _rescoring(row) if row else None


async def oldest_open(connection: AsyncConnection) -> Rescoring | None:
    """What to work on next."""
    query = (
        select(rescorings)
        .where(rescorings.c.state.in_(OPEN))
        .order_by(rescorings.c.asked_at, rescorings.c.id)
        .limit(1)
    )
    row = (await connection.execute(query)).first()
    return _rescoring(row) if row else None


async def newest(connection: AsyncConnection, limit: int = 20) -> list[Rescoring]:
    """The wishes that were asked last."""
    query = select(rescorings).order_by(rescorings.c.asked_at.desc()).limit(limit)
    return [_rescoring(row) for row in await connection.execute(query)]


async def change(connection: AsyncConnection, rescoring_id: str, **values: Any) -> None:
    """Say how far it is. As one ends, those go that ended long ago: so the table stays small."""
    at = now()
    await connection.execute(
        update(rescorings).where(rescorings.c.id == rescoring_id).values(changed_at=at, **values)
    )
    if values.get("state", OPEN[0]) not in OPEN:
        c = rescorings.c
        await connection.execute(
            delete(rescorings).where(c.state.not_in(OPEN), c.changed_at < at - KEPT)
        )


async def remaining(connection: AsyncConnection, wish: Rescoring) -> int:
    """How many of its completions have a choice without a recorded score."""
    found = 0
    for only in _parts(wish):
        query = select(func.count()).select_from(completions).where(*_lacks(connection, wish, only))
        found += int((await connection.execute(query)).scalar_one())
    return found


@dataclass(frozen=True)
class Page:
    """Completions to score, and where they leave off."""

    served: tuple[CompletionServed, ...]
    position: str


async def page(connection: AsyncConnection, wish: Rescoring, limit: int) -> Page | None:
    """The next completions to score, in the order of their ids; None at the end."""
    if wish.completion_ids is None:
        served = await _next(connection, wish, limit, completions.c.id > wish.position)
        return Page(tuple(served), served[-1].id) if served else None
    ids = wish.completion_ids
    start = ids.index(wish.position) + 1 if wish.position else 0
    portion = ids[start : start + limit]
    if not portion:
        return None
    served = await _next(connection, wish, limit, completions.c.id.in_(portion))
    return Page(tuple(served), portion[-1])


async def _next(
    connection: AsyncConnection, wish: Rescoring, limit: int, where: ColumnElement[bool]
) -> list[CompletionServed]:
    query = (
        select(completions)
        .where(*_lacks(connection, wish, None), where)
        .order_by(completions.c.id)
        .limit(limit)
    )
    return [_served(row) for row in await connection.execute(query)]


async def scores_of(
    connection: AsyncConnection, reward_model: str, ids: Sequence[str]
) -> dict[tuple[str, int], float | None]:
    """What `reward_model` gave, by completion and choice; None: it could not judge. Missing: ask.

    Erased completions have none.
    """
    found: dict[tuple[str, int], float | None] = {}
    r = rewards.c
    for part in chunks(ids):
        query = select(r.completion_id, r.choice, r.score).where(
            r.completion_id.in_(part), r.scorer == SCORER, r.scorer_version == reward_model
        )
        for row in await connection.execute(query):
            found[row.completion_id, row.choice] = row.score
    return found


async def _lacking(connection: AsyncConnection, reward_model: str, ids: Sequence[str]) -> list[str]:
    found: list[str] = []
    for part in chunks(sorted(set(ids))):
        query = select(completions.c.id).where(
            completions.c.id.in_(part), *_unscored(connection, reward_model)
        )
        found += (await connection.scalars(query)).all()
    return sorted(found)


def _lacks(
    connection: AsyncConnection, wish: Rescoring, only: Sequence[str] | None
) -> list[ColumnElement[bool]]:
    conditions = _unscored(connection, wish.reward_model)
    if wish.since is not None:
        conditions.append(completions.c.created_at >= wish.since)
    if only is not None:
        conditions.append(completions.c.id.in_(only))
    return conditions


def _unscored(connection: AsyncConnection, reward_model: str) -> list[ColumnElement[bool]]:
    """Kept text, and fewer scores by the model than choices."""
    scores = (
        select(func.count())
        .where(
            rewards.c.completion_id == completions.c.id,
            rewards.c.scorer == SCORER,
            rewards.c.scorer_version == reward_model,
        )
        .scalar_subquery()
    )
    sqlite = connection.dialect.name == "sqlite"
    length = func.json_array_length if sqlite else func.jsonb_array_length
    return [
        completions.c.stored.is_(True),
        completions.c.erased_at.is_(None),
        completions.c.end != CompletionEnd.REFUSED.value,
        scores < length(completions.c.choices),
    ]


def _parts(wish: Rescoring) -> Iterable[Sequence[str] | None]:
    """The ids in portions that a query takes; None once: no ids are named."""
    return [None] if wish.completion_ids is None else chunks(wish.completion_ids)


def _id(reward_model: str, since: datetime | None, ids: Sequence[str] | None) -> str:
    said = [reward_model, since.isoformat() if since else "", *(["*"] if ids is None else ids)]
    return f"rescore_{digest_text(chr(0).join(said))[:24]}"


def _values(wish: Rescoring) -> dict[str, Any]:
    return vars(wish) | {
        "completion_ids": None if wish.completion_ids is None else list(wish.completion_ids)
    }


def _rescoring(row: Any) -> Rescoring:
    values: Mapping[str, Any] = row._mapping
    ids = values["completion_ids"]
    return Rescoring(**{**values, "completion_ids": None if ids is None else tuple(ids)})


def _served(row: Any) -> CompletionServed:
    """A recorded completion as the message that told of it, as far as scoring needs it."""
    values = {name: row._mapping[name] for name in _SERVED_COLUMNS}
    return CompletionServed(**values, timings=Timings(duration_s=row.duration_s))


_SERVED_COLUMNS = (
    *("id", "tenant", "created_at", "endpoint", "version", "track", "probability", "end"),
    *("status_code", "streamed", "stored", "prompt", "choices"),
)
