"""The stream `models` as tests use it: messages, and consumers that remember or fail."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tests.factories import a_model_trained

from learnback.contracts.messages import ModelTrained
from learnback.contracts.streams import MODELS
from learnback.core.bus import Consumer

GROUP, OTHER = MODELS.groups


def models(count: int, start: int = 0) -> list[ModelTrained]:
    return [a_model_trained(f"v{i}") for i in range(start, start + count)]


def consumer(redis: Any, handler: Any, *, name: str = "one", **options: Any) -> Consumer[Any]:
    group = options.pop("group", GROUP)
    return Consumer(redis, MODELS, group, handler, name=name, **options)


class Seen:
    """A handler that keeps what it handled, and fails where it is told to."""

    def __init__(self, fails: Callable[[str], Exception | None] = lambda version: None) -> None:
        self.versions: list[str] = []
        self.fails = fails

    async def __call__(self, messages: Sequence[ModelTrained]) -> None:
        for message in messages:
            error = self.fails(message.version)
            if error is not None:
                raise error
        self.versions += [message.version for message in messages]


def poison(version: str) -> Callable[[str], Exception | None]:
    return lambda v: RuntimeError("poison") if v == version else None


async def pending(redis: Any, group: str = GROUP) -> int:
    return int((await redis.xpending(MODELS.key, group))["pending"])
