"""A deadline takes no step for which the policy asks people, or samples."""

from __future__ import annotations

from typing import Any

from tests.canary_world import BETTER, CANARY, GOOD, Habits, Town, candidate_of, decided, live
from tests.release_world import BASE, World

from learnback.contracts.models import VersionState
from learnback.ledger import releases
from learnback.release import asking

LOVED = {GOOD: Habits(likes=0.98, speaks=1.0), BASE: Habits(likes=0.1, speaks=1.0)}
LOOSE = [{"measure": "feedback", "margin": "40%"}]


async def waits_for(world: World) -> int | None:
    async with world.database.read() as c:
        return (await releases.find(c, GOOD)).awaiting_step


async def past_deadline(world: World, town: Town, policy: dict[str, Any]) -> Any:
    """The same canary, with a deadline that is over, after some people came."""
    controller = world.controller(canary=CANARY | policy)
    await controller.look()
    await town.come(400)
    async with world.database.write() as c:
        way = await releases.find(c, GOOD)
        plan = dict(way.plan or {})
        plan["policy"] = plan["policy"] | {"deadline": "PT0.001S"}
        await releases.change(c, GOOD, plan=plan)
    await controller.look()
    return controller


async def test_a_manual_last_step_is_asked_for_though_it_is_safe(lite: World) -> None:
    steps = [{"traffic": "50%", "min_people": 1}, {"traffic": "100%", "approval": "manual"}]
    policy = {"steps": steps, "metrics": LOOSE, "on_deadline": "promote_if_safe"}
    town = Town(lite, {}, default=Habits(likes=0.7, speaks=1.0))
    controller = await past_deadline(lite, town, policy)
    assert await waits_for(lite) == 1
    assert (await lite.stable()).version == BASE
    await asking.approve(lite.database, GOOD, "ada", "fine", approved=True)
    await controller.look()
    version = await lite.version(GOOD)
    assert (version.state, version.approved_by) == (VersionState.PROMOTED, "ada")


async def test_what_is_proven_early_does_not_jump_over_a_manual_step(lite: World) -> None:
    steps = [
        {"traffic": "30%", "min_people": 1},
        {"traffic": "50%", "min_people": 1, "approval": "manual"},
        {"traffic": "100%"},
    ]
    for action in ("promote_if_safe", "roll_back"):
        await past_deadline(lite, Town(lite, LOVED), {"steps": steps, "on_deadline": action})
        assert (await lite.stable()).version == BASE
        assert (await candidate_of(lite)).version is None
        await asking.ask(lite.database, GOOD, "ada", "again")


async def test_the_deadline_does_not_stand_for_people(lite: World) -> None:
    steps = [{"traffic": "30%", "min_people": 10_000}, {"traffic": "100%"}]
    await past_deadline(lite, Town(lite, LOVED), {"steps": steps, "on_deadline": "promote_if_safe"})
    assert (await lite.version(GOOD)).state is VersionState.ROLLED_BACK


async def test_a_yes_from_before_promotes_nothing_that_is_not_proven(lite: World) -> None:
    steps = [{"traffic": "50%", "min_people": 5}, {"traffic": "100%", "approval": "manual"}]
    controller = lite.controller(canary=CANARY | {"steps": steps})
    await controller.look()
    async with lite.database.write() as c:
        way = await releases.find(c, GOOD)
        await releases.change(
            c, GOOD, awaiting_step=1, plan=(way.plan or {}) | {"policy": _over(way)}
        )
    await asking.approve(lite.database, GOOD, "ada", "soon", approved=True)
    await controller.look()
    assert (await lite.version(GOOD)).state is VersionState.ROLLED_BACK


def _over(way: releases.Release) -> dict[str, Any]:
    assert way.plan is not None
    return way.plan["policy"] | {"deadline": "PT0.001S"}


async def test_held_at_the_deadline_each_manual_step_is_asked_for(lite: World) -> None:
    steps = [
        {"traffic": "10%", "min_people": 1},
        {"traffic": "50%", "min_people": 1, "approval": "manual"},
        {"traffic": "100%"},
    ]
    controller = await past_deadline(
        lite, Town(lite, {}), {"steps": steps, "on_deadline": "hold", "metrics": LOOSE}
    )
    for step in (1, 2):
        assert await waits_for(lite) == step
        await asking.approve(lite.database, GOOD, "ada", "yes", approved=True)
        assert (await lite.stable()).version == BASE
        await controller.look()
    assert (await lite.stable()).version == GOOD


async def test_a_yes_at_the_deadline_waits_for_a_replica_that_lost_it(lite: World) -> None:
    steps = [{"traffic": "50%", "min_people": 1}, {"traffic": "100%"}]
    controller = await past_deadline(lite, Town(lite, {}), {"steps": steps, "on_deadline": "hold"})
    await asking.approve(lite.database, GOOD, "ada", "yes", approved=True)
    await lite.replica("replica-2", [BETTER])
    await controller.look()
    assert (await lite.stable()).version == BASE
    await lite.replica("replica-2", [GOOD])
    await controller.look()
    assert (await lite.stable()).version == GOOD


async def test_a_step_of_a_fraction_of_a_percent_ends(lite: World) -> None:
    steps = [{"traffic": "29.3%", "min_people": 5}, {"traffic": "100%"}]
    town = Town(lite, LOVED)
    assert await live(
        town, lite.controller(canary=CANARY | {"steps": steps}).look, 12, 60, decided(lite)
    )
    assert (await lite.version(GOOD)).state is VersionState.PROMOTED
