"""What a look reads: all that was recorded, once, and nothing of it is lost."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text
from tests.canary_world import CANARY, GOOD, Habits, Town, candidate_of, looks_at
from tests.release_world import BASE, World, a_completion

from learnback.contracts.models import Alias, CompletionEnd, Timings, Track
from learnback.core.clock import now
from learnback.core.errors import Unavailable
from learnback.core.ids import uuid7
from learnback.ledger import canaries, completions, releases
from learnback.registry import store
from learnback.release import operations, story
from learnback.release.plans import Plan
from learnback.release.policy import CanaryPolicy
from learnback.release.watching import Watch

HALF = {"steps": [{"traffic": "50%", "min_people": 5}, {"traffic": "100%"}]}


def a_watch(since: datetime) -> Watch:
    policy = CanaryPolicy.model_validate(
        CANARY | HALF | {"window": "PT1M", "metrics": [{"measure": "errors", "margin": "2%"}]}
    )
    return Watch(GOOD, Plan(policy=policy, stable=BASE, stable_revision=1), since)


async def serve(world: World, count: int, **changes: Any) -> None:
    values: dict[str, Any] = {
        "version": GOOD,
        "track": Track.CANDIDATE,
        "probability": 0.5,
        "timings": Timings(first_byte_s=0.2, duration_s=0.5),
    }
    kind = changes.pop("kind")
    found = [
        a_completion("Hm?", 0, id=f"chatcmpl-{uuid7()}", subject=f"{kind} {i}", **values | changes)
        for i in range(count)
    ]
    async with world.database.write() as c:
        await completions.record(c, found)


async def failures(world: World, watch: Watch) -> tuple[int, float]:
    sight = await watch.look(world.database, watch.plan.policy.steps[0], watch.since)
    (errors,) = sight.measured
    return errors.people_candidate, errors.harm


async def test_an_answer_that_took_five_minutes_is_read(lite: World) -> None:
    watch = a_watch(now() - timedelta(hours=2))
    assert (await failures(lite, watch))[0] == 0
    began = now() - timedelta(minutes=6)
    await serve(
        lite, 30, kind="hung", created_at=began, status_code=500, end=CompletionEnd.ENGINE_ERROR
    )
    assert (await failures(lite, watch))[0] == 30
    assert (await failures(lite, watch))[0] == 30  # and once


async def test_what_the_engine_refuses_of_the_candidate_counts_against_it(lite: World) -> None:
    watch, at = a_watch(now() - timedelta(hours=2)), now() - timedelta(minutes=5)
    await serve(lite, 60, kind="lost", created_at=at, status_code=404, end=CompletionEnd.REFUSED)
    await serve(lite, 60, kind="well", created_at=at, track=Track.STABLE, version=BASE)
    people, harm = await failures(lite, watch)
    assert (people, harm > 4) == (60, True)


async def test_a_blip_of_the_ledger_loses_nobody(
    lite: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    controller = lite.controller(canary=CANARY | HALF)
    await controller.look()
    await Town(lite, {GOOD: Habits(likes=0.7)}).come(60)
    real = canaries.signals_about
    blips = [Unavailable("The ledger blips.")]

    async def away(*given: Any) -> Any:
        if blips:
            raise blips.pop()
        return await real(*given)

    monkeypatch.setattr(canaries, "signals_about", away)
    with pytest.raises(Unavailable):
        await controller.look()
    assert not blips
    await controller.look()
    feedback, _ = (await looks_at(lite))[-1].measured["metrics"]
    assert 20 < feedback["known"] < feedback["people"] == 60


async def test_whom_answers_under_way_at_a_rollback_reached_is_counted(lite: World) -> None:
    controller = lite.controller(canary=CANARY | HALF)
    await controller.look()
    await operations.rollback(lite.database, lite.redis, "ada", "it swears")
    await serve(lite, 3, kind="late", created_at=now())
    assert (await story.tell(lite.database, GOOD)).exposed == 3


async def test_an_operators_rollback_and_a_look_do_not_wait_for_each_other(world: World) -> None:
    controller = world.controller(canary=CANARY | HALF)
    await controller.look()
    rolling: asyncio.Task[Any] | None = None
    async with controller.leadership.write() as c:
        await releases.find(c, GOOD, lock=True)
        before = await store.alias_state(c, Alias.CANDIDATE)
        rolling = asyncio.create_task(
            operations.rollback(world.database, world.redis, "ada", "it swears")
        )
        await _blocked(world)
        await store.move_alias(
            c,
            Alias.CANDIDATE,
            GOOD,
            expected_revision=before.revision,
            actor="canary",
            reason="more",
            weight=0.6,
        )
    await rolling
    assert (await candidate_of(world)).version is None


async def _blocked(world: World) -> None:
    """Somebody waits for a lock; on SQLite whoever writes second does."""
    if world.database.sqlite:
        return
    async with asyncio.timeout(10):
        while True:
            async with world.database.read() as c:
                if await c.scalar(text("select count(*) from pg_locks where not granted")):
                    return
            await asyncio.sleep(0.01)
