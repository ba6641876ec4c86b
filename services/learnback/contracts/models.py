"""The words that every process shares: kinds, states and small value objects."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class FeedbackKind(StrEnum):
    """What a person said about an answer."""

    THUMBS = "thumbs"
    RATING = "rating"
    PREFERENCE = "preference"
    CORRECTION = "correction"
    COMMENT = "comment"
    OUTCOME = "outcome"


class FeedbackStatus(StrEnum):
    """Where a signal stands. Every signal has exactly one status, so the counts add up.

    Waiting: `pending_target` (its completion has not been recorded yet) and `accepted`
    (joined to its completion, no training run has taken it). All others are terminal.
    """

    PENDING_TARGET = "pending_target"
    ACCEPTED = "accepted"
    TRAINED = "trained"
    HELD_OUT = "held_out"
    RECORDED = "recorded"
    """Kept, but of no use to a training method; `status_reason` says why."""
    QUARANTINED = "quarantined"
    SUPERSEDED = "superseded"
    WITHDRAWN = "withdrawn"
    EXPIRED = "expired"
    """Its completion did not turn up within the grace time."""
    ERASED = "erased"


WAITING = frozenset({FeedbackStatus.PENDING_TARGET, FeedbackStatus.ACCEPTED})
TAKEN_BACK = frozenset({FeedbackStatus.SUPERSEDED, FeedbackStatus.WITHDRAWN, FeedbackStatus.ERASED})
"""What people do not say any more."""


class RaterKind(StrEnum):
    """Who judged."""

    HUMAN = "human"
    LLM_JUDGE = "llm_judge"
    CODE = "code"


class Preferred(StrEnum):
    """Outcome of a comparison; `first` and `second` are the order in which they were shown."""

    FIRST = "first"
    SECOND = "second"
    TIE_GOOD = "tie_good"
    TIE_BAD = "tie_bad"


class Track(StrEnum):
    """Why a request was answered by its model version."""

    STABLE = "stable"
    CANDIDATE = "candidate"
    PINNED = "pinned"
    MIRRORED = "mirrored"
    """Nobody saw this answer: it is a candidate's to a copy of a request."""
    COMPARED = "compared"
    """Stable and candidate both answered, and the person saw both side by side."""


class CompletionEnd(StrEnum):
    """How an answer ended."""

    COMPLETE = "complete"
    CLIENT_DISCONNECTED = "client_disconnected"
    ENGINE_ERROR = "engine_error"
    REFUSED = "refused"
    """The engine answered with a 4xx: there is no answer, only the error."""


class VersionKind(StrEnum):
    """What a model version is made of."""

    BASE = "base"
    ADAPTER = "adapter"
    MODEL = "model"
    """Full weights: no adapter, so it is served by an engine that is started with them."""
    PROMPT = "prompt"
    REWARD_MODEL = "reward_model"


class VersionState(StrEnum):
    """Where a model version stands on its way to people."""

    REGISTERED = "registered"
    PASSED = "passed"
    REFUSED = "refused"
    PROMOTED = "promoted"
    ROLLED_BACK = "rolled_back"


class Alias(StrEnum):
    """Names that point at a model version."""

    STABLE = "stable"
    CANDIDATE = "candidate"
    REWARD = "reward"


class Scope(StrEnum):
    """What an API key may do. `admin` covers `release` and `train`, and nothing else."""

    INFER = "infer"
    FEEDBACK = "feedback"
    RELEASE = "release"
    """The admin API of the release process: look, ask, approve, promote, roll back."""
    EVALUATE = "evaluate"
    """Ask for answers as prompt versions give them to other tenants: for the release process."""
    TRAIN = "train"
    """The admin API of the retraining process: look, ask for runs, cancel them."""
    ADMIN = "admin"


class Frozen(BaseModel):
    """A value object on the wire: immutable, and unknown fields of newer writers are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class ToolCall(Frozen):
    """A tool call of an answer, in OpenAI's shape with the arguments as the model wrote them."""

    id: str | None = None
    name: str
    arguments: str


class Choice(Frozen):
    """One answer of a completion; `n > 1` gives several."""

    index: int
    text: str
    reasoning: str | None = None
    refusal: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    finish_reason: str | None = None


class Usage(Frozen):
    """Token counts, as the engine reported them; None where it reported none."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class Timings(Frozen):
    """Seconds since the request's last byte arrived."""

    first_byte_s: float | None = None
    duration_s: float


class Rater(Frozen):
    """Who gave a signal. Raters are told apart by `id` within a tenant."""

    id: str | None = Field(default=None, max_length=200)
    kind: RaterKind = RaterKind.HUMAN


PromptMessages = tuple[dict[str, Any], ...]
"""Chat messages in OpenAI's shape: `({"role": "user", "content": "..."}, ...)`."""

Endpoint = Literal["chat.completions", "completions", "responses"]
