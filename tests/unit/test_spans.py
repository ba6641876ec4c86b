"""People count again in each span of time, so that a version which goes bad later is found out."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import timedelta

import pytest
from tests.factories import AT

from learnback.ledger.canaries import Served
from learnback.release.canary import CanaryVerdict, Standing, decide, measure, span_limit
from learnback.release.observing import Crowd, Evidence, people_of
from learnback.release.policy import CanaryPolicy, Measure, Metric
from learnback.release.spans import GRACE, LENGTHS, Spans, part

MINUTE = timedelta(minutes=1)
SLOW = timedelta(seconds=2)
POLICY = CanaryPolicy.model_validate(
    {
        "steps": [{"traffic": "50%", "min_people": 1000}, {"traffic": "100%"}],
        "metrics": [{"measure": "errors", "margin": "2%"}],
    }
)


def spans() -> Spans:
    return Spans(AT, MINUTE, POLICY.metrics, SLOW)


def served(minute: float, person: int, *, failed: bool = False) -> Served:
    return Served(
        id=f"{minute}-{person}",
        at=AT + minute * MINUTE,
        subject=f"person {person}",
        candidate=person % 2 == 0,
        weight=0.5,
        failed=failed,
        abandoned=False,
        first_byte_s=0.1,
    )


def hours(count: int, breaks: float, people: int = 60) -> list[Served]:
    """The same people come each quarter of an hour; from `breaks` on the candidate fails them."""
    found = [
        served(60 * quarter / 4 + 15 * person / people, person)
        for quarter in range(4 * count)
        for person in range(people)
    ]
    broken = AT + breaks * 60 * MINUTE
    return [
        served((one.at - AT) / MINUTE, int(str(one.subject).split()[1]), failed=True)
        if one.candidate and one.at >= broken
        else one
        for one in found
    ]


def evidence(found: Spans) -> float:
    (spell,) = found.measure(Evidence())
    return spell.evidence


def test_what_goes_bad_when_all_have_been_seen_is_found_by_spans_alone() -> None:
    rows = hours(3, breaks=2)
    crowd, watched = Crowd(MINUTE), spans()
    for one in (crowd, watched):
        one.add(rows)
        one.close(AT + timedelta(hours=4))
    once = people_of(Measure.ERRORS, crowd.closed, Evidence(), SLOW, MINUTE)
    seen = [measure(once, POLICY.metrics[0], POLICY.alpha)]
    standing = Standing(0, timedelta(hours=3), timedelta(hours=3), 30)
    assert decide(seen, standing, POLICY).verdict is CanaryVerdict.HOLD
    (spell,) = watched.measure(Evidence())
    decision = decide(seen, standing, POLICY, [spell])
    assert decision.verdict is CanaryVerdict.ROLL_BACK
    assert decision.reason.startswith("errors went bad between ")
    assert AT + timedelta(hours=2) <= spell.since + spell.length
    assert (spell.candidate, spell.stable) == (0.0, 1.0)


def test_whose_requests_fail_with_any_version_convicts_none_however_often_they_return() -> None:
    """Four of five who ask for what fails have the candidate, by bad luck: each quarter hour looks
    a little bad, and the same ten people are no new evidence."""
    watched, carried, draw = spans(), Crowd(MINUTE), random.Random(1)
    unlucky = {0, 2, 4, 6, 7}
    for quarter in range(96):
        rows = [
            served(15 * quarter + p / 8, p, failed=p in unlucky and draw.random() < 0.5)
            for p in range(60)
        ]
        watched.add(rows)
        watched.close(AT + 15 * (quarter + 1) * MINUTE)
        watched.measure(Evidence())
        carried.add([replace(one, subject=one.id) for one in rows])
    watched.close(AT + timedelta(days=2))
    carried.close(AT + timedelta(days=2))
    assert evidence(watched) < span_limit(POLICY)
    as_new = people_of(Measure.ERRORS, carried.closed, Evidence(), SLOW, MINUTE)
    assert measure(as_new, POLICY.metrics[0], POLICY.alpha).harm > span_limit(POLICY)


def test_a_breach_is_seen_before_its_span_is_over() -> None:
    watched = spans()
    watched.add([served(p / 10, p, failed=p % 2 == 0) for p in range(100)])
    watched.close(AT + 12 * MINUTE)
    assert evidence(watched) > span_limit(POLICY)


def test_an_answer_that_hung_counts_in_the_span_in_which_it_was_asked_for() -> None:
    watched = spans()
    watched.add([served(p / 100, p) for p in range(1, 100, 2)])
    watched.close(AT + 5 * MINUTE)
    before = evidence(watched)
    watched.add([served(p / 100, p, failed=True) for p in range(0, 100, 2)])
    watched.close(AT + 6 * MINUTE)
    assert evidence(watched) > before + 5


def test_what_comes_after_that_changes_nothing_and_little_is_kept() -> None:
    watched = spans()
    watched.add([served(p / 100, p) for p in range(100)])
    watched.close(AT + timedelta(days=2))
    before = evidence(watched)
    watched.add([served(p / 100, p, failed=True) for p in range(100, 200)])
    watched.close(AT + timedelta(days=3))
    assert evidence(watched) == before
    assert timedelta(0) < GRACE < timedelta(hours=1)


@pytest.mark.parametrize("days", [1, 30])
def test_the_parts_of_all_spans_are_no_more_than_one(days: int) -> None:
    total = sum(part(length, n) for length in LENGTHS for n in range(timedelta(days) // length))
    assert total == pytest.approx(1 - 1 / (days + 1))


def test_without_anything_to_watch_there_is_nothing_to_say() -> None:
    watched = Spans(AT, MINUTE, (), SLOW)
    watched.add([served(0, 0)])
    assert watched.close(AT + timedelta(hours=1)) == []
    assert watched.measure(Evidence()) == []


def test_feedback_is_not_watched_over_time_and_then_takes_all_of_alpha() -> None:
    only = CanaryPolicy(metrics=(Metric(measure=Measure.FEEDBACK, aim="improve"),))
    assert only.spanned_metrics == ()
    assert [m.measure for m in CanaryPolicy().spanned_metrics] == [
        "reward",
        "errors",
        "abandoned",
        "latency",
    ]
