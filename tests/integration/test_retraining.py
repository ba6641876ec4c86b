"""The life of a run: from signals to a version, through crashes, bad data and words taken back."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update
from tests.conftest import wait_until
from tests.learning import JOB, held_out, signal_rows, statuses, tell

from learnback.contracts.models import Alias, FeedbackStatus, VersionKind
from learnback.contracts.streams import MODELS
from learnback.core import bus
from learnback.core.clock import now
from learnback.ledger import runs, training
from learnback.ledger.database import Database
from learnback.ledger.runs import Run, RunState
from learnback.ledger.tables import feedback
from learnback.models import linear_reward
from learnback.registry import store
from learnback.registry.artifacts import ArtifactStore
from learnback.retraining import dataset
from learnback.retraining.cycle import Cycle
from learnback.retraining.launcher import SubprocessLauncher, Vital
from learnback.retraining.registrar import Registrar
from learnback.retraining.settings import RetrainingSettings

pytestmark = pytest.mark.timeout(120)

MakeCycle = Callable[..., Cycle]


@pytest.fixture
async def base(sqlite_database: Database) -> store.ModelVersion:
    async with sqlite_database.write() as c:
        return await store.ensure_base(c, "tiny", "b" * 64, actor="test")


@pytest.fixture
async def make(
    sqlite_database: Database, redis: Any, base: store.ModelVersion, tmp_path: Path
) -> AsyncIterator[MakeCycle]:
    """Makes the working part of a retraining process; whatever it started ends with the test."""
    made: list[Cycle] = []

    def cycle(**changes: Any) -> Cycle:
        values = {"min_new_signals": 20, "job_command": JOB, "poll": timedelta(0), "niceness": 0}
        values |= {"cool_down": timedelta(0), "held_out_raters": 0.0}
        settings = RetrainingSettings(**values | changes)
        artifacts = ArtifactStore(f"file://{tmp_path}/artifacts")
        made.append(
            Cycle(
                settings,
                base,
                sqlite_database,
                SubprocessLauncher(settings.job_command, threads=1, niceness=0),
                Registrar(sqlite_database, redis, artifacts, tmp_path / "cache"),
                tmp_path / "runs",
            )
        )
        return made[-1]

    yield cycle
    for folder in (tmp_path / "runs").glob("*"):
        await made[-1].launcher.stop(folder, grace_s=0.0)


async def the_run(database: Database) -> Run:
    async with database.read() as c:
        return (await runs.list_runs(c))[0]


async def step_until(cycle: Cycle, *states: RunState) -> Run:
    """Step until the newest run is in one of `states`."""

    async def reached() -> Run | None:
        await cycle.step()
        async with cycle.database.read() as c:
            found = await runs.list_runs(c, limit=1)
        return found[0] if found and found[0].state in states else None

    run: Run = await wait_until(reached, f"the run is {' or '.join(states)}")
    return run


async def messages(redis: Any) -> list[str]:
    entries = await redis.xrange(MODELS.key)
    found = [bus.decode(MODELS, entry_id, fields) for entry_id, fields in entries]
    return [d.message.version for d in found if d is not None and d.message is not None]


async def test_enough_signals_become_a_version_with_its_lineage(
    sqlite_database: Database, redis: Any, make: MakeCycle, base: store.ModelVersion, tmp_path: Path
) -> None:
    ids = await tell(sqlite_database, 60)
    run = await step_until(make(), RunState.DONE)
    async with sqlite_database.read() as c:
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


async def test_too_few_signals_wait(sqlite_database: Database, make: MakeCycle) -> None:
    await tell(sqlite_database, 19)
    cycle = make()
    await cycle.step()
    assert cycle.decision.reason == "19 of 20 new signals"
    async with sqlite_database.read() as c:
        assert await runs.list_runs(c) == []


async def test_held_out_signals_do_not_count_as_new(
    sqlite_database: Database, make: MakeCycle
) -> None:
    ids = await tell(sqlite_database, 22)
    cycle = make()
    await cycle.step()
    new = 22 - len(held_out(ids))
    assert cycle.decision.reason == f"{new} of 20 new signals"


async def test_the_next_run_learns_from_all_that_was_ever_said(
    sqlite_database: Database, make: MakeCycle, tmp_path: Path
) -> None:
    first = await tell(sqlite_database, 40, "a")
    cycle = make()
    one = await step_until(cycle, RunState.DONE)
    second = await tell(sqlite_database, 40, "b")
    await cycle.step()
    two = await step_until(cycle, RunState.DONE)
    assert two.id != one.id
    manifest = dataset.load_manifest(tmp_path / "runs" / two.id / "dataset")
    assert set(manifest.feedback_ids["train"]) == set(first + second) - held_out(first + second)
    rows = await signal_rows(sqlite_database)
    trained = {i: r.trained_version for i, r in rows.items() if r.trained_version}
    assert {trained[i] for i in set(first) & set(trained)} == {one.version}
    assert {trained[i] for i in set(second) & set(trained)} == {two.version}


async def test_useless_signals_are_told_so_and_do_not_train(
    sqlite_database: Database, make: MakeCycle
) -> None:
    await tell(sqlite_database, 30, "gone", other_choice=7, body=_no_such_answer())
    cycle = make()
    await cycle.step()
    async with sqlite_database.read() as c:
        assert await statuses(c) == {"quarantined": 30}
    await cycle.step()
    assert cycle.decision.reason == "0 of 20 new signals"


def _no_such_answer() -> dict[str, Any]:
    return {"first": {"completion_id": "x"}, "second": {"text": "y"}, "preferred": "first"}


async def test_bad_data_fails_at_once_and_is_not_tried_again(
    sqlite_database: Database, make: MakeCycle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUICK_JOB", "bad_data")
    await tell(sqlite_database, 40)
    cycle = make()
    run = await step_until(cycle, RunState.FAILED)
    assert "65: row 3 is no row" in run.progress["error"]
    assert (cycle.folder_of(run.id) / "starts").read_text() == "1"
    async with sqlite_database.read() as c:
        assert (await training.waiting(c)).count == 40
        assert (await store.release(c)).stable.version == cycle.base.name
    await cycle.step()
    assert "the last run failed" in cycle.decision.reason


async def test_a_job_that_breaks_off_once_is_started_again(
    sqlite_database: Database, make: MakeCycle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUICK_JOB", "crash_once")
    await tell(sqlite_database, 40)
    run = await step_until(make(), RunState.DONE, RunState.FAILED)
    assert run.state is RunState.DONE
    assert run.progress["attempts"] == 1


async def test_a_job_that_always_breaks_off_is_given_up(
    sqlite_database: Database, make: MakeCycle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUICK_JOB", "crash")
    await tell(sqlite_database, 40)
    cycle = make(max_retries=2)
    run = await step_until(cycle, RunState.FAILED)
    assert (cycle.folder_of(run.id) / "starts").read_text() == "3"
    async with sqlite_database.read() as c:
        assert await statuses(c) == {"accepted": 40}


async def test_a_word_taken_back_while_training_is_counted_and_stays_taken_back(
    sqlite_database: Database, make: MakeCycle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUICK_JOB", "wait")
    ids = await tell(sqlite_database, 40)
    cycle = make()
    run = await step_until(cycle, RunState.RUNNING)
    gone = sorted(set(ids) - held_out(ids))[0]
    async with sqlite_database.write() as c:
        await c.execute(
            update(feedback).where(feedback.c.id == gone).values(status="withdrawn", revision=2)
        )
    (cycle.folder_of(run.id) / "go").touch()
    done = await step_until(cycle, RunState.DONE)
    assert done.progress["signals"]["withdrawn"] == 1
    row = (await signal_rows(sqlite_database))[gone]
    assert (row.status, row.trained_version) == ("withdrawn", done.version)


async def test_a_withdrawn_signal_is_not_in_the_next_dataset(
    sqlite_database: Database, make: MakeCycle, tmp_path: Path
) -> None:
    ids = await tell(sqlite_database, 40, "a")
    cycle = make()
    await step_until(cycle, RunState.DONE)
    gone = sorted(set(ids) - held_out(ids))[0]
    async with sqlite_database.write() as c:
        await c.execute(update(feedback).where(feedback.c.id == gone).values(status="withdrawn"))
    await tell(sqlite_database, 40, "b")
    await cycle.step()
    run = await step_until(cycle, RunState.DONE)
    manifest = dataset.load_manifest(tmp_path / "runs" / run.id / "dataset")
    assert gone not in manifest.feedback_ids["train"]


async def test_a_crash_of_this_process_leaves_the_job_running_and_the_next_one_follows(
    sqlite_database: Database, make: MakeCycle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUICK_JOB", "wait")
    await tell(sqlite_database, 40)
    run = await step_until(make(), RunState.RUNNING)
    second = make()  # knows nothing of the first one's child
    folder = second.folder_of(run.id)
    await second.step()
    assert (await second.launcher.status(folder)).vital is Vital.ALIVE
    (folder / "go").touch()
    await step_until(second, RunState.DONE)
    assert (folder / "starts").read_text() == "1"


async def test_a_job_that_died_with_us_is_started_again_and_goes_on(
    sqlite_database: Database, make: MakeCycle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUICK_JOB", "wait")
    await tell(sqlite_database, 40)
    first = make()
    run = await step_until(first, RunState.RUNNING)
    folder = first.folder_of(run.id)
    await wait_until(lambda: (folder / "step").exists(), "the job takes a step")
    await first.launcher.stop(folder, grace_s=0.0)
    (folder / "go").touch()
    await step_until(make(), RunState.DONE)
    assert (folder / "starts").read_text() == "2"


async def test_stopping_the_process_lets_the_job_save_and_the_next_start_goes_on(
    sqlite_database: Database, make: MakeCycle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUICK_JOB", "wait")
    await tell(sqlite_database, 40)
    first = make()
    run = await step_until(first, RunState.RUNNING)
    folder = first.folder_of(run.id)
    await wait_until(lambda: (folder / "step").exists(), "the job takes a step")
    await first.close()
    assert (await first.launcher.status(folder)).exit_code == 75
    assert (await the_run(sqlite_database)).state is RunState.RUNNING
    (folder / "go").touch()
    await step_until(make(), RunState.DONE)


async def test_cancelling_stops_the_job_and_frees_its_signals(
    sqlite_database: Database, make: MakeCycle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUICK_JOB", "wait")
    await tell(sqlite_database, 40)
    cycle = make()
    run = await step_until(cycle, RunState.RUNNING)
    async with sqlite_database.write() as c:
        await runs.change_run(c, run.id, runs.CANCELLABLE, state=RunState.CANCELLED)
        await training.release_claims(c, run.id)
    await cycle.step()
    assert (await cycle.launcher.status(cycle.folder_of(run.id))).vital is not Vital.ALIVE
    assert "the last run failed" in cycle.decision.reason
    async with sqlite_database.read() as c:
        assert (await training.waiting(c)).count == 40


async def test_a_cancelled_job_that_outlived_us_is_stopped(
    sqlite_database: Database, make: MakeCycle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUICK_JOB", "wait")
    await tell(sqlite_database, 40)
    run = await step_until(make(), RunState.RUNNING)
    async with sqlite_database.write() as c:
        await runs.change_run(c, run.id, runs.CANCELLABLE, state=RunState.CANCELLED)
        await training.release_claims(c, run.id)
    second = make()
    await second.step()
    assert (await second.launcher.status(second.folder_of(run.id))).vital is Vital.ABSENT


async def test_a_wish_without_data_is_refused_with_its_reason(
    sqlite_database: Database, make: MakeCycle, base: store.ModelVersion
) -> None:
    async with sqlite_database.write() as c:
        await runs.create_run(c, _wish(base))
    run = await step_until(make(), RunState.FAILED)
    assert "nothing to train on" in run.progress["error"]


async def test_a_wish_is_granted_with_few_signals_and_its_own_settings(
    sqlite_database: Database, make: MakeCycle, base: store.ModelVersion
) -> None:
    await tell(sqlite_database, 5)
    async with sqlite_database.write() as c:
        await runs.create_run(c, _wish(base, seed=7))
    run = await step_until(make(), RunState.DONE)
    async with sqlite_database.read() as c:
        assert (await store.get(c, str(run.version))).seed == 7


def _wish(base: store.ModelVersion, **changes: Any) -> Run:
    values = {"id": "run_wish", "method": "dpo", "state": RunState.ASKED, "created_at": now()}
    return Run(**values | {"base_version": base.name} | changes)


async def test_a_crash_after_registering_loses_no_message(
    sqlite_database: Database, redis: Any, make: MakeCycle
) -> None:
    await tell(sqlite_database, 40)
    await step_until(make(), RunState.DONE)
    before = await messages(redis)
    await redis.delete(MODELS.key)
    await make().step()
    assert sorted(await messages(redis)) == sorted(before)


async def test_a_crash_while_registering_is_repeated_without_counting_twice(
    sqlite_database: Database, make: MakeCycle
) -> None:
    await tell(sqlite_database, 40)
    cycle = make()
    run = await step_until(cycle, RunState.DONE)
    rows = await signal_rows(sqlite_database)
    async with sqlite_database.write() as c:
        await runs.change_run(c, run.id, (RunState.DONE,), state=RunState.REGISTERING)
    again = await step_until(make(), RunState.DONE)
    assert again.version == run.version
    assert await signal_rows(sqlite_database) == rows


async def test_a_much_worse_reward_model_does_not_replace_the_one_in_use(
    sqlite_database: Database, make: MakeCycle
) -> None:
    await tell(sqlite_database, 150, "a")
    cycle = make()
    await step_until(cycle, RunState.DONE)
    async with sqlite_database.read() as c:
        before = (await store.alias_state(c, Alias.REWARD)).version
    ids = [f"b{i:03}" for i in range(400)]
    kept = held_out(ids)
    # the training prompts are judged the wrong way round, the held-out ones as before
    await tell(sqlite_database, 400, "b")
    async with sqlite_database.write() as c:
        for i in set(ids) - kept:
            turned = {
                "first": {"completion_id": f"c-{i}", "choice": 1},
                "second": {"completion_id": f"c-{i}", "choice": 0},
                "preferred": "first",
            }
            await c.execute(update(feedback).where(feedback.c.id == i).values(body=turned))
    await cycle.step()
    run = await step_until(cycle, RunState.DONE)
    async with sqlite_database.read() as c:
        assert (await store.alias_state(c, Alias.REWARD)).version == before
        assert (await store.get(c, str(run.version))).reward_model == before


async def test_a_run_whose_files_are_gone_can_be_given_up(
    sqlite_database: Database, make: MakeCycle
) -> None:
    await tell(sqlite_database, 40)
    cycle = make()
    run = await step_until(cycle, RunState.DONE)
    async with sqlite_database.write() as c:
        await runs.change_run(c, run.id, (RunState.DONE,), state=RunState.REGISTERING)
    shutil.rmtree(cycle.folder_of(run.id))
    with pytest.raises(FileNotFoundError):
        await cycle.step()
    await cycle.fail("its files are gone")
    assert (await the_run(sqlite_database)).state is RunState.FAILED
    async with sqlite_database.read() as c:
        found = await statuses(c)
    assert found.get(FeedbackStatus.ACCEPTED, 0) == 0  # they were trained on before
