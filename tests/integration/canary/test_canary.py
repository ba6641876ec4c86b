"""A canary gives a better version to everybody, a worse one to few and not for long."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from tests.canary_world import (
    BETTER,
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
    looks_at,
    never,
    shares,
)
from tests.release_world import BASE, OTHER_SHORT, World, a_completion, always

from learnback.contracts.models import Alias, CompletionEnd, VersionState
from learnback.contracts.streams import RELEASES
from learnback.core.clock import now
from learnback.ledger import completions, releases
from learnback.ledger.canaries import served_between
from learnback.registry import store
from learnback.release import asking, operations


async def test_a_better_version_goes_step_by_step_to_everybody(world: World) -> None:
    town = Town(world, LIKED)
    controller = world.controller(canary=CANARY)
    assert await live(town, controller.look, 30, 60, decided(world))

    assert await shares(world) == [(GOOD, 0.0), (GOOD, 0.1), (GOOD, 0.5), (None, 0.0)]
    assert await world.moves() == [(GOOD, "canary"), (BASE, "test")]
    version = await world.version(GOOD)
    assert (version.state, version.approved_by) == (VersionState.PROMOTED, "canary")
    looks = await looks_at(world)
    assert [look.number for look in looks] == list(range(1, len(looks) + 1))
    verdicts = [look.verdict for look in looks]
    assert (verdicts.count("advance"), verdicts[-1]) == (1, "promote")
    feedback, errors = looks[-1].measured["metrics"]
    assert feedback["low"] > 0
    assert feedback["known"] < feedback["people"] == errors["people"]
    assert looks[-1].measured["first_byte_s"]["candidate"][0]["value"] == 0.2
    assert town.unverified == []
    last = (await world.redis.xrevrange(RELEASES.key, count=1))[0][1]
    assert GOOD in last[b"body"].decode() or "candidate" in last[b"body"].decode()


@pytest.mark.parametrize(
    ("habits", "blamed"),
    [(Habits(likes=0.02), "feedback"), (Habits(likes=0.95, fails=0.9), "errors")],
)
async def test_a_bad_version_that_slipped_past_the_gate_is_rolled_back(
    lite: World, habits: Habits, blamed: str
) -> None:
    town = Town(lite, {GOOD: habits, BASE: Habits(likes=0.8)})
    controller = lite.controller(canary=CANARY)
    assert await live(town, controller.look, 60, 40, decided(lite))
    assert (await lite.version(GOOD)).state is VersionState.ROLLED_BACK
    assert (await candidate_of(lite)).version is None
    assert (await lite.stable()).version == BASE
    look = (await looks_at(lite))[-1]
    assert (look.verdict, look.reason.split()[0]) == ("roll_back", blamed)
    seen = {m["measure"]: m["people_candidate"] for m in look.measured["metrics"]}
    assert seen[blamed] < town.came / 2
    assert look.measured["exposed"] == len(town.saw_it) < town.came / 2
    async with lite.database.read() as c:
        last, *_ = await store.history(c, Alias.CANDIDATE)
    assert last.reason.endswith(f"{len(town.saw_it)} people had got it")
    print(f"{blamed}: {len(town.saw_it)} of {town.came} people saw the bad version")
    await controller.look()
    assert (await lite.stable()).version == BASE


@pytest.mark.parametrize(
    ("action", "state"),
    [("roll_back", VersionState.ROLLED_BACK), ("hold", VersionState.PASSED)],
)
async def test_what_proves_nothing_until_its_deadline(
    lite: World, action: str, state: VersionState
) -> None:
    controller = lite.controller(canary=CANARY | {"deadline": "PT0.001S", "on_deadline": action})
    await controller.look()
    assert (await candidate_of(lite)).weight == 0.1
    await controller.look()
    look = (await looks_at(lite))[-1]
    assert look.verdict == "inconclusive"
    assert "not measured" in look.reason  # nobody came: a metric without data proves nothing
    assert (await lite.version(GOOD)).state is state
    if action == "hold":
        await asking.approve(lite.database, GOOD, "ada", "I read it", approved=True)
        await controller.look()
        version = await lite.version(GOOD)
        assert (version.state, version.approved_by) == (VersionState.PROMOTED, "ada")


async def test_safe_but_not_better_is_promoted_only_if_the_policy_says_so(lite: World) -> None:
    town = Town(lite, {}, default=Habits(likes=0.7, speaks=1.0))
    loose = CANARY | {
        "metrics": [
            {"measure": "feedback", "aim": "improve", "margin": "40%"},
            {"measure": "errors", "margin": "40%"},
        ],
        "steps": [{"traffic": "50%", "at_least": "PT0.001S"}, {"traffic": "100%"}],
        "deadline": "PT2S",
        "on_deadline": "promote_if_safe",
    }
    controller = lite.controller(canary=loose)
    await controller.look()
    await town.come(400)
    loop = asyncio.get_running_loop()
    end = loop.time() + 10
    while not await decided(lite)() and loop.time() < end:
        await controller.look()
    assert (await lite.version(GOOD)).state is VersionState.PROMOTED
    assert (await looks_at(lite))[-1].verdict in {"inconclusive", "promote"}


async def test_a_person_approves_the_last_step(lite: World) -> None:
    manual = CANARY | {"steps": [*CANARY["steps"][:2], {"traffic": "100%", "approval": "manual"}]}
    town = Town(lite, LIKED)
    controller = lite.controller(canary=manual)

    async def waits() -> bool:
        async with lite.database.read() as c:
            return (await releases.find(c, GOOD)).awaiting_step == 2

    assert await live(town, controller.look, 30, 60, waits)
    await controller.look()
    assert (await lite.stable()).version == BASE
    assert (await candidate_of(lite)).weight == 0.5
    await asking.approve(lite.database, GOOD, "ada", "fine", approved=True)
    assert await live(town, controller.look, 5, 20, decided(lite))
    version = await lite.version(GOOD)
    assert (version.state, version.approved_by) == (VersionState.PROMOTED, "ada")


async def test_a_persons_no_ends_the_canary(lite: World) -> None:
    manual = CANARY | {
        "steps": [
            {"traffic": "50%", "at_least": "PT0.001S"},
            {"traffic": "100%", "approval": "manual"},
        ],
        "deadline": "PT0.001S",
        "on_deadline": "hold",
    }
    controller = lite.controller(canary=manual)
    await controller.look()
    await controller.look()
    await asking.approve(lite.database, GOOD, "ada", "no", approved=False)
    assert (await lite.version(GOOD)).state is VersionState.REFUSED
    assert (await candidate_of(lite)).version is None
    await controller.look()
    assert (await lite.stable()).version == BASE


async def test_a_new_reward_model_in_the_middle_leaves_no_gap(lite: World) -> None:
    town = Town(lite, {GOOD: Habits(reward=-2.0)})
    by_reward = CANARY | {"metrics": [{"measure": "reward", "margin": "5%"}]}
    controller = lite.controller(canary=by_reward | {"steps": CANARY["steps"][1:]})
    await town.come(40)  # stable's answers, before there is a candidate
    await controller.look()
    await town.come(20)
    await controller.look()
    before = (await looks_at(lite))[-1].measured["metrics"][0]
    assert 0 < before["known"] == before["people"]
    town.reward_model = "tiny-reward-1"
    assert await live(town, controller.look, 20, 100, decided(lite))
    after = (await looks_at(lite))[-1]
    assert (after.verdict, after.reason.split()[0]) == ("roll_back", "reward")
    assert after.measured["metrics"][0]["known"] > before["known"]


async def test_rollback_by_hand_takes_the_candidate_first(lite: World) -> None:
    await operations.promote(lite.database, lite.redis, GOOD, "o", "first", force=True)
    await lite.candidate(BETTER, always(OTHER_SHORT))
    lite.engine.says[GOOD] = lite.engine.says[BASE]
    controller = lite.controller(canary=CANARY)
    await controller.look()
    assert (await candidate_of(lite)).version == BETTER
    moved = await operations.rollback(lite.database, lite.redis, "ada", "it swears")
    assert (moved.alias, moved.version) == (Alias.CANDIDATE, None)
    assert (await lite.version(BETTER)).state is VersionState.ROLLED_BACK
    assert (await lite.stable()).version == GOOD
    again = await operations.rollback(lite.database, lite.redis, "ada", "that one too")
    assert (again.alias, again.version) == (Alias.STABLE, BASE)


async def test_a_stable_version_moved_by_hand_ends_the_canary(lite: World) -> None:
    controller = lite.controller(canary=CANARY)
    await controller.look()
    await lite.candidate(BETTER)
    await operations.promote(lite.database, lite.redis, BETTER, "ada", "now", force=True)
    assert (await candidate_of(lite)).version is None
    assert (await lite.version(GOOD)).state is VersionState.REGISTERED


async def test_newer_versions_wait_while_a_canary_runs(lite: World) -> None:
    controller = lite.controller(canary=CANARY)
    await controller.look()
    await lite.candidate(BETTER, always(OTHER_SHORT))
    await controller.look()
    assert (await lite.version(BETTER)).state is VersionState.REGISTERED
    assert lite.engine.count(BETTER) == 0


TRANSACTIONS = 17
"""Lease, evaluation, verdict, loading, first step, and each look with its lease up to the
promotion."""


@pytest.mark.parametrize("committed", [False, True])
@pytest.mark.parametrize("at", range(1, TRANSACTIONS + 1))
async def test_killed_at_any_step_it_goes_on(lite: World, at: int, committed: bool) -> None:
    town = Town(lite, LIKED)
    real = lite.database
    mortal = Mortal(real, at, committed)
    lite.database = mortal  # type: ignore[assignment]
    dying = lite.controller(canary=CANARY)
    lite.database = real
    with pytest.raises(Killed):
        await live(town, dying.look, 30, 100, never)
    assert mortal.died
    await town.come(20)

    successor = lite.controller(canary=CANARY)
    assert await live(town, successor.look, 30, 60, decided(lite))
    assert (await lite.version(GOOD)).state is VersionState.PROMOTED
    assert await shares(lite) == [(GOOD, 0.0), (GOOD, 0.1), (GOOD, 0.5), (None, 0.0)]
    assert await lite.moves() == [(GOOD, "canary"), (BASE, "test")]
    assert town.unverified == []
    numbers = [look.number for look in await looks_at(lite)]
    assert numbers == list(range(1, len(numbers) + 1))


async def test_the_kills_reach_from_the_first_lease_to_the_promotion(lite: World) -> None:
    """Else the test above would prove less than it says."""
    town = Town(lite, LIKED)
    real = lite.database
    counted = Mortal(real, 0, committed=False)
    lite.database = counted  # type: ignore[assignment]
    controller = lite.controller(canary=CANARY)
    lite.database = real
    assert await live(town, controller.look, 30, 100, decided(lite))
    assert counted.count <= TRANSACTIONS


@pytest.mark.parametrize("committed", [False, True])
@pytest.mark.parametrize("at", range(6, 12))
async def test_killed_while_it_rolls_back_nobody_stays_with_the_candidate(
    lite: World, at: int, committed: bool
) -> None:
    town = Town(lite, {GOOD: Habits(likes=0.0, fails=0.95), BASE: Habits(likes=0.9)})
    real = lite.database
    lite.database = Mortal(real, at, committed)  # type: ignore[assignment]
    dying = lite.controller(canary=CANARY)
    lite.database = real
    with pytest.raises(Killed):
        await live(town, dying.look, 30, 150, never)
    assert await live(town, lite.controller(canary=CANARY).look, 30, 60, decided(lite))
    assert (await lite.version(GOOD)).state is VersionState.ROLLED_BACK
    assert (await candidate_of(lite)).version is None
    assert await lite.moves() == [(BASE, "test")]


async def test_a_controller_that_lost_its_lease_changes_no_canary(lite: World) -> None:
    town = Town(lite, LIKED)
    paused = lite.controller(canary=CANARY)
    await paused.look()
    await town.come(100)
    rival = lite.controller(canary=CANARY)
    await rival.leadership.lead()
    async with lite.database.read() as c:
        way = await releases.find(c, GOOD)
    before = await looks_at(lite)
    with pytest.raises(Exception, match="Another process acts"):
        await paused.rollout.look(GOOD, way)
    assert await looks_at(lite) == before
    assert (await candidate_of(lite)).weight == 0.1


async def test_people_who_leave_are_no_fault_of_a_version(sqlite_database: Any) -> None:
    left = {"end": CompletionEnd.CLIENT_DISCONNECTED, "status_code": 500}
    broke = {"end": CompletionEnd.ENGINE_ERROR, "status_code": 500}
    served = [a_completion("a", 1, **left), a_completion("b", 2, **broke)]
    async with sqlite_database.write() as c:
        await completions.record(c, served)
        seen = await served_between(c, BASE, now() - timedelta(hours=1), now())
    assert [(one.failed, one.abandoned) for one in seen] == [(False, True), (True, False)]
