"""Nobody gets a version before every live replica has it, whatever happens to the controller."""

from __future__ import annotations

from typing import Any

import pytest
from tests.canary_world import (
    CANARY,
    GOOD,
    LIKED,
    Killed,
    Mortal,
    Town,
    candidate_of,
    decided,
    live,
    never,
    shares,
)
from tests.release_world import BASE, World

from learnback.contracts.models import VersionState
from learnback.release import operations, story
from learnback.release.phases import Phase


@pytest.fixture
async def world(lite: World) -> World:
    """Two replicas, of which one has the candidate."""
    await lite.replica("replica-2", [BASE])
    return lite


async def told(world: World) -> Any:
    return await story.tell(world.database, GOOD)


async def test_nobody_gets_a_version_that_one_replica_lacks(world: World) -> None:
    town = Town(world, LIKED)
    controller = world.controller(canary=CANARY)
    for _ in range(3):
        await controller.look()
        await town.come(40)
    assert await shares(world) == [(GOOD, 0.0)]
    said = await told(world)
    assert said.phase is Phase.LOADING
    assert said.reasons == ["loading: 1 of 2 replicas (without it: replica-2)"]
    (line,) = (await story.list_releases(world.database, {})).versions[:1]
    assert (line.phase, line.reasons) == (Phase.LOADING, said.reasons)
    await world.replica("replica-2", [BASE, GOOD])
    await controller.look()
    assert (await candidate_of(world)).weight == 0.1
    assert (await told(world)).phase is Phase.CANARY
    assert town.unverified == []


@pytest.mark.parametrize("steps", [[{"traffic": "100%"}], CANARY["steps"]])
async def test_one_step_waits_as_well_as_a_canary(world: World, steps: Any) -> None:
    controller = world.controller(canary=CANARY | {"steps": steps})
    await controller.look()
    assert (await world.stable()).version == BASE
    await world.replica("replica-2", None)  # it ends: nobody waits for it
    await controller.look()
    assert (await told(world)).phase is (Phase.PROMOTED if len(steps) == 1 else Phase.CANARY)


async def test_a_replica_that_takes_no_requests_is_not_waited_for(world: World) -> None:
    await world.replica("replica-2", [], serving=False)
    await world.controller().look()
    assert (await world.stable()).version == GOOD


async def test_of_no_replica_nothing_is_known(world: World) -> None:
    await world.replica("replica-1", None)
    await world.replica("replica-2", None)
    await world.controller().look()
    assert (await told(world)).reasons == ["loading: no replica says that it lives"]
    assert (await world.stable()).version == BASE


@pytest.mark.parametrize(
    ("action", "state"),
    [("roll_back", VersionState.ROLLED_BACK), ("hold", VersionState.PASSED)],
)
async def test_what_is_not_loaded_in_time(world: World, action: str, state: VersionState) -> None:
    late = CANARY | {"load_within": "PT0.001S", "on_not_loaded": action}
    controller = world.controller(canary=late)
    await controller.look()
    await controller.look()
    assert (await world.version(GOOD)).state is state
    assert (await world.stable()).version == BASE
    if action == "hold":
        await world.replica("replica-2", [GOOD])
        await controller.look()
        assert (await candidate_of(world)).weight == 0.1
    else:
        (last, *_) = (await told(world)).history
        assert "1 of 2 replicas (without it: replica-2) after" in last.reason


async def test_a_replica_that_lost_a_version_keeps_it_at_its_step(world: World) -> None:
    await world.replica("replica-2", [GOOD])
    town = Town(world, LIKED)
    controller = world.controller(canary=CANARY)
    await controller.look()
    await town.come(200)
    await world.replica("replica-2", [BASE])
    await controller.look()
    last = (await told(world)).looks[-1]
    assert (last.verdict, last.weight) == ("hold", 0.1)
    assert last.reason.startswith("loading: 1 of 2 replicas")
    await world.replica("replica-2", [GOOD])
    await controller.look()
    assert (await candidate_of(world)).weight == 0.5


async def test_rollback_by_hand_ends_the_loading(world: World) -> None:
    controller = world.controller(canary=CANARY)
    await controller.look()
    await operations.rollback(world.database, world.redis, "ada", "not that one")
    await world.replica("replica-2", [GOOD])
    await controller.look()
    assert (await world.version(GOOD)).state is VersionState.ROLLED_BACK
    assert await shares(world) == [(GOOD, 0.0), (None, 0.0)]


TRANSACTIONS = 8
"""Lease, evaluation, verdict, loading, and two looks of the lease and the replicas."""


@pytest.mark.parametrize("committed", [False, True])
@pytest.mark.parametrize("at", range(1, TRANSACTIONS + 1))
async def test_killed_while_replicas_load_it_goes_on(
    world: World, at: int, committed: bool
) -> None:
    town = Town(world, LIKED)
    real = world.database
    world.database = Mortal(real, at, committed)  # type: ignore[assignment]
    dying = world.controller(canary=CANARY)
    world.database = real
    with pytest.raises(Killed):
        await live(town, dying.look, 10, 10, never)
    successor = world.controller(canary=CANARY)
    await live(town, successor.look, 3, 10, never)
    assert await shares(world) == [(GOOD, 0.0)]
    await world.replica("replica-2", [BASE, GOOD])
    assert await live(town, successor.look, 30, 60, decided(world))
    assert (await world.version(GOOD)).state is VersionState.PROMOTED
    assert await shares(world) == [(GOOD, 0.0), (GOOD, 0.1), (GOOD, 0.5), (None, 0.0)]
    assert town.unverified == []
