"""A request that is over, as the server knows it: what goes into the journal."""

from __future__ import annotations

import msgspec

from learnback.contracts.models import CompletionEnd, Endpoint, Track


class Served(msgspec.Struct, frozen=True, array_like=True):
    """All that the recorder needs to know of a request that is over; bytes as they came."""

    id: str
    tenant: str
    created_at: float
    """Unix time in seconds."""
    endpoint: Endpoint
    version: str
    track: Track
    probability: float
    prompt_strategy: str | None
    request: bytes
    """The body as the client sent it."""
    answer: list[bytes]
    event_stream: bool
    """Whether `answer` is a stream of events, as its content type says."""
    streamed: bool
    stored: bool
    status: int
    end: CompletionEnd
    subject: str | None
    session: str | None
    metadata: dict[str, str]
    first_byte_s: float | None
    duration_s: float
    examples: tuple[str, ...] = ()
    strategy_skipped: str | None = None
    pair: str | None = None
    """Of an answer that nobody saw, the id of the one that was shown; of two side by side, an id of
    the two."""
    place: int | None = None
