"""A town whose people return: equal versions stay, and one that breaks is gone within minutes."""

from __future__ import annotations

import numpy as np
import pytest

from learnback.release.observing import QUICK_WINDOW
from learnback.release.policy import Measure
from learnback.release.returning import HALF, POLICY, Regulars, draw, simulate


def test_equal_versions_are_hardly_ever_rolled_back_though_people_return() -> None:
    found = simulate(40, town=Regulars(hours=24))
    assert found.rolled_back <= POLICY.alpha
    assert found.promoted <= POLICY.alpha


def test_a_version_that_breaks_after_ten_minutes_is_gone_within_half_an_hour() -> None:
    broken = Regulars(hours=2, breaks_at=1 / 6, fails=0.5)
    found = simulate(20, town=broken, policy=HALF)
    assert found.rolled_back == 1
    assert found.minutes is not None
    assert QUICK_WINDOW.total_seconds() / 60 < found.minutes[0] < 30
    assert found.reached is not None
    assert found.reached < broken.people / 20


def test_where_all_have_been_seen_spans_alone_find_it() -> None:
    village = Regulars(people=150, hours=5, breaks_at=3, fails=0.9)
    found = simulate(20, town=village, policy=HALF)
    assert found.by_spans >= 0.9
    assert found.by_people < 0.2


def test_people_keep_their_version_and_traffic_grows_only_after_enough_of_them() -> None:
    visits, steps = draw(np.random.default_rng(0), Regulars(), POLICY)
    assert [share for share, _ in steps] == [0.01, 0.1, 0.5]
    assert (np.diff(visits.share) >= 0).all()
    for (share, first), step in zip(steps, POLICY.steps, strict=False):
        assert len(np.unique(visits.who[first])) == len(first)
        assert (visits.place[first] < share).sum() >= step.min_people
    said = ~np.isnan(visits.outcome[Measure.FEEDBACK])
    assert 0.01 < said.mean() < 0.03
    again = 1 - len(np.unique(visits.who)) / len(visits.who)
    assert again == pytest.approx(0.87, abs=0.05)
