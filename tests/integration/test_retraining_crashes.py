"""Runs go on through crashes of the job and of ourselves; cancelled ones stop."""

from __future__ import annotations

import shutil
from typing import Any

import pytest
from tests.conftest import wait_until
from tests.learning import signal_rows, statuses, tell
from tests.retraining_world import (
    MakeCycle,
    UnderWay,
    base,
    make,
    messages,
    step_until,
    the_run,
    under_way,
)

from learnback.contracts.models import FeedbackStatus
from learnback.contracts.streams import MODELS
from learnback.ledger import runs, training
from learnback.ledger.database import Database
from learnback.ledger.runs import RunState
from learnback.retraining.launcher import Vital

__all__ = ["base", "make", "under_way"]

pytestmark = pytest.mark.timeout(120)


async def test_a_job_that_breaks_off_once_is_started_again(
    database: Database, make: MakeCycle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUICK_JOB", "crash_once")
    await tell(database, 40)
    run = await step_until(make(), RunState.DONE, RunState.FAILED)
    assert run.state is RunState.DONE
    assert run.progress["attempts"] == 1


async def test_a_job_that_always_breaks_off_is_given_up(
    database: Database, make: MakeCycle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUICK_JOB", "crash")
    await tell(database, 40)
    cycle = make(max_retries=2)
    run = await step_until(cycle, RunState.FAILED)
    assert (cycle.folder_of(run.id) / "starts").read_text() == "3"
    async with database.read() as c:
        assert await statuses(c) == {"accepted": 40}


async def test_a_crash_of_this_process_leaves_the_job_running_and_the_next_one_follows(
    make: MakeCycle, under_way: UnderWay
) -> None:
    second = make()  # knows nothing of the first one's child
    await second.step()
    assert (await second.launcher.status(under_way.folder)).vital is Vital.ALIVE
    (under_way.folder / "go").touch()
    await step_until(second, RunState.DONE)
    assert under_way.starts == 1


async def test_a_job_that_died_with_us_is_started_again_and_goes_on(
    make: MakeCycle, under_way: UnderWay
) -> None:
    await takes_a_step(under_way)
    await under_way.cycle.launcher.stop(under_way.folder, grace_s=0.0)
    (under_way.folder / "go").touch()
    await step_until(make(), RunState.DONE)
    assert under_way.starts == 2


async def test_stopping_the_process_lets_the_job_save_and_the_next_start_goes_on(
    database: Database, make: MakeCycle, under_way: UnderWay
) -> None:
    await takes_a_step(under_way)
    await under_way.cycle.close()
    assert (await under_way.cycle.launcher.status(under_way.folder)).exit_code == 75
    assert (await the_run(database)).state is RunState.RUNNING
    (under_way.folder / "go").touch()
    await step_until(make(), RunState.DONE)


async def test_cancelling_stops_the_job_and_frees_its_signals(
    database: Database, under_way: UnderWay
) -> None:
    cycle = under_way.cycle
    await cancel(database, under_way)
    await cycle.step()
    assert (await cycle.launcher.status(under_way.folder)).vital is not Vital.ALIVE
    assert "the last run failed" in cycle.decision.reason
    async with database.read() as c:
        assert (await training.waiting(c)).count == 40


async def test_a_cancelled_job_that_outlived_us_is_stopped(
    database: Database, make: MakeCycle, under_way: UnderWay
) -> None:
    await cancel(database, under_way)
    second = make()
    await second.step()
    assert (await second.launcher.status(under_way.folder)).vital is Vital.ABSENT


async def takes_a_step(run: UnderWay) -> None:
    await wait_until(lambda: (run.folder / "step").exists(), "the job takes a step")


async def cancel(database: Database, run: UnderWay) -> None:
    async with database.write() as c:
        await runs.change_run(c, run.id, runs.CANCELLABLE, state=RunState.CANCELLED)
        await training.release_claims(c, run.id)


async def test_a_crash_after_registering_loses_no_message(
    database: Database, redis: Any, make: MakeCycle
) -> None:
    await tell(database, 40)
    await step_until(make(), RunState.DONE)
    before = await messages(redis)
    await redis.delete(MODELS.key)
    await make().step()
    assert sorted(await messages(redis)) == sorted(before)


async def test_a_crash_while_registering_is_repeated_without_counting_twice(
    database: Database, make: MakeCycle
) -> None:
    await tell(database, 40)
    cycle = make()
    run = await step_until(cycle, RunState.DONE)
    rows = await signal_rows(database)
    async with database.write() as c:
        await runs.change_run(c, run.id, (RunState.DONE,), state=RunState.REGISTERING)
    again = await step_until(make(), RunState.DONE)
    assert again.version == run.version
    assert await signal_rows(database) == rows


async def test_a_run_whose_files_are_gone_can_be_given_up(
    database: Database, make: MakeCycle
) -> None:
    await tell(database, 40)
    cycle = make()
    run = await step_until(cycle, RunState.DONE)
    async with database.write() as c:
        await runs.change_run(c, run.id, (RunState.DONE,), state=RunState.REGISTERING)
    shutil.rmtree(cycle.folder_of(run.id))
    with pytest.raises(FileNotFoundError):
        await cycle.step()
    await cycle.fail("its files are gone")
    assert (await the_run(database)).state is RunState.FAILED
    async with database.read() as c:
        found = await statuses(c)
    assert found.get(FeedbackStatus.ACCEPTED, 0) == 0  # they were trained on before
