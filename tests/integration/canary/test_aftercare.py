"""After a promotion some people keep the version before, and what goes bad then is taken back."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from tests.canary_world import (
    BETTER,
    CANARY,
    GOOD,
    LIKED,
    Habits,
    Time,
    Town,
    candidate_of,
    decided,
    live,
    looks_at,
)
from tests.conftest import wait_until
from tests.release_world import BASE, OTHER_SHORT, World, always

from learnback.contracts.models import VersionState
from learnback.ledger import releases
from learnback.release import operations, story
from learnback.release.controller import Controller

WATCHED = CANARY | {"watch_after": "P1D", "holdback": "20%"}


async def promoted(world: World, town: Town, **changes: Any) -> Controller:
    controller = world.controller(canary=WATCHED, **changes)

    async def look() -> None:
        Time.at += timedelta(seconds=1)
        await controller.look()

    assert await live(town, look, 30, 60, decided(world))
    return controller


async def test_a_share_of_people_keeps_the_version_before(lite: World, time: type[Time]) -> None:
    town = Town(lite, LIKED)
    controller = await promoted(lite, town)
    assert (await lite.stable()).version == GOOD
    kept = await candidate_of(lite)
    assert (kept.version, kept.weight) == (BASE, 0.2)
    assert (await lite.version(GOOD)).state is VersionState.PROMOTED
    await controller.look()
    assert (await looks_at(lite))[-1].verdict == "watch"

    time.at += timedelta(days=1)
    await controller.look()
    assert (await candidate_of(lite)).version is None
    last = (await looks_at(lite))[-1]
    assert (last.verdict, last.reason) == ("promote", "nothing went bad within 1 day, 0:00:00")
    await controller.look()
    assert (await looks_at(lite))[-1] == last


async def test_what_goes_bad_after_its_promotion_is_taken_back(
    lite: World, time: type[Time]
) -> None:
    town = Town(lite, dict(LIKED), regulars=300)
    await promoted(lite, Town(lite, LIKED))
    town.habits[GOOD] = Habits(fails=0.9)
    for _ in range(5):
        time.at += timedelta(minutes=1)
        await town.come(60)
    time.at += timedelta(minutes=2)
    await lite.controller(canary=WATCHED).look()  # another one than promoted it

    assert ((await lite.stable()).version, (await candidate_of(lite)).version) == (BASE, None)
    assert (await lite.version(GOOD)).state is VersionState.ROLLED_BACK
    told = await story.tell(lite.database, GOOD)
    assert told.verdict == "roll_back"
    assert told.reasons[0].startswith("errors went bad between ")
    move = told.history[0] if told.history[0].alias == "stable" else told.history[1]
    assert (move.version, move.actor) == (BASE, "aftercare")
    await lite.controller(canary=WATCHED).look()
    assert (await lite.stable()).version == BASE


async def test_equal_troubles_of_both_take_nothing_back(lite: World, time: type[Time]) -> None:
    controller = await promoted(lite, Town(lite, LIKED))
    town = Town(lite, {}, Habits(fails=0.5), regulars=300)
    for _ in range(10):
        time.at += timedelta(minutes=1)
        await town.come(60)
    time.at += timedelta(minutes=2)
    await controller.look()
    assert (await lite.stable()).version == GOOD


async def test_an_operators_rollback_takes_the_promoted_version_back(lite: World) -> None:
    controller = await promoted(lite, Town(lite, LIKED))
    moved = await operations.rollback(lite.database, lite.redis, "ada", "it swears")
    assert (moved.alias, moved.version) == ("stable", BASE)
    assert (await candidate_of(lite)).version is None
    assert (await lite.version(GOOD)).state is VersionState.ROLLED_BACK
    await controller.look()
    assert (await lite.stable()).version == BASE


async def test_the_next_canary_ends_the_watch(lite: World) -> None:
    controller = await promoted(lite, Town(lite, LIKED))
    await lite.candidate(BETTER, always("Nice."))
    await controller.look()
    assert (await candidate_of(lite)).version == BETTER
    async with lite.database.read() as c:
        assert not (await releases.find(c, GOOD)).watched
    rolled = await operations.rollback(lite.database, lite.redis, "ada", "it swears")
    assert (rolled.alias, (await lite.stable()).version) == ("candidate", GOOD)


async def test_a_promotion_by_hand_ends_the_watch(lite: World) -> None:
    controller = await promoted(lite, Town(lite, LIKED))
    await lite.candidate(BETTER)
    await operations.promote(lite.database, lite.redis, BETTER, "ada", "now", force=True)
    assert (await candidate_of(lite)).version is None
    before = await looks_at(lite)
    await controller.aftercare.look()
    assert await looks_at(lite) == before
    assert (await lite.version(GOOD)).state is VersionState.PROMOTED


async def test_it_is_watched_while_the_next_version_is_judged(
    lite: World, time: type[Time], monkeypatch: pytest.MonkeyPatch
) -> None:
    controller = await promoted(lite, Town(lite, LIKED), look_every=timedelta(milliseconds=20))
    controller.leadership.ttl = timedelta(hours=1)
    town = Town(lite, {GOOD: Habits(fails=0.9)}, regulars=300)
    await lite.candidate(BETTER, always(OTHER_SHORT))
    taken: list[str] = []
    real = controller.evaluate

    async def is_base() -> bool:
        return (await lite.stable()).version == BASE

    async def slowly(candidate: Any) -> Any:
        for _ in range(5):
            time.at += timedelta(minutes=1)
            await town.come(60)
        time.at += timedelta(minutes=2)
        await wait_until(is_base, "it is taken back")
        taken.append(candidate.name)
        return await real(candidate)

    monkeypatch.setattr(controller, "evaluate", slowly)
    await controller.look()
    assert taken == [BETTER]
