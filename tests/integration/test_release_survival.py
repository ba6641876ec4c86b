"""A controller that is killed, raced, or left alone by its engine still decides rightly."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.conftest import wait_until
from tests.factories import a_model_trained
from tests.release_world import (
    BASE,
    OTHER_SHORT,
    SHORT,
    World,
    always,
    announced,
)

from learnback.contracts.models import VersionState
from learnback.contracts.streams import MODELS
from learnback.core.bus import Consumer, create_groups, publish
from learnback.core.errors import Conflict, Unavailable
from learnback.release import operations
from learnback.release.engine import CandidateFailing

GOOD, BETTER = "tiny-dpo-000000000001", "tiny-dpo-000000000002"


async def test_killed_while_answers_are_generated(world: World) -> None:
    await world.prepare()
    await world.candidate(GOOD, always(SHORT))

    def dies(version: str, prompt: str) -> int | None:
        if world.engine.count(GOOD) > 10:
            raise asyncio.CancelledError
        return None

    world.engine.fails = dies
    with pytest.raises(asyncio.CancelledError):
        await world.controller(concurrency=1).look()
    before = world.engine.count(BASE)
    world.engine.fails = lambda version, prompt: None
    restarted = world.controller()
    await restarted.look()
    assert await world.moves() == [(GOOD, "gate"), (BASE, "test")]
    assert world.engine.count(BASE) + world.engine.count(GOOD) <= 82  # what was answered is kept
    assert before >= 10


async def test_killed_between_verdict_and_promotion(world: World) -> None:
    await world.prepare()
    await world.candidate(GOOD, always(SHORT))
    dying = world.controller()
    report = await dying.evaluate(await world.version(GOOD))
    assert await dying.record(GOOD, report)
    assert (await world.version(GOOD)).state is VersionState.PASSED

    await world.controller().look()
    await world.controller().look()
    assert await world.moves() == [(GOOD, "gate"), (BASE, "test")]
    assert (await world.version(GOOD)).state is VersionState.PROMOTED
    assert world.engine.count(GOOD) == 40


async def test_killed_between_promotion_and_announcement(world: World) -> None:
    await world.prepare()
    await world.candidate(GOOD, always(SHORT))
    dying = world.controller()
    await dying.record(GOOD, await dying.evaluate(await world.version(GOOD)))
    assert await dying.promote()
    assert await announced(world.redis) == []

    await world.controller().look()
    assert await announced(world.redis) == [("stable", GOOD, 2), ("candidate", None, 2)]
    assert await world.moves() == [(GOOD, "gate"), (BASE, "test")]


async def test_of_two_controllers_only_one_acts(world: World) -> None:
    await world.prepare()
    await world.candidate(GOOD, always(SHORT))
    one, two = world.controller(), world.controller()
    reports = [await c.evaluate(await world.version(GOOD)) for c in (one, two)]
    written = await asyncio.gather(one.record(GOOD, reports[0]), two.record(GOOD, reports[1]))
    assert sorted(written) == [False, True]
    results = await asyncio.gather(one.promote(), two.promote(), return_exceptions=True)
    assert [r for r in results if r is True] == [True]
    assert all(r is False or isinstance(r, Conflict) for r in results if r is not True)
    assert await world.moves() == [(GOOD, "gate"), (BASE, "test")]


async def test_what_was_compared_with_another_stable_is_judged_again(lite: World) -> None:
    await lite.prepare()
    await lite.candidate(GOOD, always(SHORT))
    slow = lite.controller()
    await slow.record(GOOD, await slow.evaluate(await lite.version(GOOD)))
    await lite.candidate("tiny-dpo-rival", always(OTHER_SHORT), created_at=a_long_time_ago())
    await operations.promote(
        lite.database, lite.redis, "tiny-dpo-rival", "operator:ada", "by hand", force=True
    )
    assert await slow.promote() is False
    assert (await lite.version(GOOD)).state is VersionState.REGISTERED
    await slow.look()
    report = (await lite.version(GOOD)).gate_report or {}
    assert report["evaluation"]["stable"] == "tiny-dpo-rival"


def a_long_time_ago() -> Any:
    from tests.factories import AT

    return AT.replace(year=2020)


async def test_the_message_wakes_the_controller(lite: World) -> None:
    await lite.prepare()
    await create_groups(lite.redis)
    controller = lite.controller(look_every="PT10M")
    consumer = Consumer(lite.redis, MODELS, "release", controller.on_trained, name="t", block_ms=20)
    tasks = [
        asyncio.create_task(controller.run_forever()),
        asyncio.create_task(consumer.run_forever()),
    ]
    await wait_until(lambda: announced(lite.redis), "the start announces what is stable")
    await lite.candidate(GOOD, always(SHORT))
    await publish(lite.redis, MODELS, [a_model_trained(GOOD)])

    async def promoted() -> bool:
        return (await lite.version(GOOD)).state is VersionState.PROMOTED

    await wait_until(promoted, "the candidate was promoted")
    progress = controller.progress[GOOD].as_data()
    assert (progress["stage"], progress["percent"], progress["done"]) == ("done", 100.0, 80)
    consumer.stop()
    await tasks[1]
    tasks[0].cancel()


async def test_a_missed_message_is_made_up_for(lite: World) -> None:
    await lite.prepare()
    await lite.candidate(GOOD, always(SHORT))
    controller = lite.controller(look_every="PT0.05S")
    task = asyncio.create_task(controller.run_forever())

    async def promoted() -> bool:
        return (await lite.stable()).version == GOOD

    await wait_until(promoted, "found without a message")
    task.cancel()


async def test_an_engine_that_is_down_is_no_verdict(lite: World) -> None:
    await lite.prepare()
    await lite.candidate(GOOD, always(SHORT))
    lite.engine.fails = lambda version, prompt: 503 if prompt != "Hello" else None
    with pytest.raises(Unavailable):
        await lite.controller().look()
    assert (await lite.version(GOOD)).state is VersionState.REGISTERED
    lite.engine.fails = lambda version, prompt: None
    await lite.controller().look()
    assert (await lite.version(GOOD)).state is VersionState.PROMOTED


async def test_a_candidate_that_can_never_be_served_is_refused(lite: World) -> None:
    await lite.prepare()
    await lite.candidate(GOOD, always(SHORT))
    lite.engine.fails = lambda v, p: 503 if (v, p == "Hello") == (GOOD, False) else None
    controller = lite.controller(attempts=2)
    with pytest.raises(CandidateFailing):
        await controller.look()
    await controller.look()
    version = await lite.version(GOOD)
    assert version.state is VersionState.REFUSED
    assert "could not be served" in (version.gate_report or {})["reasons"][0]
