"""Completions: what was answered, as the inference process told it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, func, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncConnection

from learnback.contracts.messages import CompletionServed
from learnback.contracts.models import Track
from learnback.core.clock import now
from learnback.core.errors import Unprocessable
from learnback.ledger import evaluations
from learnback.ledger.database import insert_new
from learnback.ledger.prompts import prompt_key
from learnback.ledger.tables import completions
from learnback.ledger.types import storable

LONGEST_NAME = 200


@dataclass(frozen=True)
class Target:
    """What feedback needs to know of a completion. `choices` are the indices that it has."""

    id: str
    tenant: str
    prompt_key: str
    choices: frozenset[int]
    stored: bool
    erased: bool


async def record(connection: AsyncConnection, served: Sequence[CompletionServed]) -> None:
    """Add completions. The same id again is a repeat, and the first entry stands."""
    rows = {message.id: _row(message) for message in reversed(served)}
    if rows:
        await connection.execute(insert_new(connection, completions), list(rows.values()))


def _row(message: CompletionServed) -> dict[str, Any]:
    """A message as a row."""
    prompt = storable(list(message.prompt))
    return {
        "id": message.id,
        "tenant": message.tenant,
        "created_at": message.created_at,
        "endpoint": message.endpoint,
        "version": message.version,
        "track": message.track.value,
        "probability": message.probability,
        "end": message.end.value,
        "status_code": message.status_code,
        "streamed": message.streamed,
        "stored": message.stored,
        "prompt": prompt,
        "prompt_key": prompt_key(prompt),
        "choices": storable([choice.model_dump(mode="json") for choice in message.choices]),
        "parameters": storable(message.parameters),
        "subject": stored_name(message.subject),
        "session": stored_name(message.session),
        "metadata": storable(message.metadata),
        "prompt_tokens": message.usage.prompt_tokens,
        "completion_tokens": message.usage.completion_tokens,
        "first_byte_s": message.timings.first_byte_s,
        "duration_s": message.timings.duration_s,
        "recorded_at": now(),
        "erased_at": None,
        "prompting": _prompting(message),
        "pair": message.pair,
        "place": message.place,
    }


def _prompting(message: CompletionServed) -> dict[str, Any] | None:
    """What a prompt strategy did to the request; None: nothing, or the version has none."""
    if message.prompt_strategy is None and message.strategy_skipped is None:
        return None
    return {
        "strategy": message.prompt_strategy,
        "examples": list(message.examples),
        "skipped": message.strategy_skipped,
    }


def stored_name(text: str | None) -> str | None:
    """A caller's name for a session or a subject as the ledger keeps it."""
    return None if text is None else str(storable(text))[:LONGEST_NAME]


async def targets(connection: AsyncConnection, ids: Iterable[str]) -> dict[tuple[str, str], Target]:
    """The recorded completions among `ids`, by tenant and id."""
    wanted = sorted(set(ids))
    if not wanted:
        return {}
    query = select(
        completions.c.id,
        completions.c.tenant,
        completions.c.prompt_key,
        completions.c.choices,
        completions.c.stored,
        completions.c.erased_at,
    ).where(completions.c.id.in_(wanted))
    return {
        (row.tenant, row.id): Target(
            row.id,
            row.tenant,
            row.prompt_key,
            frozenset(int(choice["index"]) for choice in row.choices),
            row.stored,
            row.erased_at is not None,
        )
        for row in await connection.execute(query)
    }


async def known_sessions(
    connection: AsyncConnection, wanted: Iterable[tuple[str, str]]
) -> set[tuple[str, str]]:
    """Those (tenant, session) of which a completion is recorded."""
    pairs = sorted(set(wanted))
    if not pairs:
        return set()
    query = (
        select(completions.c.tenant, completions.c.session)
        .where(tuple_(completions.c.tenant, completions.c.session).in_(pairs))
        .distinct()
    )
    return {(row.tenant, row.session) for row in await connection.execute(query)}


async def find(
    connection: AsyncConnection, tenant: str, completion_id: str, *, lock: bool = False
) -> Row[Any] | None:
    """A completion of a tenant, erased ones included; `lock` keeps it for this transaction."""
    query = select(completions).where(
        completions.c.tenant == tenant, completions.c.id == completion_id
    )
    return (await connection.execute(query.with_for_update() if lock else query)).first()


async def page(
    connection: AsyncConnection,
    tenant: str,
    *,
    metadata: Mapping[str, str],
    session: str | None,
    version: str | None,
    after: str | None,
    limit: int,
) -> list[Row[Any]]:
    """Completions that people saw and that are not erased, newest first; `after` is the id of the
    last one seen."""
    query = (
        select(completions)
        .where(
            completions.c.tenant == tenant,
            completions.c.erased_at.is_(None),
            completions.c.track != Track.MIRRORED.value,
        )
        .order_by(completions.c.created_at.desc(), completions.c.id.desc())
        .limit(limit)
    )
    for key, value in metadata.items():
        query = query.where(completions.c.metadata[key].as_string() == value)
    if session is not None:
        query = query.where(completions.c.session == session)
    if version is not None:
        query = query.where(completions.c.version == version)
    if after is not None:
        last = await find(connection, tenant, after)
        if last is None:
            raise Unprocessable("There is no such completion to go on from.", field="after")
        place = tuple_(completions.c.created_at, completions.c.id)
        query = query.where(place < (last.created_at, last.id))
    return list((await connection.execute(query)).all())


async def erase(connection: AsyncConnection, tenant: str, completion_id: str) -> None:
    """Empty a completion for ever; what is left says that it was there and how it was served."""
    mine = (completions.c.tenant == tenant, completions.c.id == completion_id)
    key = await connection.scalar(select(completions.c.prompt_key).where(*mine))
    await connection.execute(
        update(completions)
        .where(*mine)
        .values(
            prompt=[],
            prompt_key="",
            choices=[],
            parameters={},
            subject=None,
            session=None,
            metadata={},
            prompting=None,
            erased_at=func.coalesce(completions.c.erased_at, now()),
        )
    )
    if key:
        await evaluations.forget(connection, key)
