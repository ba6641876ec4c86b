"""What the service answers. Fields that a newer service adds are ignored."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict

T = TypeVar("T", bound=BaseModel)


class _Answer(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class Received(_Answer):
    """A signal is durable. `id` is None after a dry run."""

    id: str | None
    status: str
    status_reason: str | None = None
    replayed: bool = False
    """The service had it already, under the same idempotency key."""


class Feedback(_Answer):
    """A signal, and what became of it.

    `status` is one of pending_target, accepted, trained, held_out, recorded, quarantined,
    superseded, withdrawn, expired, erased.
    """

    id: str
    kind: str
    status: str
    status_reason: str | None
    revision: int
    completion_id: str | None
    session_id: str | None
    body: dict[str, Any] | None
    """As it was sent; None: erased."""
    created_at: datetime
    received_at: datetime
    joined_at: datetime | None
    changed_at: datetime
    supersedes: str | None
    superseded_by: str | None
    run_id: str | None
    trained_version: str | None


class Choice(_Answer):
    """One answer of a completion."""

    index: int
    text: str
    reasoning: str | None = None
    refusal: str | None = None
    tool_calls: list[dict[str, Any]] = []
    finish_reason: str | None = None


class Reward(_Answer):
    """What a scorer gave to one choice; `score` None: it could not, and `error` says why."""

    choice: int
    scorer: str
    scorer_version: str
    score: float | None
    error: str | None
    components: dict[str, float | None]
    created_at: datetime


class Completion(_Answer):
    """A recorded completion. `rewards` is None in lists."""

    id: str
    created_at: datetime
    endpoint: str
    version: str
    track: str
    end: str
    status_code: int
    streamed: bool
    stored: bool
    prompt: list[dict[str, Any]]
    choices: list[Choice]
    parameters: dict[str, Any]
    session: str | None
    metadata: dict[str, str]
    usage: dict[str, int | None]
    timings: dict[str, float | None]
    rewards: list[Reward] | None = None


class Deleted(_Answer):
    """A completion and all feedback about it are erased."""

    id: str
    deleted: bool
    feedback_erased: int


class WrongField(_Answer):
    """One field that is wrong, by its path."""

    field: str
    message: str


class Problem(_Answer):
    """Why one item of a batch was refused."""

    title: str
    detail: str
    code: str
    errors: list[WrongField] = []


class BatchResult(_Answer):
    """What became of one item of a batch, by its place in it."""

    index: int
    status_code: int
    id: str | None = None
    status: str | None = None
    status_reason: str | None = None
    replayed: bool = False
    error: Problem | None = None

    @property
    def ok(self) -> bool:
        """Whether the item is durable."""
        return self.status_code < 300


class BatchAnswer(_Answer):
    """The results of a batch."""

    results: list[BatchResult]


class Page(_Answer, Generic[T]):
    """Part of a list, newest first; pass `last_id` as `after` for the next part."""

    data: list[T]
    first_id: str | None = None
    last_id: str | None = None
    has_more: bool = False
