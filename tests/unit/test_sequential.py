"""The canary's test covers what it claims to cover, however often one looks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from learnback.release.sequential import (
    People,
    Scores,
    estimate,
    interval,
    log_wealth,
    paired,
    scores,
)

ALPHA = 0.05


def some_people(
    seed: int, shape: tuple[int, ...], share: float | np.ndarray, effect: float, base: float = 0.6
) -> People:
    """Yes or no, with a base rate that goes up and down in time."""
    rng = np.random.default_rng(seed)
    p = np.broadcast_to(share, shape).astype(float)
    treated = rng.random(shape) < p
    drift = 0.2 * np.sin(np.arange(shape[-1]) / 97)
    chance = np.clip(base + drift + effect * treated, 0, 1)
    return People(treated, p, (rng.random(shape) < chance).astype(float))


def steps(n: int) -> np.ndarray:
    """1%, then 10%, then 50%."""
    return np.repeat([0.01, 0.1, 0.5], [n // 4, n // 4, n - 2 * (n // 4)])


@pytest.mark.parametrize("above", [True, False])
@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, "steps"])
def test_equal_versions_are_hardly_ever_told_apart(share: Any, above: bool) -> None:
    """1000 canaries, looked at after every one of 2000 people, while the base rate drifts."""
    p = steps(2000) if share == "steps" else share
    found = log_wealth(scores(some_people(3, (1000, 2000), p, 0.0)), 0.0, above=above)
    refuted = (found.max(axis=-1) >= np.log(1 / ALPHA)).mean()
    assert refuted <= ALPHA


def test_a_difference_at_the_margin_is_not_over_it() -> None:
    found = scores(some_people(5, (600, 2000), 0.5, 0.05, base=0.5))
    wealth = log_wealth(found, 0.05, above=True).max(axis=-1)
    assert (wealth >= np.log(1 / ALPHA)).mean() <= ALPHA


def test_looking_often_does_cheat_a_test_of_fixed_size() -> None:
    """What the canary would do without all this: the usual z-test, looked at after everybody."""
    found = scores(some_people(3, (400, 2000), 0.5, 0.0))
    n = np.arange(1, 2001)
    mean = np.cumsum(found.z, axis=-1) / n
    error = np.sqrt(np.maximum(np.cumsum(found.z**2, axis=-1) / n - mean**2, 1e-9) / n)
    late = slice(50, None)
    assert ((mean / error)[:, late].max(axis=-1) > 1.645).mean() > 3 * ALPHA


@pytest.mark.parametrize(("effect", "above"), [(0.1, True), (-0.1, False)])
def test_real_differences_are_found(effect: float, above: bool) -> None:
    found = log_wealth(scores(some_people(7, (200, 3000), 0.5, effect)), 0.0, above=above)
    assert (found.max(axis=-1) >= np.log(1 / ALPHA)).mean() >= 0.99


def test_the_wealth_has_a_mean_of_at_most_one() -> None:
    """The definition of an e-value, at three sizes, in the worst case of the hypothesis."""
    found = log_wealth(scores(some_people(11, (4000, 300), 0.3, 0.0)), 0.0, above=True)
    for n in (10, 100, 300):
        wealth = np.exp(found[:, n - 1])
        error = wealth.std() / np.sqrt(len(wealth))
        assert wealth.mean() <= 1 + 4 * error


@pytest.mark.parametrize("effect", [-0.2, 0.0, 0.07])
def test_the_interval_covers_at_the_end(effect: float) -> None:
    covered = 0
    for seed in range(60):
        found = scores(some_people(seed, (800,), steps(800), effect, base=0.5))
        low, high = interval(found, ALPHA)
        covered += low <= effect <= high
        assert low <= high
    assert covered >= 57


@given(
    hnp.arrays(np.bool_, 40),
    hnp.arrays(np.float64, 40, elements=st.floats(0, 1)),
    hnp.arrays(np.float64, 40, elements=st.floats(0.01, 0.99)),
    st.integers(0, 39),
)
def test_nothing_known_before_a_person_rests_on_them(
    treated: np.ndarray, outcome: np.ndarray, p: np.ndarray, at: int
) -> None:
    """Otherwise the wealth would be no supermartingale."""
    one = scores(People(treated, p, outcome))
    changed = outcome.copy()
    changed[at:] = 1 - changed[at:]
    flipped = treated.copy()
    flipped[at:] = ~flipped[at:]
    other = scores(People(flipped, p, changed))
    for name in ("variance", "low", "high", "counts"):
        before, after = getattr(one, name), getattr(other, name)
        assert np.array_equal(before[: at + 1], after[: at + 1])
    assert np.array_equal(one.z[:at], other.z[:at])


@given(
    hnp.arrays(np.bool_, 50),
    hnp.arrays(np.float64, 50, elements=st.floats(0, 1) | st.just(float("nan"))),
    hnp.arrays(np.int8, 50, elements=st.integers(0, 2)),
    hnp.arrays(np.float64, 50, elements=st.floats(0.005, 0.995)),
    st.floats(-1, 1),
)
@settings(max_examples=200)
def test_scores_stay_within_their_bounds_and_wealth_stays_positive(
    treated: np.ndarray, outcome: np.ndarray, kind: np.ndarray, p: np.ndarray, margin: float
) -> None:
    found = scores(People(treated, p, outcome, kind, 3))
    assert (found.low <= found.z + 1e-9).all()
    assert (found.z <= found.high + 1e-9).all()
    eager = Scores(found.z, found.variance, found.low, found.high, np.ones(50, dtype=bool))
    for above in (True, False):
        assert np.isfinite(log_wealth(eager, margin, above=above)).all()


@given(hnp.arrays(np.float64, (30,), elements=st.floats(0, 1)), st.integers(0, 2**30))
def test_swapping_the_versions_mirrors_the_test(outcome: np.ndarray, bits: int) -> None:
    treated = np.array([(bits >> i) & 1 == 1 for i in range(30)])
    half = np.full(30, 0.5)
    one = scores(People(treated, half, outcome))
    other = scores(People(~treated, half, outcome))
    assert one.z == pytest.approx(-other.z)
    assert log_wealth(one, 0.0, above=True) == pytest.approx(log_wealth(other, 0.0, above=False))


def test_many_canaries_at_once_are_each_their_own() -> None:
    people = some_people(1, (5, 200), 0.2, 0.1)
    together = log_wealth(scores(people), 0.0, above=True)
    for i in range(5):
        alone = People(people.treated[i], people.probability[i], people.outcome[i])
        assert log_wealth(scores(alone), 0.0, above=True) == pytest.approx(together[i])


def unhappy_voters(seed: int, shape: tuple[int, ...], effect: float) -> tuple[People, People]:
    """Who is unhappy speaks ten times as often; the learned reward sees who is, mostly.

    The same people twice: as the test takes them, and as if answers were all that there is.
    """
    rng = np.random.default_rng(seed)
    treated = rng.random(shape) < 0.5
    seen = rng.random(shape) < 0.5 + effect / 0.6 * treated  # the answer looks good
    happy = rng.random(shape) < np.where(seen, 0.8, 0.2)
    speaks = rng.random(shape) < np.where(seen, 0.05, 0.5)
    outcome = np.where(speaks, happy, np.nan).astype(float)
    half = np.full(shape, 0.5)
    return (
        People(treated, half, outcome, seen.astype(np.int8), 2),
        People(treated, half, outcome, np.zeros(shape, dtype=np.int8), 1),
    )


def test_biased_raters_are_corrected_for() -> None:
    """Those who speak are mostly the unhappy: the plain difference of what they say is off."""
    corrected, pooled = unhappy_voters(2, (200, 6000), 0.12)
    ours = abs(estimate(scores(corrected)).mean() - 0.12)
    uncorrected = abs(estimate(scores(pooled)).mean() - 0.12)
    assert ours < 0.01
    assert uncorrected > 0.04


def test_equal_versions_with_biased_raters_are_hardly_ever_told_apart() -> None:
    corrected, _ = unhappy_voters(9, (1000, 2000), 0.0)
    for above in (True, False):
        wealth = log_wealth(scores(corrected), 0.0, above=above).max(axis=-1)
        assert (wealth >= np.log(1 / ALPHA)).mean() <= ALPHA


def test_an_outcome_that_is_missing_must_be_accounted_for() -> None:
    half = np.full(3, 0.5)
    with pytest.raises(ValueError, match="missing"):
        scores(People(np.array([True, False, True]), half, np.array([1.0, np.nan, 0.0])))


def test_no_stake_before_enough_answers() -> None:
    corrected, _ = unhappy_voters(4, (60,), 0.3)
    assert log_wealth(scores(corrected), 0.0, above=True)[-1] == 0.0


def test_paired_differences_of_equal_versions_are_rarely_called_harm() -> None:
    """Looked at after every person, with noise of any kind and a prior that changes nothing."""
    rng = np.random.default_rng(3)
    steps = rng.choice([-1.0, 0.0, 1.0], p=[0.15, 0.7, 0.15], size=(400, 800))
    found = paired(steps)
    for above in (True, False):
        ever = (log_wealth(found, 0.0, above=above) >= np.log(1 / 0.05)).any(axis=1)
        assert ever.mean() <= 0.05


def test_who_takes_the_first_answer_tells_equal_versions_apart_by_nothing() -> None:
    rng = np.random.default_rng(5)
    shape = (400, 800)
    first, reads = rng.random(shape) < 0.5, rng.random(shape) > 0.6
    votes = np.where(np.where(reads, rng.random(shape) < 0.5, first), 1.0, -1.0)
    found = paired(votes, first.astype(np.float64))
    for above in (True, False):
        ever = (log_wealth(found, 0.0, above=above) >= np.log(1 / 0.05)).any(axis=1)
        assert ever.mean() <= 0.05


def test_paired_differences_tell_a_worse_version_from_an_equal_one() -> None:
    rng = np.random.default_rng(4)
    worse = rng.choice([-1.0, 0.0, 1.0], p=[0.3, 0.6, 0.1], size=(50, 400))
    harm = log_wealth(paired(worse), 0.0, above=False)[:, -1]
    assert (harm >= np.log(1 / 0.05)).mean() >= 0.95
    low, high = interval(paired(worse[0]), 0.05)
    assert low < -0.2 < high


def test_who_says_nothing_of_two_answers_is_as_if_they_had_not_come() -> None:
    rng = np.random.default_rng(6)
    said = rng.choice([-1.0, 0.0, 1.0], size=300)
    first = rng.integers(0, 2, 300).astype(np.float64)
    silent = rng.random(300) < 0.4
    all_of_them = paired(np.where(silent, np.nan, said), first)
    speakers = paired(said[~silent], first[~silent])
    assert log_wealth(all_of_them, 0.0, above=True)[-1] == pytest.approx(
        log_wealth(speakers, 0.0, above=True)[-1]
    )
    assert estimate(all_of_them) == pytest.approx(estimate(speakers))
