"""From a breach to the rollback in calendar time, with the windows that production has."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest
from tests.canary_world import GOOD, Habits, Time, Town, candidate_of, looks_at
from tests.release_world import World

from learnback.contracts.models import Alias, VersionState
from learnback.ledger import releases
from learnback.registry import store
from learnback.release import story
from learnback.release.plans import SETTLE
from learnback.release.settings import ReleaseSettings

POLICY: dict[str, Any] = {
    "steps": [{"traffic": "50%", "min_people": 1000}, {"traffic": "100%"}],
    "metrics": [
        {"measure": "feedback", "aim": "improve"},
        {"measure": "reward", "margin": "5%"},
        {"measure": "errors", "margin": "2%"},
        {"measure": "abandoned", "margin": "3%"},
        {"measure": "latency", "margin": "5%"},
    ],
}
"""The default metrics, window, and alpha."""
LOOK_EVERY: timedelta = ReleaseSettings.model_fields["look_every"].default


async def seen_by_all(world: World, town: Town, per_minute: int, time: type[Time]) -> Any:
    """A canary of an hour, at which each regular was seen and nothing was wrong."""
    controller = world.controller(canary=POLICY)
    controller.rollout.looker.settle = SETTLE
    await controller.look()
    for _ in range(60):
        await town.come(per_minute)
        time.at += timedelta(minutes=1)
    await controller.look()
    assert (await looks_at(world))[-1].verdict == "hold"
    return controller


async def seconds_until_gone(
    world: World, town: Town, controller: Any, time: type[Time], per_second: float
) -> float:
    """From now on, looking as often as a controller does by itself."""
    began = time.at
    while (await candidate_of(world)).version is not None:
        assert time.at - began < timedelta(hours=1), "it was never rolled back"
        for _ in range(6):
            await town.come(round(per_second * LOOK_EVERY.total_seconds() / 6))
            time.at += LOOK_EVERY / 6
        await controller.look()
    return (time.at - began).total_seconds()


@pytest.mark.parametrize(
    ("bad", "blamed", "regulars", "within"),
    [
        (Habits(fails=0.9, speaks=0.02), "errors", 120, 150),
        (Habits(reward=-3.0, speaks=0.02), "reward", 400, 20 * 60),
    ],
)
async def test_a_version_that_goes_bad_when_all_have_been_seen_is_rolled_back(
    lite: World, time: type[Time], bad: Habits, blamed: str, regulars: int, within: float
) -> None:
    town = Town(lite, {}, Habits(speaks=0.02), regulars=regulars)
    controller = await seen_by_all(lite, town, 60, time)
    before = len(town.saw_it)
    town.habits[GOOD] = bad
    town.saw_it.clear()
    began = time.at
    seconds = await seconds_until_gone(lite, town, controller, time, per_second=1)
    print(f"{blamed}: {seconds:.0f} s from the breach to the rollback, {len(town.saw_it)} met it")
    assert seconds <= within

    told = await story.tell(lite.database, GOOD)
    assert told.version.state is VersionState.ROLLED_BACK
    assert told.verdict == "roll_back"
    assert told.reasons[0].startswith(f"{blamed} went bad between ")
    assert told.exposed == before
    (worst,) = [s for s in told.looks[-1].measured["spells"] if s["measure"] == blamed]
    assert datetime.fromisoformat(worst["since"]) + timedelta(minutes=15) >= began
    assert worst["candidate"] < worst["stable"]
    async with lite.database.read() as c:
        last, *_ = await store.history(c, Alias.CANDIDATE)
        assert (await releases.find(c, GOOD)).ended_at is not None
    assert last.reason.endswith("people had got it")


async def test_a_controller_that_starts_anew_finds_it_as_well(
    lite: World, time: type[Time]
) -> None:
    town = Town(lite, {}, Habits(speaks=0.02), regulars=120)
    await seen_by_all(lite, town, 60, time)
    town.habits[GOOD] = Habits(fails=0.9)
    for _ in range(3):
        await town.come(60)
        time.at += timedelta(minutes=1)
    time.at += timedelta(hours=5)  # nobody looked, and nobody came
    successor = lite.controller(canary=POLICY)
    await successor.look()
    assert (await candidate_of(lite)).version is None
    assert (await looks_at(lite))[-1].reason.startswith("errors went bad between ")
