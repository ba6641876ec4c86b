"""Metrics of the retraining process."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import Counter, Gauge

from learnback.retraining.plan import Progress
from learnback.retraining.run_report import CURVES

WAITING = Gauge("learnback_retraining_waiting_signals", "Signals of use that no run has taken.")
ACTIVE = Gauge("learnback_retraining_active_runs", "Runs that are under way: 0 or 1.")
STEP = Gauge("learnback_retraining_run_step_count", "Optimiser steps done by the active run.")
STEPS = Gauge("learnback_retraining_run_planned_step_count", "Steps the active run will take.")
LOSS = Gauge("learnback_retraining_run_loss_nats", "Loss of the active run's last step.")
MEASURED = Gauge(
    "learnback_retraining_run_measured_value",
    "What the active run's method watches, at its last step.",
    ["method", "metric"],
)
WATCHED = frozenset(name for *_, names in CURVES for name in names)
"""Metrics that are shown: whatever else a trainer reports stays in the ledger, so that labels have
a bounded size."""
LEFT = Gauge("learnback_retraining_run_left_seconds", "Estimated time the active run still takes.")
TAKEN_BACK = Gauge(
    "learnback_retraining_run_taken_back_signals",
    "Signals of the active run that were withdrawn or superseded since it took them.",
)
RUNS = Counter("learnback_retraining_runs_total", "Runs that ended, by how.", ["state"])
for _state in ("done", "failed", "cancelled"):  # a first failure must show as a rise
    RUNS.labels(_state)
RETRIES = Counter("learnback_retraining_retries_total", "Jobs started again after they broke off.")
SETTLED = Counter(
    "learnback_retraining_settled_signals_total", "Signals settled by runs, by status.", ["status"]
)


def progressed(method: str, progress: Progress | None, taken_back: int) -> None:
    """The active run moved on."""
    ACTIVE.set(1)
    TAKEN_BACK.set(taken_back)
    if progress is None:
        return
    STEP.set(progress.step)
    STEPS.set(progress.max_steps)
    LOSS.set(float("nan") if progress.loss is None else progress.loss)
    LEFT.set(float("nan") if progress.eta_seconds is None else progress.eta_seconds)
    for name in WATCHED & set(progress.metrics):
        MEASURED.labels(method, name).set(progress.metrics[name])


def ended(state: str, signals: Mapping[str, int] | None = None) -> None:
    """A run ended, with its signals by status."""
    RUNS.labels(state).inc()
    idle()
    for status, count in (signals or {}).items():
        SETTLED.labels(status).inc(count)


def idle() -> None:
    """No run is under way."""
    ACTIVE.set(0)
    TAKEN_BACK.set(0)
    MEASURED.clear()
    for gauge in (STEP, STEPS):
        gauge.set(0)
    for gauge in (LOSS, LEFT):
        gauge.set(float("nan"))
