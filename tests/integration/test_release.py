"""The controller promotes what is better and refuses what is not."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import update
from tests.learning import tell
from tests.release_world import (
    BASE,
    JUDGE,
    LONG,
    OTHER_SHORT,
    SHORT,
    World,
    a_completion,
    always,
    announced,
    held_out_texts,
    user,
)

from learnback.contracts.models import Alias, VersionKind, VersionState
from learnback.ledger import completions
from learnback.ledger.evaluation import held_out_prompts
from learnback.ledger.tables import feedback
from learnback.registry import store
from learnback.release import operations

GOOD, BETTER = "tiny-dpo-000000000001", "tiny-dpo-000000000002"


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
    assert await announced(world.redis) == [
        ("stable", BASE, 1),
        ("stable", GOOD, 2),
        ("candidate", None, 2),
    ]


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
    assert len(controller.evaluator.cache.load(BASE)) == 30
    assert controller.evaluator.cache.load(GOOD) == {}


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


async def test_a_prompt_that_the_engine_refuses_is_left_out(lite: World) -> None:
    await lite.prepare()
    await lite.candidate(GOOD, always(SHORT))
    too_long = set(held_out_texts(3))
    lite.engine.fails = lambda v, p: 400 if p in too_long else None
    await lite.controller().look()
    evaluation = ((await lite.version(GOOD)).gate_report or {})["evaluation"]
    assert (evaluation["prompts"], evaluation["answered"]) == (37, 37)
    assert (await lite.stable()).version == GOOD


async def test_prompts_of_people_nobody_learned_from_are_told_apart(world: World) -> None:
    ada, bob, eve, anonymous = held_out_texts(4)
    asked = {ada: "ada", bob: "bob", eve: "eve", anonymous: None}
    ids = await tell(world.database, 2, prefix="t", status="trained", trained_version="v1")
    async with world.database.write() as c:
        await completions.record(
            c, [a_completion(text, i, subject=who) for i, (text, who) in enumerate(asked.items())]
        )
        for feedback_id, who in zip(ids, ("ada", "bob"), strict=True):
            await c.execute(
                update(feedback).where(feedback.c.id == feedback_id).values(rater_id=who)
            )
        await c.execute(update(feedback).where(feedback.c.id == ids[1]).values(tenant="acme"))
    async with world.database.read() as c:
        found = await held_out_prompts(c, limit=9)
    strangers = {p.messages[0]["content"]: p.stranger for p in found}
    assert {text: strangers[text] for text in asked} == {
        ada: False,
        bob: True,  # another tenant's bob was learned from
        eve: True,
        anonymous: False,
    }


async def test_held_out_prompts_are_real_distinct_and_the_newest(world: World) -> None:
    texts = held_out_texts(8)
    served = [a_completion(text, i) for i, text in enumerate([*texts, texts[0]])]
    served += [
        a_completion(texts[1], 20, tenant="acme"),
        a_completion("not held out: a", 21),
        a_completion(texts[7], 22, prompt=({"role": "assistant", "content": "mine"},)),
    ]
    async with world.database.write() as c:
        await completions.record(c, served)
        await completions.erase(c, "default", "chatcmpl-00000003")
    async with world.database.read() as c:
        found = await held_out_prompts(c, limit=5)
        everything = await held_out_prompts(c, limit=100)
    newest_first = [texts[i] for i in (1, 0, 7, 6, 5)]
    assert [p.messages for p in found] == [user(text) for text in newest_first]
    assert texts[3] not in {p.messages[-1]["content"] for p in everything}
    assert len(everything) == 7


GOLDEN = """\
- {name: short, prompt: Say it., max_tokens: 9, check: {regex: nice}}
- {name: any, prompt: Say more., check: {regex: "."}}
"""


async def test_what_the_golden_set_asks_for_must_not_be_lost(lite: World) -> None:
    (lite.folder / "golden.yaml").write_text(GOLDEN)
    golden = {"file": lite.folder / "golden.yaml", "repeats": 2}
    await lite.prepare()
    lite.engine.says[BASE] = lambda v, p: "very nice" if p == "Say it." else always(LONG)(v, p)
    await lite.candidate(GOOD, always(OTHER_SHORT))
    await lite.controller(golden=golden).look()
    report = (await lite.version(GOOD)).gate_report or {}
    assert report["verdict"] == "refused"
    assert report["evaluation"]["golden"]["regressions"] == ["short"]
    assert "golden_regressions" in report["reasons"][0]
    assert "(short)" in report["reasons"][0]

    await lite.candidate(BETTER, always(SHORT))
    await lite.controller(golden=golden).look()
    assert (await lite.stable()).version == BETTER
    asked = [b for b in lite.engine.bodies if b["messages"][-1]["content"] == "Say it."]
    assert {(b["temperature"], b["max_tokens"]) for b in asked} == {(0.0, 9)}


async def test_a_prompt_strategy_is_as_far_from_the_base_as_its_parent(lite: World) -> None:
    await lite.prepare()
    changes: dict[str, Any] = {"kind": VersionKind.PROMPT, "metrics": {}}
    await lite.candidate(GOOD, always(OTHER_SHORT), parent=BASE, **changes)
    await lite.controller().look()
    assert ((await lite.version(GOOD)).gate_report or {})["evaluation"]["distance"] == 0.0
    await lite.candidate("far", metrics={"distance_from_reference": 5.0})
    await lite.candidate(BETTER, always(SHORT), parent="far", **changes)
    await lite.controller().look()
    reasons = ((await lite.version(BETTER)).gate_report or {})["reasons"]
    assert reasons[0].startswith("distance_from_reference is 5")
