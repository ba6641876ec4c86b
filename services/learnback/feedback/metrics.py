"""Metrics of the feedback process."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

RECEIVED = Counter(
    "learnback_feedback_received_total", "Signals stored, by the status given.", ["kind", "status"]
)
REPLAYED = Counter(
    "learnback_feedback_replayed_total", "Repeats recognised by their idempotency key."
)
REFUSED = Counter(
    "learnback_feedback_refused_total", "Signals refused after parsing, by error code.", ["code"]
)
COMMIT = Histogram(
    "learnback_feedback_commit_seconds",
    "Time of one transaction that stores signals.",
    buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 5),
)
COMMITTED = Histogram(
    "learnback_feedback_commit_signals",
    "Signals stored by one transaction.",
    buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256),
)
JOINED = Counter(
    "learnback_feedback_joined_total", "Waiting signals that found their target.", ["status"]
)
EXPIRED = Counter("learnback_feedback_expired_total", "Signals whose target never turned up.")
RECORDED = Counter(
    "learnback_feedback_recorded_total", "Stream messages written to the ledger.", ["stream"]
)
RELAYED = Counter("learnback_feedback_relayed_total", "Outbox messages put on their stream.")
OUTBOX = Gauge("learnback_feedback_outbox_messages", "Messages that wait in the outbox.")
OUTBOX_AGE = Gauge("learnback_feedback_outbox_age_seconds", "Age of the oldest of them.")
SIGNALS = Gauge("learnback_feedback_ledger_signals", "Signals in the ledger.", ["status"])
LAG = Gauge("learnback_feedback_stream_lag_messages", "Entries unread.", ["stream", "group"])
PENDING = Gauge(
    "learnback_feedback_stream_pending_messages", "Entries read, not done.", ["stream", "group"]
)
REDIS_USED = Gauge("learnback_feedback_redis_used_bytes", "Memory that Redis uses.")
REDIS_LIMIT = Gauge(
    "learnback_feedback_redis_limit_bytes",
    "Memory that Redis may use, beyond which it refuses to write; 0: no limit.",
)
DEAD = Gauge("learnback_feedback_stream_dead_messages", "Dead letters.", ["stream", "group"])
