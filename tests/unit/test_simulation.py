"""The simulated canaries, in small: equal versions are hardly ever told apart, others soon are."""

from __future__ import annotations

import numpy as np
import pytest

from learnback.release.biases import only_the_unhappy, the_first_favoured
from learnback.release.simulation import COMPARING, KINDS, POLICY, Town, draw, simulate

SMALL = Town(people=4000)
QUICK = POLICY.model_copy(update={"steps": POLICY.steps[1:]})
"""Without the step of 1%, which alone takes 2000 people."""
QUICK_COMPARING = COMPARING.model_copy(update={"steps": POLICY.steps[1:]})


def test_equal_versions_are_hardly_ever_promoted_or_rolled_back() -> None:
    found = simulate(0.0, 200, town=SMALL, policy=QUICK)
    assert found.promoted <= POLICY.alpha
    assert found.rolled_back <= POLICY.alpha
    assert found.peeking > 3 * POLICY.alpha
    assert found.people is None


def test_a_worse_version_is_rolled_back_and_few_see_it() -> None:
    found = simulate(-0.3, 40, town=SMALL, policy=QUICK)
    assert found.rolled_back >= 0.95
    assert found.promoted == 0
    assert found.exposed is not None
    assert found.people is not None
    assert found.exposed < found.people / 3


def test_a_better_version_is_promoted() -> None:
    found = simulate(0.3, 40, town=SMALL, policy=QUICK)
    assert found.promoted >= 0.9
    assert found.rolled_back == 0
    assert len(found.decided_after) == pytest.approx(40 * found.promoted)


def test_the_same_seed_gives_the_same_canaries() -> None:
    assert simulate(0.3, 20, town=SMALL, policy=QUICK, seed=3) == simulate(
        0.3, 20, town=SMALL, policy=QUICK, seed=3
    )
    assert simulate(0.3, 20, town=SMALL, policy=QUICK, seed=3) != simulate(
        0.3, 20, town=SMALL, policy=QUICK, seed=4
    )


def test_traffic_grows_only_after_enough_people_and_their_window() -> None:
    chunk = draw(np.random.default_rng(0), 10, 0.0, Town(), POLICY)
    assert chunk.feedback.kinds == KINDS
    for row in range(10):
        share, treated = chunk.share[row], chunk.treated[row]
        assert (np.diff(share) >= 0).all()
        assert treated[share == 0.01].sum() >= POLICY.steps[0].min_people
        assert treated[share == 0.1].sum() >= POLICY.steps[1].min_people
        assert abs(treated[share == 0.5].mean() - 0.5) < 0.05
        enough = chunk.at[row][np.cumsum(treated) >= POLICY.steps[0].min_people][0]
        assert chunk.at[row][share == 0.1][0] > enough + 0.5  # the window is half an hour


def test_the_correction_takes_most_of_the_bias_of_unhappy_voters_away() -> None:
    found = only_the_unhappy(canaries=40)
    assert found.corrected is not None
    assert abs(found.uncorrected) > 0.03
    assert abs(found.corrected) < abs(found.uncorrected) / 3


def test_the_correction_takes_most_of_the_bias_of_who_takes_the_first_answer_away() -> None:
    found = the_first_favoured(canaries=60, habit=0.4)
    assert found.corrected is not None
    assert found.uncorrected < -0.03
    assert abs(found.corrected) < abs(found.uncorrected) / 3
    assert the_first_favoured(canaries=60, habit=0.4, drawn=False).uncorrected < -0.4


def test_equal_versions_side_by_side_are_hardly_ever_told_apart() -> None:
    found = simulate(0.0, 200, town=SMALL, policy=QUICK_COMPARING)
    assert found.comparing
    assert found.promoted <= POLICY.alpha
    assert found.rolled_back <= POLICY.alpha


def test_who_sees_both_needs_to_say_less_than_who_sees_one() -> None:
    town = Town(people=6000)
    one, both = (simulate(0.1, 40, town=town, policy=p) for p in (QUICK, QUICK_COMPARING))
    assert both.promoted >= 0.8
    assert one.votes is not None
    assert both.votes is not None
    assert both.votes < one.votes / 1.5
    assert simulate(-0.3, 20, town=SMALL, policy=QUICK_COMPARING).rolled_back >= 0.95
