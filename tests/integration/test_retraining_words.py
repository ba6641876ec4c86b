"""Words taken back, and reward models that got worse: what a finished run leaves behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update
from tests.learning import held_out, signal_rows, tell
from tests.retraining_world import MakeCycle, base, make, step_until

from learnback.contracts.models import Alias
from learnback.ledger.database import Database
from learnback.ledger.runs import RunState, list_runs
from learnback.ledger.tables import feedback
from learnback.registry import store
from learnback.retraining.datasets import files

__all__ = ["base", "make"]

pytestmark = pytest.mark.timeout(120)


async def test_a_word_taken_back_while_training_is_counted_and_stays_taken_back(
    database: Database, make: MakeCycle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUICK_JOB", "wait")
    ids = await tell(database, 40)
    cycle = make()
    run = await step_until(cycle, RunState.RUNNING)
    gone = sorted(set(ids) - held_out(ids))[0]
    async with database.write() as c:
        await c.execute(
            update(feedback).where(feedback.c.id == gone).values(status="withdrawn", revision=2)
        )
    (cycle.folder_of(run.id) / "go").touch()
    done = await step_until(cycle, RunState.DONE)
    assert done.progress["signals"]["withdrawn"] == 1
    row = (await signal_rows(database))[gone]
    assert (row.status, row.trained_version) == ("withdrawn", done.version)


async def test_a_withdrawn_signal_is_not_in_the_next_dataset(
    database: Database, make: MakeCycle, tmp_path: Path
) -> None:
    ids = await tell(database, 40, "a")
    cycle = make()
    await step_until(cycle, RunState.DONE)
    gone = sorted(set(ids) - held_out(ids))[0]
    async with database.write() as c:
        await c.execute(update(feedback).where(feedback.c.id == gone).values(status="withdrawn"))
    await tell(database, 40, "b")
    await cycle.step()
    run = await step_until(cycle, RunState.DONE)
    manifest = files.load_manifest(tmp_path / "runs" / run.id / "dataset")
    assert gone not in manifest.feedback_ids["train"]


async def test_a_word_that_was_trained_on_and_is_taken_back_during_preparation_is_not_learned_again(
    database: Database, make: MakeCycle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = await tell(database, 40, "a")
    cycle = make()
    await step_until(cycle, RunState.DONE)
    gone = sorted(set(ids) - held_out(ids))[0]
    await tell(database, 40, "b")
    surveyed, prepared = cycle.planner.survey, 0

    async def survey(method: Any) -> Any:
        nonlocal prepared
        found = await surveyed(method)
        async with database.write() as c:
            if await list_runs(c, (RunState.PREPARING,), limit=1):  # before the run claims them
                prepared += 1
                await c.execute(
                    update(feedback).where(feedback.c.id == gone).values(status="withdrawn")
                )
        return found

    monkeypatch.setattr(cycle.planner, "survey", survey)
    await cycle.step()
    run = await step_until(cycle, RunState.DONE)
    manifest = files.load_manifest(tmp_path / "runs" / run.id / "dataset")
    assert prepared == 2
    assert gone not in manifest.feedback_ids["train"]


async def test_a_much_worse_reward_model_does_not_replace_the_one_in_use(
    database: Database, make: MakeCycle
) -> None:
    await tell(database, 150, "a")
    cycle = make()
    await step_until(cycle, RunState.DONE)
    async with database.read() as c:
        before = (await store.alias_state(c, Alias.REWARD)).version
    ids = [f"b{i:03}" for i in range(400)]
    kept = held_out(ids)
    # the training prompts are judged the wrong way round, the held-out ones as before
    await tell(database, 400, "b")
    async with database.write() as c:
        for i in set(ids) - kept:
            turned = {
                "first": {"completion_id": f"c-{i}", "choice": 1},
                "second": {"completion_id": f"c-{i}", "choice": 0},
                "preferred": "first",
            }
            await c.execute(update(feedback).where(feedback.c.id == i).values(body=turned))
    await cycle.step()
    run = await step_until(cycle, RunState.DONE)
    async with database.read() as c:
        assert (await store.alias_state(c, Alias.REWARD)).version == before
        assert (await store.get(c, str(run.version))).reward_model == before
