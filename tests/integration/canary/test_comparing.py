"""What people prefer of two answers side by side decides a canary, whichever stood first."""

from __future__ import annotations

from typing import Any

import pytest
from tests.canary_world import CANARY, GOOD, Habits, Town, decided, live, looks_at
from tests.release_world import BASE, World

from learnback.contracts.models import VersionState

ASKED = {
    "steps": [{"traffic": "50%", "min_people": 20}, {"traffic": "100%"}],
    "metrics": [
        {"measure": "preference", "aim": "improve"},
        {"measure": "errors", "margin": "10%"},
    ],
}
POLICY: dict[str, Any] = CANARY | ASKED


@pytest.mark.parametrize(
    ("good", "base", "state"),
    [(0.9, 0.2, VersionState.PROMOTED), (0.2, 0.9, VersionState.ROLLED_BACK)],
)
async def test_the_version_that_people_prefer_wins(
    world: World, good: float, base: float, state: VersionState
) -> None:
    habits = {GOOD: Habits(likes=good), BASE: Habits(likes=base)}
    town = Town(world, habits, default=Habits(compares=0.7), first_favoured=0.3)
    controller = world.controller(canary=POLICY)
    assert await live(town, controller.look, 30, 60, decided(world))
    assert (await world.version(GOOD)).state is state
    last = (await looks_at(world))[-1]
    preference, errors = last.measured["metrics"]
    assert preference["known"] < errors["people"], "not everybody asks for two answers"
    assert (preference["raw"] > 0) == (good > base)
    assert last.measured["exposed"] > errors["people_candidate"], "who compared has seen it too"
    if state is VersionState.ROLLED_BACK:
        assert last.reason.startswith("preference")


async def test_raters_who_favour_the_first_answer_tell_equal_versions_apart_by_no_order(
    world: World,
) -> None:
    town = Town(world, {}, default=Habits(compares=1.0), first_favoured=0.9)
    controller = world.controller(canary=POLICY)
    await controller.look()
    for _ in range(4):
        await town.come(150)
    await controller.look()
    (preference, _) = (await looks_at(world))[-1].measured["metrics"]
    assert preference["known"] > 200
    assert preference["low"] < 0 < preference["high"]
    assert abs(preference["raw"]) < 0.2


async def test_what_nobody_compared_is_never_proven(world: World) -> None:
    town = Town(world, {GOOD: Habits(likes=1.0)}, default=Habits(likes=0.0))
    controller = world.controller(canary=POLICY)
    assert not await live(town, controller.look, 4, 60, decided(world))
    last = (await looks_at(world))[-1]
    assert (last.verdict, "preference was not measured" in last.reason) == ("hold", True)
