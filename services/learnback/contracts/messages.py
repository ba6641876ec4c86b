"""Every message that travels on a stream. A message is a frozen fact in the past tense.

Rules: fields are only ever added, always with a default, so that every message ever written
still parses (tests/contract/golden holds one of each). `key` names the fact: two messages with
the same type and key say the same thing, and a consumer may treat the second as a repeat.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar

from learnback.contracts.models import (
    Alias,
    Choice,
    CompletionEnd,
    Endpoint,
    FeedbackKind,
    FeedbackStatus,
    Frozen,
    PromptMessages,
    Timings,
    Track,
    Usage,
    VersionKind,
)


class Message(Frozen):
    """Base of all messages."""

    type: ClassVar[str]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.type = cls.__name__

    @property
    def key(self) -> str:
        """The fact's identity within its type."""
        raise NotImplementedError


class CompletionServed(Message):
    """The inference process answered a request."""

    id: str
    """The response's own id, such as `chatcmpl-<uuid7>`; what feedback refers to."""
    tenant: str
    created_at: datetime
    endpoint: Endpoint
    version: str
    track: Track
    probability: float
    """Probability with which this version was assigned to this request, in (0, 1]."""
    end: CompletionEnd
    status_code: int
    streamed: bool
    stored: bool
    """False: the caller asked for no storage, so `prompt` and `choices` are empty."""
    prompt: PromptMessages = ()
    choices: tuple[Choice, ...] = ()
    parameters: dict[str, Any] = {}
    """Sampling parameters as asked for (`temperature`, `max_tokens`, `tools`, ...)."""
    subject: str | None = None
    """Who is kept on one version: a digest of the user's identifier or of the API key."""
    session: str | None = None
    metadata: dict[str, str] = {}
    usage: Usage = Usage()
    timings: Timings
    prompt_strategy: str | None = None
    """Version whose prompt strategy was applied; None: the prompt went through as it came."""
    examples: tuple[str, ...] = ()
    """Ids of the examples that stood before the prompt; a reader without them loses an audit trail
    and nothing else."""
    strategy_skipped: str | None = None
    """Why a strategy, or a part of it, was not applied: `tools`, `no_room`, ...; None: it was, or
    the version has none."""
    pair: str | None = None
    """Of a mirrored answer: the id of the answer that was shown. Of two that were shown side by
    side: an id of the two. A reader without it can't compare them."""
    place: int | None = None
    """Of two answers side by side: 0 was shown first, 1 second."""

    @property
    def key(self) -> str:
        """See `Message.key`."""
        return self.id


class FeedbackReceived(Message):
    """A signal changed in the ledger: it arrived, found its completion, or was taken back.

    One message per status that the feedback process gives; the ledger row is the record.
    """

    id: str
    tenant: str
    kind: FeedbackKind
    status: FeedbackStatus
    revision: int
    """Counts the signal's changes from 1, so that a late repeat can be told."""
    at: datetime
    completion_id: str | None = None
    supersedes: str | None = None

    @property
    def key(self) -> str:
        """See `Message.key`."""
        return f"{self.id}:{self.revision}"


class CompletionScored(Message):
    """A scorer judged one choice of a completion, or said that it could not."""

    completion_id: str
    tenant: str
    choice: int = 0
    scorer: str
    """`rules`, `model` or `judge`."""
    scorer_version: str
    version: str
    """The model version that gave the answer."""
    track: Track
    at: datetime
    score: float | None = None
    """Higher is better. None: it could not be judged, and `error` says why; never a made-up 0."""
    error: str | None = None
    components: dict[str, float] = {}

    @property
    def key(self) -> str:
        """See `Message.key`."""
        return f"{self.completion_id}:{self.choice}:{self.scorer}:{self.scorer_version}"


class ModelTrained(Message):
    """A training run registered a new model version."""

    version: str
    kind: VersionKind
    run_id: str
    at: datetime

    @property
    def key(self) -> str:
        """See `Message.key`."""
        return self.version


class ReleaseChanged(Message):
    """An alias moved. Says "look now": the registry is the truth."""

    alias: Alias
    version: str | None
    revision: int
    at: datetime

    @property
    def key(self) -> str:
        """See `Message.key`."""
        return f"{self.alias}:{self.revision}"
