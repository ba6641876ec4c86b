"""Metrics of the inference process; they show on the engine's own `/metrics` page."""

from __future__ import annotations

from functools import cache

from prometheus_client import Counter, Gauge, Histogram

REQUESTS = Counter(
    "learnback_inference_requests_total",
    "Requests that an engine answered, or began to.",
    ["endpoint", "track", "status"],
)
REFUSED = Counter(
    "learnback_inference_refused_total",
    "Requests that we answered with an error ourselves.",
    ["code"],
)
ENDED = Counter(
    "learnback_inference_ended_total",
    "Requests that an engine was asked, by how they ended; no status tells of a broken stream.",
    ["track", "end"],
)
FIRST_BYTE = Histogram(
    "learnback_inference_first_byte_seconds",
    "From the request's last byte to the answer's first.",
    ["endpoint", "track"],
    buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
)
DURATION = Histogram(
    "learnback_inference_duration_seconds",
    "From the request's last byte to the answer's last.",
    ["endpoint", "track"],
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300),
)
SPOOL = Gauge(
    "learnback_inference_recorder_spool_bytes",
    "Completions on this replica's disk that are not on the stream yet.",
)
SPOOL_LIMIT = Gauge(
    "learnback_inference_recorder_spool_limit_bytes",
    "What may wait on disk; beyond it completions are dropped.",
)
DROPPED = Counter(
    "learnback_inference_recorder_dropped_total",
    "Completions that were answered and not recorded.",
    ["reason"],
)
for _reason in ("spool_full", "disk", "bug"):  # a first drop must show as a rise
    DROPPED.labels(_reason)
RECORDED = Counter(
    "learnback_inference_recorder_recorded_total", "Completions that reached the stream."
)
UNREADABLE = Counter(
    "learnback_inference_spool_unreadable_total",
    "Records on disk that a crash had torn.",
)
MIRRORED = Counter(
    "learnback_inference_mirrored_total",
    "Requests that the candidate was to get a copy of, by what became of it.",
    ["result"],
)
for _result in ("answered", "failed", "dropped"):
    MIRRORED.labels(_result)
REVISION = Gauge(
    "learnback_inference_release_revision",
    "Revision of each alias as this replica serves it.",
    ["alias"],
)
VERSION = Gauge(
    "learnback_inference_version_info",
    "1 for each version that this replica can serve now, by its part in the release.",
    ["version", "track"],
)
NOT_SERVED = Gauge(
    "learnback_inference_not_served_versions",
    "Versions that the release names and this replica does not serve.",
)
READ_AT = Gauge(
    "learnback_inference_release_read_timestamp_seconds",
    "When this replica read the release last, in Unix time.",
)
LOAD_FAILURES = Counter(
    "learnback_inference_load_failures_total",
    "Adapters and example banks that could not be fetched or loaded.",
)
EXAMPLES = Counter("learnback_inference_examples_total", "Examples that were put before a prompt.")
EXAMPLES_LEFT_OUT = Counter(
    "learnback_inference_examples_left_out_total",
    "Examples that were picked for a prompt and did not fit into the context or the limit.",
)
STRATEGY_SKIPPED = Counter(
    "learnback_inference_strategy_skipped_total",
    "Requests to which a prompt strategy, or a part of it, was not applied.",
    ["reason"],
)
EXAMPLES_TAKEN_BACK = Counter(
    "learnback_inference_examples_taken_back_total",
    "Examples of loaded banks that are shown no more: erased, withdrawn or superseded.",
)


class Answers:
    """Counts answers a moment later, many at once.

    One by one, between the tokens of others, each would cost 20 us (the code is in no cache then),
    in a row 4 us. They are counted when the shipper reports, which it does within a second of an
    answer, when somebody looks at `/metrics`, and when many wait.
    """

    MOST = 256

    def __init__(self) -> None:
        self._waiting: list[tuple[str, str, int, float, float | None]] = []

    def add(
        self, endpoint: str, track: str, status: int, duration_s: float, first_byte_s: float | None
    ) -> None:
        """An answer has ended; None: before its first byte."""
        self._waiting.append((endpoint, track, status, duration_s, first_byte_s))
        if len(self._waiting) >= self.MOST:
            self.count()

    def count(self) -> None:
        """Let the metrics show all of them."""
        waiting, self._waiting = self._waiting, []
        for endpoint, track, status, duration_s, first_byte_s in waiting:
            _requests(endpoint, track, status).inc()
            _duration(endpoint, track).observe(duration_s)
            if first_byte_s is not None:
                _first_byte(endpoint, track).observe(first_byte_s)


ANSWERS = Answers()


@cache
def _requests(endpoint: str, track: str, status: int) -> Counter:
    """The counter of one kind of request; looking it up by label costs five times as much."""
    return REQUESTS.labels(endpoint, track, str(status))


@cache
def _first_byte(endpoint: str, track: str) -> Histogram:
    """The histogram of one kind of request."""
    return FIRST_BYTE.labels(endpoint, track)


@cache
def _duration(endpoint: str, track: str) -> Histogram:
    """The histogram of one kind of request."""
    return DURATION.labels(endpoint, track)
