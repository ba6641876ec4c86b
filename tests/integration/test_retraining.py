"""The life of a run: from signals to a version, asked for or by itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.learning import held_out, signal_rows, statuses, tell
from tests.quick_job import FAILURES
from tests.retraining_world import MakeCycle, a_wish, base, make, messages, step_until

from learnback.contracts.models import Alias, VersionKind
from learnback.ledger import runs, training
from learnback.ledger.database import Database
from learnback.ledger.runs import RunState
from learnback.models import linear_reward
from learnback.registry import store
from learnback.registry.artifacts import ArtifactStore
from learnback.retraining.datasets import files

__all__ = ["base", "make"]

pytestmark = pytest.mark.timeout(120)


async def test_enough_signals_become_a_version_with_its_lineage(
    database: Database, redis: Any, make: MakeCycle, base: store.ModelVersion, tmp_path: Path
) -> None:
    ids = await tell(database, 60)
    run = await step_until(make(), RunState.DONE)
    async with database.read() as c:
        adapter = await store.get(c, str(run.version))
        alias = await store.alias_state(c, Alias.REWARD)
        reward = await store.get(c, str(alias.version))
        counts = await statuses(c)
    kept = held_out(ids)
    assert counts == {"trained": 60 - len(kept), "held_out": len(kept)}
    assert adapter.kind is VersionKind.ADAPTER
    assert adapter.run_id == reward.run_id == run.id
    assert adapter.parent == base.name
    assert adapter.reward_model == reward.name
    assert adapter.base_digest == base.base_digest
    assert adapter.dataset_fingerprint == reward.dataset_fingerprint == run.dataset_fingerprint
    assert adapter.metrics["distance_from_reference"] == 0.02
    assert adapter.config["learning_rate"] > 0
    assert reward.metrics["held_out_pairs"] == len(kept)
    assert reward.metrics["held_out_correct"] > 0.9 * len(kept)
    assert await messages(redis) == [reward.name, adapter.name]
    artifacts = ArtifactStore(f"file://{tmp_path}/artifacts")
    for version in (adapter, reward):
        assert version.artifact is not None
        folder = artifacts.fetch(version.artifact, str(version.artifact_digest), tmp_path / "got")
    assert linear_reward.load(folder).win_probability((), "a fine answer on 1.", "no 1") > 0.5


async def test_too_few_signals_wait(database: Database, make: MakeCycle) -> None:
    await tell(database, 19)
    cycle = make()
    await cycle.step()
    assert cycle.decision.reason == "19 of 20 new signals"
    async with database.read() as c:
        assert await runs.list_runs(c) == []


async def test_held_out_signals_do_not_count_as_new(database: Database, make: MakeCycle) -> None:
    ids = await tell(database, 22)
    cycle = make()
    await cycle.step()
    new = 22 - len(held_out(ids))
    assert cycle.decision.reason == f"{new} of 20 new signals"


async def test_the_next_run_learns_from_all_that_was_ever_said(
    database: Database, make: MakeCycle, tmp_path: Path
) -> None:
    first = await tell(database, 40, "a")
    cycle = make()
    one = await step_until(cycle, RunState.DONE)
    second = await tell(database, 40, "b")
    await cycle.step()
    two = await step_until(cycle, RunState.DONE)
    assert two.id != one.id
    manifest = files.load_manifest(tmp_path / "runs" / two.id / "dataset")
    assert set(manifest.feedback_ids["train"]) == set(first + second) - held_out(first + second)
    rows = await signal_rows(database)
    trained = {i: r.trained_version for i, r in rows.items() if r.trained_version}
    assert {trained[i] for i in set(first) & set(trained)} == {one.version}
    assert {trained[i] for i in set(second) & set(trained)} == {two.version}


async def test_useless_signals_are_told_so_and_do_not_train(
    database: Database, make: MakeCycle
) -> None:
    await tell(database, 30, "gone", other_choice=7, body=_no_such_answer())
    cycle = make()
    await cycle.step()
    async with database.read() as c:
        assert await statuses(c) == {"quarantined": 30}
    await cycle.step()
    assert cycle.decision.reason == "0 of 20 new signals"


def _no_such_answer() -> dict[str, Any]:
    return {"first": {"completion_id": "x"}, "second": {"text": "y"}, "preferred": "first"}


@pytest.mark.parametrize("failure", FAILURES)
async def test_what_would_fail_again_is_not_tried_again_and_leaves_serving_alone(
    failure: str, database: Database, make: MakeCycle, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, said = FAILURES[failure]
    monkeypatch.setenv("QUICK_JOB", failure)
    await tell(database, 40)
    cycle = make()
    run = await step_until(cycle, RunState.FAILED)
    assert f"{code}: {said}" in run.progress["error"]
    assert (cycle.folder_of(run.id) / "starts").read_text() == "1"
    async with database.read() as c:
        assert (await training.waiting(c)).count == 40
        assert (await store.release(c)).stable.version == cycle.base.name
        assert [v.name for v in await store.list_versions(c)] == [cycle.base.name]
    await cycle.step()
    assert "the last run failed" in cycle.decision.reason


async def test_a_wish_without_data_is_refused_with_its_reason(
    database: Database, make: MakeCycle, base: store.ModelVersion
) -> None:
    async with database.write() as c:
        await runs.create_run(c, a_wish(base))
    run = await step_until(make(), RunState.FAILED)
    assert "nothing to train on" in run.progress["error"]


async def test_a_wish_is_granted_with_few_signals_and_its_own_settings(
    database: Database, make: MakeCycle, base: store.ModelVersion
) -> None:
    await tell(database, 5)
    async with database.write() as c:
        await runs.create_run(c, a_wish(base, seed=7))
    run = await step_until(make(), RunState.DONE)
    async with database.read() as c:
        assert (await store.get(c, str(run.version))).seed == 7
