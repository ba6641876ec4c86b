"""Every kind of signal trains, by the method that fits it, and what a run would be can be seen."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.learning import held_out, signal_rows, statuses, tell
from tests.retraining_world import MakeCycle, a_wish, base, make, messages, step_until

from learnback.contracts.models import Alias, VersionKind
from learnback.ledger import runs
from learnback.ledger.database import Database
from learnback.ledger.runs import Run, RunState
from learnback.models import example_bank
from learnback.registry import store
from learnback.retraining.datasets import files, rows

__all__ = ["base", "make"]

pytestmark = pytest.mark.timeout(120)

ALONE: dict[str, Any] = {"other_completion_id": None, "other_choice": None}


async def thumbs(database: Database, count: int, value: str, **changes: Any) -> list[str]:
    body = {"kind": "thumbs", "value": value}
    return await tell(database, count, value, kind="thumbs", body=body, **ALONE, **changes)


async def corrections(database: Database, count: int) -> list[str]:
    body = {"kind": "correction", "text": "a better answer"}
    return await tell(database, count, "c", kind="correction", body=body, **ALONE)


async def asked(database: Database, base: store.ModelVersion, method: str) -> None:
    async with database.write() as c:
        await runs.create_run(c, a_wish(base, method=method))


async def test_thumbs_of_both_sorts_train_by_kto(database: Database, make: MakeCycle) -> None:
    ids = await thumbs(database, 30, "up") + await thumbs(database, 30, "down")
    run = await step_until(make(), RunState.DONE)
    assert run.method == "kto"
    assert "labels of single answers" in str(run.reason)
    kept = held_out(ids)
    async with database.read() as c:
        assert await statuses(c) == {"trained": 60 - len(kept), "held_out": len(kept)}
        version = await store.get(c, str(run.version))
        assert (await store.alias_state(c, Alias.REWARD)).version is None
    assert (version.kind, version.config["method"]) == (VersionKind.ADAPTER, "kto")
    assert version.name.startswith("tiny-kto-")


async def test_what_the_method_cannot_use_waits_and_says_so(
    database: Database, make: MakeCycle
) -> None:
    await tell(database, 40)
    alone = await thumbs(database, 5, "up")
    run = await step_until(make(), RunState.DONE)
    assert run.method == "dpo"
    found = await signal_rows(database)
    assert {found[i].status for i in alone} == {"accepted"}
    assert {found[i].status_reason for i in alone} == {"waits_for_another_method"}
    assert {found[i].revision for i in alone} == {1}


async def test_waiting_signals_train_with_the_next_run_that_can_use_them(
    database: Database, make: MakeCycle, base: store.ModelVersion
) -> None:
    await tell(database, 40)
    alone = await thumbs(database, 5, "up")
    cycle = make()
    await step_until(cycle, RunState.DONE)
    await asked(database, base, "kto")
    await cycle.step()
    run = await step_until(cycle, RunState.DONE)
    assert run.method == "kto"
    found = await signal_rows(database)
    assert {found[i].status for i in alone} <= {"trained", "held_out"}
    assert {found[i].status_reason for i in alone} == {None}


async def test_an_operator_may_fix_the_method(database: Database, make: MakeCycle) -> None:
    ids = await corrections(database, 40)
    run = await step_until(make(methods={"method": "sft"}), RunState.DONE)
    assert run.method == "sft"
    assert run.config["learning_rate"] == 5e-4
    kept = held_out(ids)
    async with database.read() as c:
        assert await statuses(c) == {"trained": 40 - len(kept), "held_out": len(kept)}


async def test_only_signals_of_the_method_count(database: Database, make: MakeCycle) -> None:
    await tell(database, 40)
    cycle = make(methods={"method": "sft"})
    await cycle.step()
    assert cycle.decision.reason == "0 of 20 new signals"


async def test_new_words_that_cannot_be_enough_are_not_looked_at_each_time(
    database: Database, make: MakeCycle
) -> None:
    ups = await thumbs(database, 30, "up")
    cycle = make()
    await cycle.step()
    assert cycle.decision.reason == "0 of 20 new signals"
    late = await tell(database, 4, "late")
    await cycle.step()
    assert cycle.decision.reason == "0 of 20 new signals"
    more = await tell(database, 1, "more")
    await cycle.step()
    # a few answers that were disliked, and all the liked ones are of use
    new = 35 - len(held_out(ups + late + more))
    assert cycle.decision.reason == f"{new} new signals"


@pytest.mark.parametrize(
    ("method", "reason"),
    [
        ("kto", "all 24 answers with a label were liked"),
        ("dpo", "no pair"),
        ("rloo", "there is no reward model"),
        ("auto", "no answer is worth imitating"),
    ],
)
async def test_a_method_without_its_data_is_refused_with_the_reason(
    database: Database,
    make: MakeCycle,
    base: store.ModelVersion,
    method: str,
    reason: str,
) -> None:
    ids = await thumbs(database, 30, "up")
    reason = reason.replace("24", str(30 - len(held_out(ids))))
    await asked(database, base, method)
    run = await step_until(make(automatic=False), RunState.FAILED)
    assert reason in run.progress["error"]
    async with database.read() as c:
        assert await statuses(c) == {"accepted": 30}


async def the_reward(database: Database) -> store.ModelVersion | None:
    async with database.read() as c:
        name = (await store.alias_state(c, Alias.REWARD)).version
        return await store.find(c, name) if name else None


async def test_with_many_pairs_a_reward_model_is_trained_and_a_policy_after_it(
    database: Database, make: MakeCycle
) -> None:
    await tell(database, 60)
    cycle = make(methods={"pairs_for_reward_model": 30})
    first = await step_until(cycle, RunState.DONE)
    assert first.method == "reward_model"
    neural = await the_reward(database)
    assert neural is not None
    assert (neural.name, neural.kind) == (first.version, VersionKind.REWARD_MODEL)
    assert neural.config["kind"] == "neural"
    await cycle.step()
    second = await step_until(cycle, RunState.DONE)
    assert second.method == "dpo"
    assert "a reward model was made" in str(second.reason)
    async with database.read() as c:
        policy = await store.get(c, str(second.version))
    assert policy.reward_model == neural.name
    assert await the_reward(database) == neural
    await cycle.step()
    assert cycle.decision.reason == "0 of 20 new signals"


@pytest.mark.parametrize(("margin", "moves"), [("-20", False), ("20", True)])
async def test_a_neural_reward_model_comes_into_use_unless_it_is_worse(
    database: Database,
    make: MakeCycle,
    base: store.ModelVersion,
    monkeypatch: pytest.MonkeyPatch,
    margin: str,
    moves: bool,
) -> None:
    monkeypatch.setenv("QUICK_MARGIN", margin)
    await tell(database, 100)
    cycle = make()
    await step_until(cycle, RunState.DONE)
    linear = await the_reward(database)
    assert linear is not None
    assert linear.config == {"kind": "linear"}
    await asked(database, base, "reward_model")
    await cycle.step()
    run = await step_until(cycle, RunState.DONE)
    now = await the_reward(database)
    assert now is not None
    assert (now.name == run.version) is moves
    assert run.progress["reward_in_use"] is moves


async def test_rloo_is_paid_by_the_reward_model_in_use(
    database: Database, make: MakeCycle, base: store.ModelVersion
) -> None:
    await tell(database, 60)
    cycle = make()
    await step_until(cycle, RunState.DONE)
    reward = await the_reward(database)
    before = await signal_rows(database)
    await asked(database, base, "rloo")
    await cycle.step()
    run = await step_until(cycle, RunState.DONE)
    folder = cycle.folder_of(run.id)
    plan = json.loads((folder / "run.json").read_text())
    assert plan["method"] == "rloo"
    assert (folder / "reward_model" / "reward.npz").is_file()
    assert plan["reward_model"] == str(folder / "reward_model")
    prompts = rows.read(folder / "dataset" / "train.parquet", rows.PromptRow)
    assert len(prompts) == 60 - len(held_out(list(before)))
    assert rows.read(folder / "dataset" / "judge.parquet", rows.PreferenceRow)
    async with database.read() as c:
        policy = await store.get(c, str(run.version))
    assert reward is not None
    assert policy.reward_model == reward.name == run.progress["optimised_against"]
    assert await signal_rows(database) == before


async def test_a_prompt_strategy_is_a_run_without_a_job(
    database: Database, redis: Any, make: MakeCycle, base: store.ModelVersion
) -> None:
    ids = await corrections(database, 12)
    cycle = make(methods={"method": "prompt"}, automatic=False)
    plan = await cycle.plan()
    assert (plan.method, plan.refused, plan.steps) == ("prompt", None, None)
    await asked(database, base, "auto")
    run = await step_until(cycle, RunState.DONE)
    assert run.method == "prompt"
    assert not (cycle.folder_of(run.id) / "starts").exists()
    async with database.read() as c:
        version = await store.get(c, str(run.version))
        found = await statuses(c)
    assert (version.kind, version.parent, version.run_id) == (VersionKind.PROMPT, base.name, run.id)
    assert version.config["strategy"] == "few_shot"
    assert found == {"trained": 12 - len(held_out(ids)), "held_out": len(held_out(ids))}
    assert plan.signals == found
    assert await messages(redis) == [version.name]
    folder = await cycle.registrar.fetch(version.name)
    assert {e.answer for e in example_bank.load(folder).entries} == {"a better answer"}


async def test_what_a_run_would_be_is_seen_and_changes_nothing(
    database: Database, make: MakeCycle
) -> None:
    await tell(database, 30)
    await thumbs(database, 4, "up")
    await tell(database, 2, "gone", other_choice=7, body=_no_such_answer())
    before = await signal_rows(database)
    cycle = make(automatic=False)
    plan = await cycle.plan()
    assert await signal_rows(database) == before
    assert (plan.method, plan.refused) == ("dpo", None)
    assert plan.waiting == {"preference": 32, "thumbs": 4}
    assert plan.rows["pairs"]["train"] == plan.new_signals == plan.signals["trained"]
    assert plan.signals["no_such_answer"] == 2
    assert plan.signals["waits_for_another_method"] == 4
    assert plan.others["sft"] == "0 answers to imitate"
    assert plan.steps == -(-plan.rows["pairs"]["train"] // 8)
    assert plan.seconds is None
    assert (await cycle.plan("kto")).method == "kto"
    assert "no correction" in str((await cycle.plan("sft")).refused)


async def test_the_time_of_a_run_is_told_by_the_last_one_of_its_method(
    database: Database, make: MakeCycle
) -> None:
    await tell(database, 40)
    cycle = make()
    run = await step_until(cycle, RunState.DONE)
    plan = await cycle.plan()
    assert plan.seconds_as_in == run.id
    assert plan.steps is not None
    assert plan.seconds == 0.5 * plan.steps  # the quick job takes half a second a step


async def test_the_manifest_tells_how_far_raters_agree_and_what_was_filtered(
    database: Database, make: MakeCycle
) -> None:
    ids = await tell(database, 40)
    await tell(database, 3, "long", body=_too_long())
    cycle = make(filters={"max_answer_characters": 500})
    run = await step_until(cycle, RunState.DONE)
    manifest = files.load_manifest(cycle.folder_of(run.id) / "dataset")
    assert manifest.filters["max_answer_characters"] == 500
    assert manifest.agreement["comparisons"].items == 0
    assert manifest.counts == {"trained": 40 - len(held_out(ids)), "held_out": len(held_out(ids))}
    found = await signal_rows(database)
    assert found["long000"].status_reason == "answer_too_long"


def _no_such_answer() -> dict[str, Any]:
    return {"first": {"completion_id": "x"}, "second": {"text": "y"}, "preferred": "first"}


def _too_long() -> dict[str, Any]:
    return {"first": {"text": "x" * 501}, "second": {"text": "y"}, "preferred": "first"}


async def test_what_the_job_left_out_is_not_called_trained(
    database: Database, make: MakeCycle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUICK_SKIP", "too_long")
    ids = await tell(database, 40)
    run = await step_until(make(), RunState.DONE)
    found = await signal_rows(database)
    first = min(set(ids) - held_out(ids))
    assert (found[first].status, found[first].status_reason) == ("recorded", "too_long")
    assert found[first].trained_version is None
    assert run.progress["signals"]["trained"] == 40 - len(held_out(ids)) - 1


async def test_the_report_of_a_run_is_kept(database: Database, make: MakeCycle) -> None:
    await tell(database, 40)
    cycle = make()
    run: Run = await step_until(cycle, RunState.DONE)
    kept = await cycle.registrar.report(run)
    assert (kept / "report.html").read_text() == f"<h1>{run.id}</h1>"
