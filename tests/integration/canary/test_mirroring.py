"""A mirrored step: the candidate answers copies that nobody sees, and they decide as people do."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import select
from tests.canary_world import (
    CANARY,
    GOOD,
    LIKED,
    Habits,
    Killed,
    Mortal,
    Town,
    candidate_of,
    decided,
    live,
    never,
)
from tests.release_world import World

from learnback.contracts.models import Alias, Track, VersionState
from learnback.ledger import completions, releases
from learnback.ledger.tables import completions as table
from learnback.registry import store
from learnback.release import story
from learnback.release.phases import Phase

MIRRORED: dict[str, Any] = CANARY | {
    "steps": [{"mirror": "40%", "min_people": 20}, *CANARY["steps"]],
    "metrics": [*CANARY["metrics"], {"measure": "reward", "margin": "10%"}],
}


async def steps_taken(world: World) -> list[tuple[str | None, float, float]]:
    """What the candidate alias named, with its share and its mirrored share; oldest first."""
    async with world.database.read() as c:
        moves = await store.history(c, Alias.CANDIDATE)
    return [(m.version, m.weight, m.mirror) for m in reversed(moves)]


async def tracks(world: World) -> set[str]:
    """How the candidate's answers were given."""
    async with world.database.read() as c:
        found = await c.scalars(select(table.c.track).where(table.c.version == GOOD).distinct())
    return set(found.all())


async def test_a_mirrored_step_shows_the_candidate_to_nobody_and_then_people_come(
    world: World,
) -> None:
    town = Town(world, LIKED)
    controller = world.controller(canary=MIRRORED)
    await town.come(40)  # stable's answers make the scale of rewards
    await controller.look()
    assert (await candidate_of(world)).mirror == 0.4
    assert (await story.tell(world.database, GOOD)).phase is Phase.MIRRORING
    await town.come(40)
    assert await tracks(world) == {Track.MIRRORED.value}
    async with world.database.read() as c:
        filters: dict[str, Any] = {"metadata": {}, "session": None, "version": GOOD}
        listed = await completions.page(c, "default", after=None, limit=10, **filters)
        assert listed == [], "nobody saw them, so nobody finds them among the answers"

    assert await live(town, controller.look, 40, 60, decided(world))
    assert (await world.version(GOOD)).state is VersionState.PROMOTED
    assert await steps_taken(world) == [
        (GOOD, 0.0, 0.0),
        (GOOD, 0.0, 0.4),
        (GOOD, 0.1, 0.0),
        (GOOD, 0.5, 0.0),
        (None, 0.0, 0.0),
    ]
    async with world.database.read() as c:
        first, *_ = await releases.looks_of(c, GOOD)
    assert [m["measure"] for m in first.measured["metrics"]] == ["errors", "reward"]
    assert first.measured["mirrored"]
    assert first.measured["exposed"] == 0
    assert first.measured["metrics"][0]["people"] >= 10
    assert first.measured["first_byte_s"]["candidate"]
    assert town.unverified == []


@pytest.mark.parametrize(
    ("habits", "blamed"),
    [(Habits(fails=0.6), "errors"), (Habits(reward=-2.0), "reward")],
)
async def test_a_bad_version_is_rolled_back_before_anybody_saw_it(
    lite: World, habits: Habits, blamed: str
) -> None:
    town = Town(lite, {GOOD: habits})
    controller = lite.controller(
        canary=MIRRORED | {"steps": [{"mirror": "40%", "min_people": 500}, *CANARY["steps"]]}
    )
    await town.come(40)
    assert await live(town, controller.look, 60, 40, decided(lite))
    assert (await lite.version(GOOD)).state is VersionState.ROLLED_BACK
    assert await tracks(lite) == {Track.MIRRORED.value}
    told = await story.tell(lite.database, GOOD)
    assert told.looks[-1].reason.split()[0] == blamed
    assert told.history[0].reason.endswith("0 people had got it")


async def test_equal_versions_that_fail_as_often_are_not_told_apart(lite: World) -> None:
    """Also stable's own failures are copied: else the candidate's would look like harm."""
    town = Town(lite, {}, default=Habits(fails=0.3))
    no_margin = MIRRORED | {"metrics": [{"measure": "errors"}, {"measure": "feedback"}]}
    controller = lite.controller(canary=no_margin)
    await controller.look()
    for _ in range(3):
        await town.come(100)
    await controller.look()
    (errors,) = (await story.tell(lite.database, GOOD)).looks[-1].measured["metrics"]
    assert errors["low"] < 0 < errors["high"]


async def test_copies_alone_promote_nobody_also_not_at_the_deadline(lite: World) -> None:
    policy = MIRRORED | {
        "metrics": [{"measure": "errors", "margin": "50%"}],
        "deadline": "PT1S",
        "on_deadline": "promote_if_safe",
        "steps": [{"mirror": "90%", "min_people": 10_000}, *CANARY["steps"]],
    }
    town = Town(lite, {})
    controller = lite.controller(canary=policy)
    await controller.look()
    await town.come(150)
    assert await live(town, controller.look, 200, 1, decided(lite))
    assert (await lite.version(GOOD)).state is VersionState.ROLLED_BACK
    last = (await story.tell(lite.database, GOOD)).looks[-1]
    assert last.measured["metrics"][0]["safe"] > 3, "the copies prove that it is safe"
    assert last.reason.startswith("the deadline is over; nobody saw it")


TRANSACTIONS = 12
"""Up to the looks at the mirrored step, and the step to the first people."""


@pytest.mark.parametrize("committed", [False, True])
@pytest.mark.parametrize("at", range(4, TRANSACTIONS + 1))
async def test_killed_while_it_mirrors_it_goes_on(lite: World, at: int, committed: bool) -> None:
    town = Town(lite, LIKED)
    await town.come(40)
    real = lite.database
    lite.database = Mortal(real, at, committed)  # type: ignore[assignment]
    dying = lite.controller(canary=MIRRORED)
    lite.database = real
    with pytest.raises(Killed):
        await live(town, dying.look, 30, 40, never)
    successor = lite.controller(canary=MIRRORED)
    assert await live(town, successor.look, 40, 60, decided(lite))
    assert (await lite.version(GOOD)).state is VersionState.PROMOTED
    taken = await steps_taken(lite)
    assert taken[:3] == [(GOOD, 0.0, 0.0), (GOOD, 0.0, 0.4), (GOOD, 0.1, 0.0)]
    assert town.unverified == []
