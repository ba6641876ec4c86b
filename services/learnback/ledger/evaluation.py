"""Prompts that evaluations use, and what people said of answers to them: real ones, kept out of
training for ever."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import and_, select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from learnback.contracts.models import FeedbackKind, FeedbackStatus, Preferred
from learnback.core.settings import HELD_OUT_SHARE
from learnback.ledger.prompts import opening_key, prompt_held_out
from learnback.ledger.tables import completions, feedback

PAGE = 500
USABLE = (FeedbackStatus.ACCEPTED, FeedbackStatus.HELD_OUT)
"""Of signals on held-out prompts: waiting for a run to look at them, or looked at and kept out."""
MAX_SCANNED = 20_000
"""Completions looked at per tenant: a fifth of the prompts is held out, so far fewer suffice."""


@dataclass(frozen=True)
class HeldOutPrompt:
    """A prompt that somebody sent: `key` is what "the same prompt" means."""

    key: str
    messages: tuple[dict[str, Any], ...]
    created_at: datetime
    tenant: str | None = None
    """Whose examples belong beside it; None: it does not matter."""
    asker: tuple[str, str] | None = None
    """Tenant and user of whoever sent it last, where they are known."""
    stranger: bool = False
    """Whoever sent it is known, and no version has learned from anything that they said."""


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
    newest = sorted(found.values(), key=lambda p: (p.created_at, p.key), reverse=True)[:limit]
    learned = await _learned_from(connection, {p.asker[1] for p in newest if p.asker})
    return [replace(p, stranger=p.asker is not None and p.asker not in learned) for p in newest]


async def _learned_from(connection: AsyncConnection, people: set[str]) -> set[tuple[str, str]]:
    """Of these users, by tenant and name, those whose words some version was trained on."""
    f = feedback.c
    query = select(f.tenant, f.rater_id).where(
        f.rater_id.in_(people), f.trained_version.is_not(None)
    )
    return {(tenant, rater) for tenant, rater in await connection.execute(query.distinct())}


@dataclass(frozen=True)
class HeldOutComparison:
    """Somebody's word on two answers to a held-out prompt: `chosen` is the better one."""

    feedback_id: str
    messages: tuple[dict[str, Any], ...]
    chosen: str
    rejected: str


async def held_out_comparisons(
    connection: AsyncConnection, limit: int, share: float = HELD_OUT_SHARE
) -> list[HeldOutComparison]:
    """Up to `limit` comparisons of two recorded answers to one held-out prompt, newest first.

    For trying judges: no training, of models or of reward models, has seen them.
    """
    first, second = completions.alias("first"), completions.alias("second")
    f = feedback.c
    query = (
        select(f.id, f.body, f.choice, f.other_choice, first.c.prompt, first.c.prompt_key)
        .add_columns(first.c.choices.label("first_choices"), second.c.choices)
        .join_from(feedback, first, and_(first.c.id == f.completion_id, first.c.tenant == f.tenant))
        .join(second, and_(second.c.id == f.other_completion_id, second.c.tenant == f.tenant))
        .where(f.kind == FeedbackKind.PREFERENCE, f.status.in_(USABLE))
        .where(first.c.prompt_key == second.c.prompt_key)
        .where(first.c.stored, first.c.erased_at.is_(None))
        .where(second.c.stored, second.c.erased_at.is_(None))
        .order_by(f.received_at.desc(), f.id)
        .limit(MAX_SCANNED)
    )
    found: list[HeldOutComparison] = []
    for row in await connection.execute(query):
        if len(found) >= limit:
            break
        if is_text_prompt(row.prompt) and _kept(row, share):
            found += _comparison(row)
    return found


def _comparison(row: Any) -> list[HeldOutComparison]:
    """One, or none where it names no winner or a text is not there."""
    first, second = _text_of(row.first_choices, row.choice), _text_of(row.choices, row.other_choice)
    if not first or not second or first == second:
        return []
    preferred = row.body.get("preferred")
    if preferred not in (Preferred.FIRST, Preferred.SECOND):
        return []
    won = (first, second) if preferred == Preferred.FIRST else (second, first)
    return [HeldOutComparison(row.id, tuple(row.prompt), *won)]


def _text_of(choices: Any, index: int | None) -> str | None:
    return next((c.get("text") for c in choices if c.get("index") == (index or 0)), None)


async def _of_tenant(
    connection: AsyncConnection, tenant: str, limit: int, share: float
) -> list[HeldOutPrompt]:
    found: dict[str, HeldOutPrompt] = {}
    last: Any = None
    for _ in range(MAX_SCANNED // PAGE):
        rows = await _page(connection, tenant, last)
        for row in rows:
            if len(found) < limit and row.prompt_key not in found and _usable(row, share):
                asker = (tenant, row.subject) if row.subject else None
                found[row.prompt_key] = HeldOutPrompt(
                    row.prompt_key, tuple(row.prompt), row.created_at, tenant, asker
                )
        if len(found) >= limit or len(rows) < PAGE:
            break
        last = rows[-1]
    return list(found.values())


async def _page(connection: AsyncConnection, tenant: str, last: Any) -> Sequence[Any]:
    c = completions.c
    query = (
        select(c.id, c.created_at, c.prompt_key, c.prompt, c.stored, c.erased_at, c.status_code)
        .add_columns(c.subject)
        .where(c.tenant == tenant)
        .order_by(c.created_at.desc(), c.id.desc())
        .limit(PAGE)
    )
    if last is not None:
        query = query.where(tuple_(c.created_at, c.id) < (last.created_at, last.id))
    return (await connection.execute(query)).all()


def _usable(row: Any, share: float) -> bool:
    kept = row.stored and row.erased_at is None and row.status_code < 400
    return bool(kept and is_text_prompt(row.prompt) and _kept(row, share))


def _kept(row: Any, share: float) -> bool:
    return prompt_held_out(opening_key(row.prompt_key, row.prompt), share)


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
