"""From records to people: whose version was drawn, with which chance, and what came of it."""

from __future__ import annotations

import math
from collections import Counter
from datetime import timedelta
from typing import Any

import numpy as np
import pytest
from tests.factories import AT

from learnback.contracts.models import Track, VersionKind
from learnback.inference.routing import Servable, Snapshot, route
from learnback.ledger.canaries import Served, Signal
from learnback.release.observing import Crowd, Evidence, people_of, scored
from learnback.release.places import place
from learnback.release.policy import Measure

WINDOW = timedelta(minutes=30)
SLOW = timedelta(seconds=2)


def served(minute: float, subject: str | None = "ada", **changes: Any) -> Served:
    values: dict[str, Any] = {
        "id": f"c{minute}-{subject}",
        "at": AT + timedelta(minutes=minute),
        "subject": subject,
        "candidate": False,
        "weight": 0.1,
        "failed": False,
        "abandoned": False,
        "first_byte_s": 0.5,
    }
    return Served(**values | changes)


def crowd(*all_served: Served, until: float = 1e6) -> Crowd:
    found = Crowd(WINDOW)
    found.add(all_served)
    found.close(AT + timedelta(minutes=until))
    return found


def test_a_persons_requests_within_the_window_are_one_observation() -> None:
    found = crowd(served(0), served(10, failed=True), served(29), served(31, failed=True))
    (person,) = found.closed
    people = people_of(Measure.ERRORS, [person], Evidence(), SLOW, WINDOW)
    assert people.outcome == pytest.approx([2 / 3])


def test_a_window_that_is_not_over_says_nothing() -> None:
    assert crowd(served(0), until=29).closed == []


def test_what_was_not_drawn_is_left_out() -> None:
    assert crowd(served(0, weight=0.0), served(1, weight=1.0, candidate=True)).closed == []


def test_unknown_people_are_new_each_time() -> None:
    assert len(crowd(served(0, None), served(1, None)).closed) == 2


def test_the_chance_is_given_the_steps_before() -> None:
    found = crowd(
        served(0, weight=0.01),
        served(60, weight=0.1),
        served(120, weight=0.5, candidate=True),
        served(180, weight=0.9, candidate=True),
    )
    assert [(p.weight, p.treated) for p in found.closed] == [
        (0.01, False),
        (0.1, False),
        (0.5, True),
    ]
    chances = [p.probability for p in found.closed]
    assert chances == pytest.approx([0.01, 0.09 / 0.99, 0.4 / 0.9])


def test_routing_gives_the_candidate_as_often_as_the_test_believes() -> None:
    """4000 people come at each of three steps; the shares of those drawn anew match."""
    found = Crowd(WINDOW)
    versions = {n: Servable(n, VersionKind.ADAPTER, n) for n in ("old", "new")}
    for step, weight in enumerate((0.05, 0.2, 0.6)):
        snapshot = Snapshot(frozenset({"m"}), versions, "old", "new", weight)
        for i in range(4000):
            given = route(snapshot, "m", f"person {i}")
            candidate = given.track is Track.CANDIDATE
            share = given.probability if candidate else 1 - given.probability
            one = served(
                100 * step + i / 1000, f"person {i}", candidate=candidate, weight=round(share, 9)
            )
            found.add([one])
    found.close(AT + timedelta(days=30))
    drawn: Counter[float] = Counter()
    treated: Counter[float] = Counter()
    for person in found.closed:
        drawn[person.probability] += 1
        treated[person.probability] += person.treated
    assert len(drawn) == 3
    for chance, n in drawn.items():
        error = 4 * math.sqrt(chance * (1 - chance) / n)
        assert abs(treated[chance] / n - chance) < error


def test_closed_people_stay_in_the_order_in_which_they_were_tested() -> None:
    found = Crowd(WINDOW)
    found.add([served(10, "late")])
    found.close(AT + timedelta(minutes=41))
    found.add([served(5, "later known")])
    found.close(AT + timedelta(minutes=41))
    assert [p.served[0].subject for p in found.closed] == ["late", "later known"]


@pytest.mark.parametrize(
    ("measure", "changes", "expected"),
    [
        (Measure.ERRORS, {"failed": True}, 0.0),
        (Measure.ABANDONED, {"abandoned": True}, 0.0),
        (Measure.ABANDONED, {}, 1.0),
        (Measure.LATENCY, {"first_byte_s": 1.9}, 1.0),
        (Measure.LATENCY, {"first_byte_s": 2.1}, 0.0),
        (Measure.LATENCY, {"first_byte_s": None}, 0.0),
    ],
)
def test_quick_measures(measure: Measure, changes: dict[str, Any], expected: float) -> None:
    found = crowd(served(0, **changes))
    people = people_of(measure, found.closed, Evidence(), SLOW, WINDOW)
    assert people.outcome == pytest.approx([expected])


def test_rewards_are_places_and_kinds_follow_them() -> None:
    found = crowd(served(0, "a"), served(1, "b"), served(2, "c"))
    evidence = Evidence({"c0-a": 0.1, "c1-b": 0.9})
    people = people_of(Measure.REWARD, found.closed, evidence, SLOW, WINDOW)
    assert people.outcome[:2] == pytest.approx([0.1, 0.9])
    assert np.isnan(people.outcome[2])
    said = people_of(Measure.FEEDBACK, found.closed, evidence, SLOW, WINDOW)
    assert said.kind is not None
    assert said.kind.tolist() == [0, 2, 3]
    assert np.isnan(said.outcome).all()


@pytest.mark.parametrize(("score", "expected"), [(-9, 0.0), (9, 1.0), (0.0, 0.5), (0.5, 2 / 3)])
def test_a_place_is_the_share_that_a_score_is_over(score: float, expected: float) -> None:
    assert place(score, [-1.0, 0.0, 1.0]) == pytest.approx(expected)


def test_what_is_said_after_the_window_is_not_seen() -> None:
    found = crowd(served(0))
    signals = [
        Signal("c0-ada", None, "thumbs", AT + timedelta(minutes=5), {"value": "down"}),
        Signal("c0-ada", None, "thumbs", AT + timedelta(minutes=6), {"value": "up"}),
        Signal("c0-ada", None, "thumbs", AT + timedelta(minutes=31), {"value": "up"}),
    ]
    people = people_of(Measure.FEEDBACK, found.closed, Evidence({}, signals), SLOW, WINDOW)
    assert people.outcome == pytest.approx([0.5])


@pytest.mark.parametrize(
    ("kind", "body", "expected"),
    [
        ("thumbs", {"value": "up"}, [("c", 1.0)]),
        ("thumbs", {"value": "down"}, [("c", 0.0)]),
        ("correction", {"text": "better"}, [("c", 0.0)]),
        ("rating", {"value": 4.0}, [("c", 0.75)]),
        ("rating", {"value": 2.0, "scale": {"min": 0, "max": 10}}, [("c", 0.2)]),
        ("comment", {"text": "hm"}, []),
        ("outcome", {"name": "solved", "value": 1}, []),
        (
            "preference",
            {
                "first": {"completion_id": "a"},
                "second": {"completion_id": "b"},
                "preferred": "second",
            },
            [("a", 0.0), ("b", 1.0)],
        ),
        (
            "preference",
            {"first": {"completion_id": "a"}, "second": {"text": "x"}, "preferred": "tie_bad"},
            [("a", 0.5)],
        ),
    ],
)
def test_signals_become_numbers(kind: str, body: dict[str, Any], expected: list[Any]) -> None:
    assert scored(Signal("c", None, kind, AT, body)) == expected


def test_what_is_recorded_after_somebody_was_tested_changes_nothing() -> None:
    found = crowd(served(0), until=40)
    found.add([served(10, failed=True)])
    people = people_of(Measure.ERRORS, found.closed, Evidence(), SLOW, WINDOW)
    assert people.outcome == pytest.approx([1.0])
