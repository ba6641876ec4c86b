"""Every stream and consumer group, once. A stream name as a literal elsewhere fails the tests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from learnback.contracts.messages import (
    CompletionScored,
    CompletionServed,
    FeedbackReceived,
    Message,
    ModelTrained,
    ReleaseChanged,
)

KEY_PREFIX = "learnback:"
"""Keeps our keys apart from others in a shared Redis."""

M = TypeVar("M", bound=Message)


@dataclass(frozen=True)
class Stream(Generic[M]):
    """A Redis stream that carries one message type to its consumer groups.

    `groups` are named after the processes that read. A stream without groups is broadcast:
    every reader sees every message, and nobody acknowledges.
    """

    name: str
    message: type[M]
    writer: str
    groups: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """The Redis key of the stream."""
        return f"{KEY_PREFIX}{self.name}"

    @property
    def dead_key(self) -> str:
        """The Redis key of the stream's dead letters."""
        return f"{self.key}.dead"


COMPLETIONS = Stream("completions", CompletionServed, "inference", ("feedback", "reward"))
FEEDBACK = Stream("feedback", FeedbackReceived, "feedback", ("retraining",))
REWARDS = Stream("rewards", CompletionScored, "reward", ("feedback",))
MODELS = Stream("models", ModelTrained, "retraining", ("release", "reward"))
RELEASES = Stream("releases", ReleaseChanged, "release")

STREAMS: tuple[Stream[Any], ...] = (
    COMPLETIONS,
    FEEDBACK,
    REWARDS,
    MODELS,
    RELEASES,
)


def by_name(name: str) -> Stream[Any]:
    """The stream called `name`; KeyError with the known names otherwise."""
    for stream in STREAMS:
        if stream.name == name:
            return stream
    known = ", ".join(stream.name for stream in STREAMS)
    raise KeyError(f"no stream {name!r}; there are: {known}")
