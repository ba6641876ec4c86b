"""Metrics of the bus, in every process that publishes or consumes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter

from prometheus_client import Counter, Histogram

PUBLISHED = Counter("learnback_bus_published_total", "Messages appended to a stream.", ["stream"])
HANDLED = Counter(
    "learnback_bus_handled_total", "Messages handled and acknowledged.", ["stream", "group"]
)
FAILED = Counter(
    "learnback_bus_failures_total", "Messages whose handler raised.", ["stream", "group"]
)
REDELIVERED = Counter(
    "learnback_bus_redelivered_total", "Messages taken over from a worker.", ["stream", "group"]
)
DEAD = Counter(
    "learnback_bus_dead_letters_total", "Messages moved to dead letters.", ["stream", "group"]
)
HANDLING = Histogram(
    "learnback_bus_batch_seconds", "Time to handle one batch.", ["stream", "group"]
)


def published(stream: str, count: int) -> None:
    """`count` messages were appended."""
    PUBLISHED.labels(stream).inc(count)


def handled(stream: str, group: str, count: int) -> None:
    """`count` messages were acknowledged."""
    HANDLED.labels(stream, group).inc(count)


def failed(stream: str, group: str) -> None:
    """A handler raised."""
    FAILED.labels(stream, group).inc()


def redelivered(stream: str, group: str, count: int) -> None:
    """`count` messages were reclaimed."""
    REDELIVERED.labels(stream, group).inc(count)


def buried(stream: str, group: str) -> None:
    """A message went to the dead letters."""
    DEAD.labels(stream, group).inc()


@contextmanager
def handling(stream: str, group: str) -> Iterator[None]:
    """Times one batch."""
    start = perf_counter()
    try:
        yield
    finally:
        HANDLING.labels(stream, group).observe(perf_counter() - start)
