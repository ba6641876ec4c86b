"""Bodies of answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Generic, Literal, TypeVar

from pydantic import BaseModel
from sqlalchemy import Row

from learnback.contracts.models import (
    Choice,
    CompletionEnd,
    FeedbackKind,
    FeedbackStatus,
    Timings,
    Track,
    Usage,
)
from learnback.feedback.intake import Receipt

T = TypeVar("T", bound=BaseModel)


class Received(BaseModel):
    """A signal is durable; `GET /v1/feedback/{id}` tells what becomes of it."""

    id: str | None
    """None: it was a dry run."""
    status: FeedbackStatus
    status_reason: str | None = None


class ProblemField(BaseModel):
    """One field that is wrong."""

    field: str
    message: str


class Problem(BaseModel):
    """An error (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    errors: list[ProblemField]
    instance: str | None = None


class BatchResult(BaseModel):
    """What became of one item; `error` where its `status_code` is no 2xx."""

    index: int
    status_code: int
    id: str | None = None
    status: FeedbackStatus | None = None
    status_reason: str | None = None
    replayed: bool = False
    error: Problem | None = None


class BatchAnswer(BaseModel):
    """The results of a batch, in the order of its items."""

    results: list[BatchResult]


class FeedbackOut(BaseModel):
    """A signal, and what became of it."""

    id: str
    object: Literal["feedback"] = "feedback"
    kind: FeedbackKind
    status: FeedbackStatus
    status_reason: str | None
    revision: int
    completion_id: str | None
    session_id: str | None
    body: dict[str, Any] | None
    """As it was sent, with defaults; None: erased."""
    created_at: datetime
    received_at: datetime
    joined_at: datetime | None
    changed_at: datetime
    supersedes: str | None
    superseded_by: str | None
    run_id: str | None
    trained_version: str | None


class RewardOut(BaseModel):
    """What a scorer gave to one choice; `score` None: it could not, and `error` says why."""

    choice: int
    scorer: str
    scorer_version: str
    score: float | None
    error: str | None
    components: dict[str, float | None]
    created_at: datetime


class Prompting(BaseModel):
    """What a prompt strategy put around the caller's prompt."""

    strategy: str | None
    """The version whose strategy it was; None: it changed nothing."""
    examples: list[str] = []
    """Ids of the examples that were shown."""
    skipped: str | None = None
    """Why the strategy, or a part of it, was not applied."""


class CompletionOut(BaseModel):
    """A recorded completion."""

    id: str
    object: Literal["completion"] = "completion"
    created_at: datetime
    endpoint: str
    version: str
    track: Track
    end: CompletionEnd
    status_code: int
    streamed: bool
    stored: bool
    prompt: list[dict[str, Any]]
    choices: list[Choice]
    parameters: dict[str, Any]
    session: str | None
    metadata: dict[str, str]
    usage: Usage
    timings: Timings
    prompting: Prompting | None = None
    """None: the version has no prompt strategy."""
    rewards: list[RewardOut] | None = None
    """None in lists."""


class Deleted(BaseModel):
    """A completion and all feedback about it are erased."""

    id: str
    object: Literal["completion.deleted"] = "completion.deleted"
    deleted: Literal[True] = True
    feedback_erased: int


class Page(BaseModel, Generic[T]):
    """Part of a list, newest first; pass `last_id` as `after` for the next part."""

    object: Literal["list"] = "list"
    data: list[T]
    first_id: str | None
    last_id: str | None
    has_more: bool


def received(receipt: Receipt) -> Received:
    """A receipt as an answer."""
    return Received(
        id=receipt.id or None, status=receipt.status, status_reason=receipt.status_reason
    )


def feedback_out(row: Row[Any]) -> FeedbackOut:
    """A row of the ledger as an answer."""
    fields = {name: row._mapping[name] for name in FeedbackOut.model_fields if name in row._fields}
    return FeedbackOut(**{**fields, "session_id": row.session, "body": row.body or None})


def completion_out(row: Row[Any], rewards: Sequence[dict[str, Any]] | None = None) -> CompletionOut:
    """A row of the ledger as an answer."""
    made = {"usage", "timings", "rewards", "object"}
    names = set(CompletionOut.model_fields) - made
    return CompletionOut(
        **{name: row._mapping[name] for name in names},
        usage=Usage(prompt_tokens=row.prompt_tokens, completion_tokens=row.completion_tokens),
        timings=Timings(first_byte_s=row.first_byte_s, duration_s=row.duration_s),
        rewards=None if rewards is None else [RewardOut(**reward) for reward in rewards],
    )


def page(rows: Sequence[Row[Any]], limit: int, shape: Callable[[Row[Any]], T]) -> Page[T]:
    """At most `limit` of `rows`, which holds one more where there is more."""
    data = [shape(row) for row in rows[:limit]]
    return Page(
        data=data,
        first_id=rows[0].id if rows else None,
        last_id=rows[min(limit, len(rows)) - 1].id if rows else None,
        has_more=len(rows) > limit,
    )
