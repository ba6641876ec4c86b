"""What both versions answered in an evaluation: for its report, as long as the prompts are stored.

Prompts are people's words, so erasing the last completion of a prompt erases it here too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict
from sqlalchemy import delete, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from learnback.ledger.tables import completions, evaluation_answers
from learnback.ledger.types import storable


class Pair(BaseModel):
    """A held-out prompt with both answers and their rewards."""

    model_config = ConfigDict(frozen=True, from_attributes=True)

    prompt_key: str
    prompt: list[dict[str, Any]]
    candidate: str
    stable: str
    candidate_reward: float
    stable_reward: float

    @property
    def gain(self) -> float:
        """By how much the candidate's answer is better, by the reward model."""
        return self.candidate_reward - self.stable_reward


async def keep(connection: AsyncConnection, version: str, pairs: Sequence[Pair]) -> int:
    """Replace a version's pairs by these; without those whose prompt was erased meanwhile."""
    await connection.execute(
        delete(evaluation_answers).where(evaluation_answers.c.version == version)
    )
    stored = await _stored(connection, [pair.prompt_key for pair in pairs])
    rows = [
        {"version": version, **storable(pair.model_dump())}
        for pair in pairs
        if pair.prompt_key in stored
    ]
    if rows:
        await connection.execute(insert(evaluation_answers), rows)
    return len(rows)


async def pairs_of(connection: AsyncConnection, version: str) -> list[Pair]:
    """A version's pairs, by prompt."""
    table = evaluation_answers
    query = select(table).where(table.c.version == version).order_by(table.c.prompt_key)
    return [Pair.model_validate(row) for row in await connection.execute(query)]


async def forget(connection: AsyncConnection, prompt_key: str) -> None:
    """Drop a prompt with its answers, unless somebody else asked the same and is still stored."""
    if prompt_key not in await _stored(connection, [prompt_key]):
        await connection.execute(
            delete(evaluation_answers).where(evaluation_answers.c.prompt_key == prompt_key)
        )


async def _stored(connection: AsyncConnection, keys: Sequence[str]) -> set[str]:
    c = completions.c
    query = select(c.prompt_key).where(
        c.prompt_key.in_(keys), c.stored, c.erased_at.is_(None), c.prompt_key != ""
    )
    return set(await connection.scalars(query.distinct()))
