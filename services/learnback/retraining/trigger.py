"""When to train: pure. Enough new signals, nobody training, rested; or somebody asked."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta


@dataclass(frozen=True)
class Policy:
    """How eager the process is by itself."""

    automatic: bool
    min_new_signals: int
    cool_down: timedelta


@dataclass(frozen=True)
class Situation:
    """What is known when the question comes up."""

    now: datetime
    new_signals: int
    """Waiting signals that the run's method would train on: usable and not held out."""
    rows: int
    """What the whole dataset would have for training."""
    nothing: str = "there is nothing to train on"
    """Why, if there are no rows; for people."""
    due: str | None = None
    """Why a run is due without new signals."""
    active_run: str | None = None
    asked_run: str | None = None
    last_finished_at: datetime | None = None
    last_failed_signals: int | None = None
    """New signals of the last run if that failed: the same ones would only fail again."""


@dataclass(frozen=True)
class Decision:
    """`start`, or why not; `reason` is for people. `refuse`: whoever asked gets no run."""

    start: bool
    reason: str
    refuse: bool = False


def decide(situation: Situation, policy: Policy) -> Decision:
    """Whether to start a run now."""
    if situation.active_run is not None:
        return Decision(False, f"run {situation.active_run} is active")
    if situation.asked_run is not None:
        return _asked(situation)
    if not policy.automatic:
        return Decision(False, "automatic training is off")
    if situation.due is None and situation.new_signals < policy.min_new_signals:
        have, need = situation.new_signals, policy.min_new_signals
        return Decision(False, f"{have} of {need} new signals")
    if situation.rows == 0:
        return Decision(False, situation.nothing)
    rested = _rested_at(situation, policy)
    if situation.now < rested:
        return Decision(False, f"cooling down until {rested.isoformat(timespec='seconds')}")
    if situation.due is not None:
        return Decision(True, situation.due)
    failed = situation.last_failed_signals
    if failed is not None and situation.new_signals - failed < policy.min_new_signals:
        more = failed + policy.min_new_signals - situation.new_signals
        return Decision(
            False, f"the last run failed; it waits for {more} more signals or a request"
        )
    return Decision(True, f"{situation.new_signals} new signals")


def _asked(situation: Situation) -> Decision:
    if situation.rows == 0:
        return Decision(False, situation.nothing, refuse=True)
    return Decision(True, f"asked for, with {situation.new_signals} new signals")


def _rested_at(situation: Situation, policy: Policy) -> datetime:
    if situation.last_finished_at is None:
        return situation.now
    return situation.last_finished_at + policy.cool_down
