"""Rewards: what scorers gave to answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from learnback.contracts.messages import CompletionScored
from learnback.ledger.database import insert_new
from learnback.ledger.tables import rewards
from learnback.ledger.types import storable


async def record(connection: AsyncConnection, scored: Sequence[CompletionScored]) -> None:
    """Add rewards. The same reward again is a repeat, and the first entry stands."""
    rows = {
        message.key: {
            "completion_id": message.completion_id,
            "choice": message.choice,
            "scorer": message.scorer,
            "scorer_version": message.scorer_version,
            "tenant": message.tenant,
            "version": message.version,
            "track": message.track.value,
            "score": storable(message.score),
            "error": storable(message.error),
            "components": storable(message.components),
            "created_at": message.at,
        }
        for message in reversed(scored)
    }
    if rows:
        await connection.execute(insert_new(connection, rewards), list(rows.values()))


async def of_completion(
    connection: AsyncConnection, tenant: str, completion_id: str
) -> list[dict[str, Any]]:
    """The rewards of one completion, oldest first."""
    query = (
        select(
            rewards.c.choice,
            rewards.c.scorer,
            rewards.c.scorer_version,
            rewards.c.score,
            rewards.c.error,
            rewards.c.components,
            rewards.c.created_at,
        )
        .where(rewards.c.tenant == tenant, rewards.c.completion_id == completion_id)
        .order_by(rewards.c.created_at, rewards.c.scorer)
    )
    return [dict(row._mapping) for row in await connection.execute(query)]
