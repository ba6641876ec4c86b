"""When training starts by itself, when because it was asked for, and when not."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from tests.factories import AT

from learnback.retraining.trigger import Policy, Situation, decide

POLICY = Policy(automatic=True, min_new_signals=64, cool_down=timedelta(minutes=1))


def situation(**changes: Any) -> Situation:
    return Situation(**{"now": AT, "new_signals": 64, "rows": 60} | changes)


CASES: list[tuple[str, dict[str, Any], bool, str]] = [
    ("enough signals", {}, True, "64 new signals"),
    ("one too few", {"new_signals": 63}, False, "63 of 64"),
    ("one is active", {"active_run": "run_1"}, False, "run_1 is active"),
    ("active, though asked", {"active_run": "r", "asked_run": "q"}, False, "r is active"),
    ("asked, with few", {"new_signals": 0, "asked_run": "q"}, True, "asked for"),
    ("asked, with nothing", {"rows": 0, "asked_run": "q"}, False, "nothing to train on"),
    ("only contradictions", {"rows": 0, "nothing": "no pair"}, False, "no pair"),
    ("a policy is due", {"new_signals": 0, "due": "a policy"}, True, "a policy"),
    ("due too soon", {"new_signals": 0, "due": "x", "last_finished_at": AT}, False, "cooling"),
    ("due, with nothing", {"due": "x", "rows": 0}, False, "nothing to train on"),
    ("too soon", {"last_finished_at": AT - timedelta(seconds=59)}, False, "cooling down"),
    ("rested", {"last_finished_at": AT - timedelta(seconds=60)}, True, "new signals"),
    ("asked before rest", {"last_finished_at": AT, "asked_run": "q"}, True, "asked for"),
    ("same data failed", {"last_failed_signals": 64}, False, "64 more signals"),
    ("a little more", {"last_failed_signals": 64, "new_signals": 100}, False, "28 more"),
    ("much more since", {"last_failed_signals": 64, "new_signals": 128}, True, "128 new"),
]


@pytest.mark.parametrize(("name", "changes", "start", "reason"), CASES, ids=[c[0] for c in CASES])
def test_decisions(name: str, changes: dict[str, Any], start: bool, reason: str) -> None:
    decision = decide(situation(**changes), POLICY)
    assert decision.start is start
    assert reason in decision.reason


def test_asking_in_vain_is_refused_with_its_reason() -> None:
    assert decide(situation(rows=0, asked_run="q"), POLICY).refuse


def test_switched_off_it_trains_only_when_asked() -> None:
    off = Policy(automatic=False, min_new_signals=1, cool_down=timedelta(0))
    assert not decide(situation(), off).start
    assert decide(situation(asked_run="q"), off).start
