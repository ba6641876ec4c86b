"""Looks are kept as long as there is something to say, and none is left out unsaid."""

from __future__ import annotations

from datetime import timedelta

import pytest
from tests.canary_world import CANARY, GOOD, LIKED, Town, looks_at
from tests.release_world import World

from learnback.core.clock import now
from learnback.core.errors import NotFound
from learnback.ledger import releases
from learnback.ledger.releases import Look
from learnback.release import story


def a_look(number: int, **changes: object) -> Look:
    values = {
        "version": GOOD,
        "number": number,
        "at": now() + timedelta(seconds=number),
        "step": 0,
        "weight": 0.1,
        "verdict": "hold",
        "reason": f"0:0{number}:00 of 1:00:00 passed at 10%",
        "measured": {"metrics": [{"people": 3, "harm": 0.25}]},
        "token": 1,
    }
    return Look.model_validate(values | changes)


async def test_a_hold_that_saw_nothing_new_is_not_kept_again(world: World) -> None:
    controller = world.controller(canary=CANARY)
    await controller.look()
    for _ in range(3):
        await controller.look()
    assert [look.number for look in await looks_at(world)] == [1]
    await Town(world, LIKED).come(10)
    await controller.look()
    assert [look.number for look in await looks_at(world)] == [1, 2]


@pytest.mark.parametrize(
    "changes",
    [
        {"verdict": "advance"},
        {"step": 1},
        {"reason": "not proven yet"},
        {"measured": {"metrics": [{"people": 4, "harm": 0.25}]}},
    ],
)
async def test_whatever_is_new_is_kept(lite: World, changes: dict[str, object]) -> None:
    async with lite.database.write() as c:
        await releases.keep_look(c, a_look(1))
        assert (await releases.keep_look(c, a_look(2))).number == 1
        assert (await releases.keep_look(c, a_look(2, **changes))).number == 2


async def test_what_a_story_leaves_out_is_counted_and_can_be_read(
    lite: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with lite.database.write() as c:
        for number in range(1, 1006):
            await releases.keep_look(c, a_look(number, verdict="advance"))
    told = await story.tell(lite.database, GOOD)
    assert (len(told.looks), told.earlier_looks) == (1000, 5)
    page = await story.looks_before(lite.database, GOOD, told.looks[0].number, 3)
    assert ([look.number for look in page.looks], page.earlier) == ([3, 4, 5], 2)
    rest = await story.looks_before(lite.database, GOOD, 1, 3)
    assert (rest.looks, rest.earlier) == ([], 0)
    with pytest.raises(NotFound):
        await story.looks_before(lite.database, "nothing", None, 3)
