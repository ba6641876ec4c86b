"""Prompts that evaluations use: real ones, kept out of training for ever."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from learnback.core.settings import HELD_OUT_SHARE
from learnback.ledger.prompts import prompt_held_out
from learnback.ledger.tables import completions

PAGE = 500
MAX_SCANNED = 20_000
"""Completions looked at per tenant: a fifth of the prompts is held out, so far fewer suffice."""


@dataclass(frozen=True)
class HeldOutPrompt:
    """A prompt that somebody sent: `key` is what "the same prompt" means."""

    key: str
    messages: tuple[dict[str, Any], ...]
    created_at: datetime


async def held_out_prompts(
    connection: AsyncConnection, limit: int, share: float = HELD_OUT_SHARE
) -> list[HeldOutPrompt]:
    """Up to `limit` distinct held-out prompts with text only, newest first, of all tenants.

    Only what was stored and not erased. Tenants are read one by one, along their index.
    """
    tenants = await connection.scalars(select(completions.c.tenant).distinct())
    found: dict[str, HeldOutPrompt] = {}
    for tenant in tenants.all():
        for prompt in await _of_tenant(connection, tenant, limit, share):
            known = found.get(prompt.key)
            if known is None or known.created_at < prompt.created_at:
                found[prompt.key] = prompt
    newest = sorted(found.values(), key=lambda p: (p.created_at, p.key), reverse=True)
    return newest[:limit]


async def _of_tenant(
    connection: AsyncConnection, tenant: str, limit: int, share: float
) -> list[HeldOutPrompt]:
    found: dict[str, HeldOutPrompt] = {}
    last: Any = None
    for _ in range(MAX_SCANNED // PAGE):
        rows = await _page(connection, tenant, last)
        for row in rows:
            if len(found) < limit and row.prompt_key not in found and _usable(row, share):
                found[row.prompt_key] = HeldOutPrompt(
                    row.prompt_key, tuple(row.prompt), row.created_at
                )
        if len(found) >= limit or len(rows) < PAGE:
            break
        last = rows[-1]
    return list(found.values())


async def _page(connection: AsyncConnection, tenant: str, last: Any) -> Sequence[Any]:
    c = completions.c
    query = (
        select(c.id, c.created_at, c.prompt_key, c.prompt, c.stored, c.erased_at, c.status_code)
        .where(c.tenant == tenant)
        .order_by(c.created_at.desc(), c.id.desc())
        .limit(PAGE)
    )
    if last is not None:
        query = query.where(tuple_(c.created_at, c.id) < (last.created_at, last.id))
    return (await connection.execute(query)).all()


def _usable(row: Any, share: float) -> bool:
    kept = row.stored and row.erased_at is None and row.status_code < 400
    return bool(kept and prompt_held_out(row.prompt_key, share) and is_text_prompt(row.prompt))


def is_text_prompt(messages: Sequence[dict[str, Any]]) -> bool:
    """Whether these are messages in text only that end with the user's turn."""
    if not messages or messages[-1].get("role") != "user":
        return False
    return all(
        m.get("role") in {"system", "developer", "user", "assistant"}
        and not m.get("tool_calls")
        and _is_text(m.get("content"))
        for m in messages
    )


def _is_text(content: Any) -> bool:
    if isinstance(content, str):
        return bool(content.strip())
    return isinstance(content, list) and all(
        isinstance(part, dict) and part.get("type") == "text" for part in content
    )
