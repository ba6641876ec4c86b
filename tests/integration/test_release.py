"""The controller promotes what is better, refuses what is not, and survives being killed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import wait_until
from tests.factories import a_model_trained
from tests.release_world import (
    BASE,
    JUDGE,
    LONG,
    OTHER_SHORT,
    SHORT,
    World,
    a_completion,
    a_world,
    always,
    held_out_texts,
    user,
)

from learnback.contracts.models import Alias, VersionKind, VersionState
from learnback.contracts.streams import MODELS, RELEASES
from learnback.core.bus import Consumer, create_groups, publish
from learnback.core.errors import Conflict, NotFound, Unavailable, Unprocessable
from learnback.registry import store
from learnback.release import operations
from learnback.release.engine import CandidateFailing

GOOD, BETTER = "tiny-dpo-000000000001", "tiny-dpo-000000000002"


@pytest.fixture
async def world(database: Any, redis: Any, tmp_path: Path) -> AsyncIterator[World]:
    async with a_world(database, redis, tmp_path) as world:
        yield world


@pytest.fixture
async def lite(sqlite_database: Any, redis: Any, tmp_path: Path) -> AsyncIterator[World]:
    """Where the database is not the subject."""
    async with a_world(sqlite_database, redis, tmp_path) as world:
        yield world


async def announced(redis: Any) -> list[tuple[str, str | None, int]]:
    entries = await redis.xrange(RELEASES.key)
    found = [RELEASES.message.model_validate_json(fields[b"body"]) for _, fields in entries]
    return [(m.alias.value, m.version, m.revision) for m in found]


async def test_a_better_candidate_is_promoted(world: World) -> None:
    await world.prepare()
    await world.candidate(GOOD, always(SHORT))
    await world.controller().look()

    version = await world.version(GOOD)
    assert (version.state, version.approved_by) == (VersionState.PROMOTED, "gate")
    report = version.gate_report or {}
    assert (report["verdict"], report["stable_revision"]) == ("passed", 1)
    assert report["evaluation"]["wins"] == 40
    assert report["evaluation"]["judge"]["version"] == JUDGE
    assert all(check["passed"] for check in report["checks"])
    assert await world.moves() == [(GOOD, "gate"), (BASE, "test")]
    assert await announced(world.redis) == [("stable", BASE, 1), ("stable", GOOD, 2)]


async def test_a_worse_candidate_is_refused(world: World) -> None:
    await world.prepare()
    world.engine.says[BASE] = always(SHORT)
    await world.candidate(GOOD, always(LONG), metrics={"distance_from_reference": 0.1})
    await world.controller(gate={"max_length_ratio": 10}).look()
    version = await world.version(GOOD)
    assert version.state is VersionState.REFUSED
    assert version.gate_report is not None
    assert version.gate_report["verdict"] == "refused"
    assert (await world.stable()).version == BASE


async def test_the_same_answers_are_inconclusive(lite: World) -> None:
    await lite.prepare()
    await lite.candidate(GOOD, lite.engine.says[BASE])
    await lite.controller().look()
    version = await lite.version(GOOD)
    assert version.state is VersionState.REFUSED
    assert (version.gate_report or {})["verdict"] == "inconclusive"
    assert (version.gate_report or {})["evaluation"]["ties"] == 40


async def test_a_judge_that_knows_nothing_refuses_without_asking(lite: World) -> None:
    """Pure noise: half of the held-out preferences right is what a coin gets."""
    await lite.prepare(judge={"held_out_pairs": 60, "held_out_correct": 32.0})
    await lite.candidate(GOOD, always(SHORT))
    await lite.controller().look()
    version = await lite.version(GOOD)
    assert version.state is VersionState.REFUSED
    assert "judge" in (version.gate_report or {})["reasons"][0]
    assert lite.engine.asked == []


@pytest.mark.parametrize("metrics", [{}, {"held_out_pairs": 0, "held_out_correct": 0.0}])
async def test_a_judge_without_held_out_preferences_fails_closed(
    lite: World, metrics: dict[str, Any]
) -> None:
    await lite.prepare()
    async with lite.database.write() as c:
        await store.register(
            c, (await store.get(c, JUDGE)).model_copy(update={"name": "r2", "metrics": metrics})
        )
        await store.move_alias(
            c, Alias.REWARD, "r2", expected_revision=1, actor="test", reason="another"
        )
    await lite.candidate(GOOD, always(SHORT))
    await lite.controller().look()
    assert (await lite.version(GOOD)).state is VersionState.REFUSED


async def test_no_reward_model_fails_closed(lite: World) -> None:
    await lite.prepare()
    async with lite.database.write() as c:
        await store.move_alias(
            c, Alias.REWARD, None, expected_revision=1, actor="test", reason="gone"
        )
    await lite.candidate(GOOD, always(SHORT))
    await lite.controller().look()
    version = await lite.version(GOOD)
    assert version.state is VersionState.REFUSED
    assert "no reward model" in (version.gate_report or {})["reasons"][0]


async def test_an_unmeasured_distance_fails_closed(lite: World) -> None:
    await lite.prepare()
    await lite.candidate(GOOD, always(SHORT), metrics={})
    await lite.controller().look()
    assert (await lite.version(GOOD)).state is VersionState.REFUSED


async def test_a_corrupt_judge_promotes_nobody_and_is_looked_at_again(lite: World) -> None:
    await lite.prepare()
    await lite.candidate(GOOD, always(SHORT))
    (lite.folder / "artifacts" / JUDGE / "reward.npz").write_bytes(b"damaged")
    with pytest.raises(Exception, match="changed or are incomplete"):
        await lite.controller().look()
    assert (await lite.version(GOOD)).state is VersionState.REGISTERED
    assert (await lite.stable()).version == BASE


@pytest.mark.parametrize(
    ("says", "guard"),
    [
        (lambda v, p: "", "empty_increase"),
        (lambda v, p: "I'm sorry, but I can't help with that.", "refusal_increase"),
        (lambda v, p: "good good good " * 30, "degenerate_increase"),
        (lambda v, p: " ".join(f"word{i}" for i in range(400)), "length_ratio"),
    ],
)
async def test_a_hacked_reward_does_not_pass_the_guards(lite: World, says: Any, guard: str) -> None:
    await lite.prepare()
    await lite.candidate(GOOD, says)
    await lite.controller().look()
    version = await lite.version(GOOD)
    assert version.state is VersionState.REFUSED
    failed = [c["name"] for c in (version.gate_report or {})["checks"] if not c["passed"]]
    assert guard in failed


async def test_too_few_held_out_prompts_are_inconclusive(lite: World) -> None:
    await lite.prepare(prompts=5)
    await lite.candidate(GOOD, always(SHORT))
    await lite.controller().look()
    report = (await lite.version(GOOD)).gate_report or {}
    assert report["verdict"] == "inconclusive"
    assert "5 held-out prompts" in report["reasons"][-1]


async def test_evaluation_asks_pinned_unstored_and_alike(lite: World) -> None:
    await lite.prepare()
    await lite.candidate(GOOD, always(SHORT))
    await lite.controller(api_key="lb_secret", concurrency=1).look()
    bodies = [b for b in lite.engine.bodies if b["messages"][-1]["content"] != "Hello"]
    assert all(b["store"] is False for b in bodies)
    assert all(b["metadata"] == {"learnback_purpose": "evaluation"} for b in bodies)
    assert all(b["authorization"] == "Bearer lb_secret" for b in bodies)
    assert {(b["temperature"], b["max_tokens"]) for b in bodies} == {(0.7, 64)}
    seeds: dict[str, set[int]] = {}
    for body in bodies:
        seeds.setdefault(body["messages"][0]["content"], set()).add(body["seed"])
    assert all(len(found) == 1 for found in seeds.values())
    assert len({next(iter(found)) for found in seeds.values()}) == 40
    assert [b["model"] for b in bodies[:4]] == [BASE, GOOD, BASE, GOOD]  # interleaved


async def test_stable_is_not_asked_twice(lite: World) -> None:
    await lite.prepare()
    await lite.candidate(GOOD, lite.engine.says[BASE])
    await lite.controller().look()
    assert lite.engine.count(BASE) == 40
    await lite.candidate(BETTER, always(SHORT))
    await lite.controller().look()
    assert (lite.engine.count(BASE), lite.engine.count(BETTER)) == (40, 40)
    assert (await lite.stable()).version == BETTER


async def test_answers_to_prompts_that_are_gone_are_forgotten(lite: World) -> None:
    await lite.prepare()
    await lite.candidate(GOOD, lite.engine.says[BASE])
    controller = lite.controller()
    await controller.look()
    await lite.candidate(BETTER, always(SHORT))
    controller.settings.prompts = 30
    await controller.look()
    assert len(controller.cache.load(BASE)) == 30
    assert controller.cache.load(GOOD) == {}


async def test_older_candidates_are_superseded(lite: World) -> None:
    await lite.prepare()
    await lite.candidate(GOOD, always(SHORT))
    await lite.candidate(BETTER, always(OTHER_SHORT))
    await lite.controller().look()
    old, new = await lite.version(GOOD), await lite.version(BETTER)
    assert (old.state, new.state) == (VersionState.REFUSED, VersionState.PROMOTED)
    assert (old.gate_report or {})["reasons"] == [f"superseded by a newer candidate: {BETTER}"]
    assert lite.engine.count(GOOD) == 0


async def test_manual_approval_waits_for_the_operator(lite: World) -> None:
    await lite.prepare()
    await lite.candidate(GOOD, always(SHORT))
    controller = lite.controller(canary={"steps": [{"traffic": "100%", "approval": "manual"}]})
    await controller.look()
    await controller.look()
    assert (await lite.version(GOOD)).state is VersionState.PASSED
    assert (await lite.stable()).version == BASE
    await operations.promote(lite.database, lite.redis, GOOD, "operator:ada", "looks good")
    version = await lite.version(GOOD)
    assert (version.state, version.approved_by) == (VersionState.PROMOTED, "operator:ada")


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


async def test_a_prompt_that_the_engine_refuses_is_left_out(lite: World) -> None:
    await lite.prepare()
    await lite.candidate(GOOD, always(SHORT))
    too_long = set(held_out_texts(3))
    lite.engine.fails = lambda v, p: 400 if p in too_long else None
    await lite.controller().look()
    evaluation = ((await lite.version(GOOD)).gate_report or {})["evaluation"]
    assert (evaluation["prompts"], evaluation["answered"]) == (37, 37)
    assert (await lite.stable()).version == GOOD


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


async def test_a_refused_version_is_promoted_by_force_only(world: World) -> None:
    await world.prepare()
    await world.candidate(GOOD, always(SHORT), metrics={})
    await world.controller().look()
    with pytest.raises(Conflict, match="distance_from_reference"):
        await operations.promote(world.database, world.redis, GOOD, "operator:ada", "please")
    moved = await operations.promote(
        world.database, world.redis, GOOD, "operator:ada", "please", force=True
    )
    assert (moved.version, moved.revision) == (GOOD, 2)
    latest = (await operations.history(world.database))[0]
    assert (latest.actor, latest.reason) == ("operator:ada", "forced: please")


async def test_promote_refuses_what_can_not_serve(lite: World) -> None:
    await lite.prepare()
    await lite.candidate(GOOD, always(SHORT))
    with pytest.raises(NotFound):
        await operations.promote(lite.database, lite.redis, "nobody", "o", "r")
    with pytest.raises(Unprocessable):
        await operations.promote(lite.database, lite.redis, JUDGE, "o", "r", force=True)
    with pytest.raises(Conflict, match="not judged it yet"):
        await operations.promote(lite.database, lite.redis, GOOD, "o", "r")
    with pytest.raises(Conflict, match="moved meanwhile"):
        await operations.promote(
            lite.database, lite.redis, GOOD, "o", "r", force=True, expected_revision=7
        )
    again = await operations.promote(lite.database, lite.redis, BASE, "o", "r")
    assert again.revision == 1


async def test_rollback_goes_to_the_last_good_version(world: World) -> None:
    await world.prepare()
    await world.candidate(GOOD, kind=VersionKind.ADAPTER)
    await world.candidate(BETTER, kind=VersionKind.ADAPTER)
    for name in (GOOD, BETTER):
        await operations.promote(world.database, world.redis, name, "o", "r", force=True)

    first = await operations.rollback(world.database, world.redis, "operator:ada", "it swears")
    assert first.version == GOOD
    assert (await world.version(BETTER)).state is VersionState.ROLLED_BACK
    second = await operations.rollback(world.database, world.redis, "operator:ada", "it too")
    assert second.version == BASE
    with pytest.raises(Conflict, match="no stable version"):
        await operations.rollback(world.database, world.redis, "operator:ada", "and this")
    with pytest.raises(Conflict, match="rolled back"):
        await operations.promote(world.database, world.redis, BETTER, "o", "r")
    assert [m.reason for m in await operations.history(world.database)][:2] == [
        "rollback: it too",
        "rollback: it swears",
    ]
    await world.controller().look()  # what was rolled back stays so
    assert (await world.stable()).version == BASE


async def test_rollback_to_a_named_version(lite: World) -> None:
    await lite.prepare()
    for name in (GOOD, BETTER):
        await lite.candidate(name)
        await operations.promote(lite.database, lite.redis, name, "o", "r", force=True)
    with pytest.raises(Conflict, match="was not stable"):
        await operations.rollback(lite.database, lite.redis, "o", "r", to="nobody")
    moved = await operations.rollback(lite.database, lite.redis, "o", "r", to=BASE)
    assert moved.version == BASE


async def test_two_rollbacks_at_once_roll_back_once(world: World) -> None:
    await world.prepare()
    for name in (GOOD, BETTER):
        await world.candidate(name)
        await operations.promote(world.database, world.redis, name, "o", "r", force=True)
    results = await asyncio.gather(
        *(
            operations.rollback(world.database, world.redis, who, "r", expected_revision=3)
            for who in ("ada", "bob")
        ),
        return_exceptions=True,
    )
    assert sum(isinstance(r, Conflict) for r in results) == 1
    assert (await world.stable()).version == GOOD


async def test_held_out_prompts_are_real_distinct_and_the_newest(world: World) -> None:
    from learnback.ledger.completions import erase, record
    from learnback.ledger.evaluation import held_out_prompts

    texts = held_out_texts(8)
    served = [a_completion(text, i) for i, text in enumerate([*texts, texts[0]])]
    served += [
        a_completion(texts[1], 20, tenant="acme"),
        a_completion("not held out: a", 21),
        a_completion(texts[7], 22, prompt=({"role": "assistant", "content": "mine"},)),
    ]
    async with world.database.write() as c:
        await record(c, served)
        await erase(c, "default", "chatcmpl-00000003")
    async with world.database.read() as c:
        found = await held_out_prompts(c, limit=5)
        everything = await held_out_prompts(c, limit=100)
    newest_first = [texts[i] for i in (1, 0, 7, 6, 5)]
    assert [p.messages for p in found] == [user(text) for text in newest_first]
    assert texts[3] not in {p.messages[-1]["content"] for p in everything}
    assert len(everything) == 7
