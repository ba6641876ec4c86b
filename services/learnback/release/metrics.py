"""Metrics of the release process."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

EVALUATION_PROGRESS = Gauge(
    "learnback_release_evaluation_progress_ratio", "Share of the running evaluation that is done."
)
EVALUATION_ETA = Gauge(
    "learnback_release_evaluation_eta_seconds", "Time that the running evaluation still needs."
)
EVALUATION_SECONDS = Histogram(
    "learnback_release_evaluation_seconds",
    "Time that an evaluation took.",
    buckets=(1, 5, 15, 30, 60, 120, 300, 600, 1800),
)
ANSWERS = Counter("learnback_release_answers_total", "Answers for evaluations.", ["side", "source"])
"""`side`: candidate or stable; `source`: generated, cached or failed."""
VERDICTS = Counter("learnback_release_verdicts_total", "Decisions of the gate.", ["verdict"])
WIN_RATE = Gauge(
    "learnback_release_win_rate_ratio", "The last evaluation's win rate and its bounds.", ["bound"]
)
PROMOTIONS = Counter("learnback_release_promotions_total", "Moves of the stable alias.", ["by"])
"""`by`: gate, canary, operator or rollback."""
for _by in ("gate", "canary", "operator", "rollback"):  # a first rollback must show as a rise
    PROMOTIONS.labels(_by)
FAILURES = Counter(
    "learnback_release_failures_total", "Looks that ended in an error and are tried again."
)
LEADING = Gauge("learnback_release_leading", "1 while this controller holds the lease and acts.")
LOOKS = Counter(
    "learnback_release_looks_total", "Looks at canaries, by what they decided.", ["verdict"]
)
WAITING_REPLICAS = Gauge(
    "learnback_release_waiting_replicas",
    "Live replicas that have not loaded the version that is to get its first people.",
)
COLLECTED = Counter("learnback_release_collected_total", "What garbage collection took.", ["what"])
"""`what`: marked (versions that nobody needs), removed (their files), abandoned (uploads)."""
COLLECTION_FAILURES = Counter(
    "learnback_release_collection_failures_total", "Passes that failed and are tried again."
)
