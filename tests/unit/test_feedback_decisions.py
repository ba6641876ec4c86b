"""Decisions about signals: what is trainable, what a signal becomes, what may be spent."""

from __future__ import annotations

from typing import Any

import pytest

from learnback.contracts.models import FeedbackKind, FeedbackStatus
from learnback.core.errors import TooManyRequests
from learnback.core.limits import MOST_CALLERS, RateLimiter
from learnback.feedback.joining import decide
from learnback.ledger.completions import Target
from learnback.ledger.trainable import trainable
from learnback.ledger.types import storable

PREFERENCE = {
    "kind": "preference",
    "first": {"completion_id": "a", "choice": 0},
    "second": {"completion_id": "b", "choice": 0},
    "preferred": "first",
}


def a_target(**changes: Any) -> Target:
    values: dict[str, Any] = {
        "id": "a",
        "tenant": "t",
        "prompt_key": "p",
        "choices": frozenset({0}),
        "stored": True,
        "erased": False,
    }
    return Target(**values | changes)


def status(body: dict[str, Any], *known: Target | None, session_known: bool = False) -> str:
    return decide(body, known, session_known=session_known).status.value


@pytest.mark.parametrize(
    ("kind", "used"),
    [
        ("preference", True),
        ("correction", True),
        ("thumbs", True),
        ("rating", True),
        ("comment", False),
        ("outcome", False),
    ],
)
def test_what_says_how_good_an_answer_is_is_trained_on(kind: str, used: bool) -> None:
    reason = trainable(FeedbackKind(kind))
    assert (reason is None) is used
    if reason is not None:
        assert reason.startswith("no training method uses")


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        ((None, None), "pending_target"),
        ((a_target(), None), "pending_target"),
        ((a_target(), a_target()), "accepted"),
        ((a_target(), a_target(prompt_key="q")), "quarantined"),
        ((a_target(choices=frozenset()), None), "quarantined"),
        ((a_target(), a_target(choices=frozenset({1}))), "quarantined"),
        ((None, a_target(erased=True)), "erased"),
        ((a_target(stored=False, choices=frozenset()), a_target()), "recorded"),
        ((a_target(stored=False, choices=frozenset()), None), "pending_target"),
    ],
)
def test_a_preference_is_judged_by_its_targets(
    known: tuple[Target | None, ...], expected: str
) -> None:
    assert status(PREFERENCE, *known) == expected


def test_a_contradiction_names_its_field() -> None:
    verdict = decide(PREFERENCE, [a_target(), a_target(choices=frozenset())], session_known=False)
    assert verdict.field == "second.choice"
    assert verdict.status is FeedbackStatus.QUARANTINED


def test_an_outcome_is_judged_by_its_session() -> None:
    body = {"kind": "outcome", "session_id": "s"}
    assert status(body) == "pending_target"
    assert status(body, session_known=True) == "recorded"


def test_a_bucket_refills_and_refuses_without_spending() -> None:
    time = [0.0]
    limiter = RateLimiter(10, 20, lambda: time[0])
    limiter.take("a", 20)
    with pytest.raises(TooManyRequests) as refused:
        limiter.take("a", 5)
    assert refused.value.retry_after_s == pytest.approx(0.5)
    limiter.take("b")
    time[0] = 0.5
    limiter.take("a", 5)


def test_a_batch_over_the_burst_needs_a_full_bucket() -> None:
    time = [0.0]
    limiter = RateLimiter(10, 20, lambda: time[0])
    limiter.take("a", 1000)
    with pytest.raises(TooManyRequests):
        limiter.take("a", 1)
    time[0] = 2.0
    limiter.take("a", 1000)


def test_buckets_are_bounded() -> None:
    limiter = RateLimiter(1, 1, lambda: 0.0)
    for i in range(MOST_CALLERS + 10):
        limiter.take(str(i))
    assert len(limiter._buckets) == MOST_CALLERS


def test_storable_keeps_all_that_can_be_kept() -> None:
    value = {"a": ["x\x00y", "\ud800", "\U0001f600é", 1.5, float("inf"), None, True, 10**30]}
    assert storable(value) == {
        "a": ["x\ufffdy", "\ufffd", "\U0001f600é", 1.5, None, None, True, 10**30]
    }
