"""Reward models are compared on pairs that both were judged by, whatever they are made of."""

from __future__ import annotations

import random

import pytest

from learnback.retraining.comparing import Judged, may_replace, significantly_worse


def margins(mean: float, count: int = 60, seed: int = 0) -> dict[str, float]:
    draw = random.Random(seed)
    return {f"f{i}": draw.gauss(mean, 0.5) for i in range(count)}


GOOD, BAD = margins(2.0), margins(-1.0, seed=1)


def test_the_one_that_orders_pairs_wrong_is_worse() -> None:
    assert significantly_worse(BAD, GOOD)
    assert not significantly_worse(GOOD, BAD)
    assert not significantly_worse(GOOD, GOOD)


def test_pairs_that_only_one_was_judged_by_say_nothing() -> None:
    others = {f"g{i}": -9.0 for i in range(60)}
    few = {f"f{i}": -9.0 for i in range(9)}
    assert not significantly_worse(others, GOOD)
    assert not significantly_worse(few, GOOD)
    assert significantly_worse(few | {"f9": -9.0}, GOOD)


def test_between_two_that_are_certain_there_is_no_difference_that_matters() -> None:
    assert not significantly_worse(dict.fromkeys(GOOD, 20.0), dict.fromkeys(GOOD, 90.0))


@pytest.mark.parametrize(
    ("new", "old", "moves"),
    [
        (Judged(False, GOOD), Judged(False, GOOD), True),
        (Judged(False, BAD), Judged(False, GOOD), False),
        (Judged(True, GOOD), Judged(False, GOOD), True),
        (Judged(True, BAD), Judged(False, GOOD), False),
        (Judged(True, {}), Judged(False, GOOD), True),
        (Judged(False, GOOD), Judged(True, GOOD), False),
        (Judged(False, GOOD), Judged(True, BAD), True),
        (Judged(False, GOOD), Judged(True, {}), False),
    ],
)
def test_the_alias_moves(new: Judged, old: Judged, moves: bool) -> None:
    assert may_replace(new, old) is moves
