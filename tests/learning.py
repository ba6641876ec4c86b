"""Completions and preferences in a ledger, and a training job of a second that learns nothing."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection
from tests.factories import AT

from learnback.contracts.messages import CompletionServed
from learnback.contracts.models import Choice, CompletionEnd, Timings, Track
from learnback.ledger import completions
from learnback.ledger.database import Database
from learnback.ledger.feedback import add
from learnback.ledger.prompts import prompt_held_out, prompt_key
from learnback.ledger.tables import feedback

JOB = [sys.executable, str(Path(__file__).parent / "quick_job.py")]
"""Behaves as the environment variable QUICK_JOB says, see there."""


def a_completion(name: str, prompt: str = "hi", *texts: str, **changes: Any) -> CompletionServed:
    values: dict[str, Any] = {
        "id": name,
        "tenant": "default",
        "created_at": AT,
        "endpoint": "chat.completions",
        "version": "tiny-base",
        "track": Track.STABLE,
        "probability": 1.0,
        "end": CompletionEnd.COMPLETE,
        "status_code": 200,
        "streamed": False,
        "stored": True,
        "prompt": ({"role": "user", "content": prompt},),
        "choices": tuple(
            Choice(index=i, text=text, finish_reason="stop")
            for i, text in enumerate(texts or ("good answer", "bad"))
        ),
        "timings": Timings(duration_s=0.1),
    }
    return CompletionServed(**values | changes)


def a_signal(name: str, completion: str, **changes: Any) -> dict[str, Any]:
    """A row: the completion's first choice was preferred to its second."""
    values: dict[str, Any] = dict.fromkeys(column.name for column in feedback.columns)
    values |= {
        "id": name,
        "tenant": "default",
        "kind": "preference",
        "status": "accepted",
        "revision": 1,
        "completion_id": completion,
        "choice": 0,
        "other_completion_id": completion,
        "other_choice": 1,
        "rater_kind": "human",
        "body": {
            "kind": "preference",
            "first": {"completion_id": completion, "choice": 0},
            "second": {"completion_id": completion, "choice": 1},
            "preferred": "first",
            "strength": 1.0,
        },
        "created_at": AT,
        "received_at": AT,
        "changed_at": AT,
    }
    return values | changes


async def tell(database: Database, count: int, prefix: str = "f", **changes: Any) -> list[str]:
    """Store `count` preferences about as many prompts; their ids."""
    ids = [f"{prefix}{i:03}" for i in range(count)]
    whose = {"tenant": changes.get("tenant", "default")}
    async with database.write() as connection:
        await completions.record(
            connection,
            [
                a_completion(f"c-{i}", f"about {i}?", f"a fine answer on {i}.", f"no {i}", **whose)
                for i in ids
            ],
        )
        await add(connection, [a_signal(i, f"c-{i}", **changes) for i in ids])
    return ids


def held_out(ids: list[str], share: float = 0.2) -> set[str]:
    """Those of `tell`'s signals whose prompt is kept for evaluation."""
    keys = {i: prompt_key([{"role": "user", "content": f"about {i}?"}]) for i in ids}
    return {i for i, key in keys.items() if prompt_held_out(key, share)}


async def statuses(connection: AsyncConnection) -> dict[str, int]:
    """How many signals there are of each status."""
    query = select(feedback.c.status, func.count()).group_by(feedback.c.status)
    return {status: count for status, count in await connection.execute(query)}


async def signal_rows(database: Database) -> dict[str, Any]:
    """All feedback rows by id."""
    async with database.read() as connection:
        return {row.id: row for row in await connection.execute(select(feedback))}
