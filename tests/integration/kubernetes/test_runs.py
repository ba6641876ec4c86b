"""Whole training runs whose jobs are Jobs of a cluster: from signals to a version."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.cluster_jobs import TEMPLATE, launching
from tests.conftest import wait_until
from tests.fake_cluster.jobs import JobController
from tests.fake_cluster.state import FakeKubernetes
from tests.learning import held_out, statuses, tell

from learnback.core.errors import Unavailable
from learnback.core.kubernetes import Cluster
from learnback.ledger import runs, training
from learnback.ledger.database import Database
from learnback.ledger.runs import Run, RunState
from learnback.registry import store
from learnback.registry.artifacts import ArtifactStore
from learnback.retraining.cycle import Cycle
from learnback.retraining.registrar import Registrar
from learnback.retraining.settings import RetrainingSettings

MakeCycle = Callable[[], Cycle]


@pytest.fixture
async def make(
    kubernetes: FakeKubernetes,
    controller: JobController,
    sqlite_database: Database,
    redis: Any,
    tmp_path: Path,
) -> AsyncIterator[MakeCycle]:
    """Makes the working part of a retraining process that runs its jobs in the cluster."""
    async with sqlite_database.write() as c:
        base = await store.ensure_base(c, "tiny", "b" * 64, actor="test")
    cluster = Cluster(kubernetes.url, "learnback")
    launcher = launching(cluster, tmp_path, TEMPLATE)
    settings = RetrainingSettings(
        min_new_signals=20, cool_down=timedelta(0), poll=timedelta(0), held_out_raters=0.0
    )
    artifacts = ArtifactStore(f"file://{tmp_path}/artifacts")

    def cycle() -> Cycle:
        registrar = Registrar(sqlite_database, redis, artifacts, tmp_path / "cache")
        return Cycle(settings, base, sqlite_database, launcher, registrar, tmp_path / "runs")

    yield cycle
    await cluster.close()


async def step_until(cycle: Cycle, what: str, wanted: Callable[[Run], bool]) -> Run:
    async def reached() -> Run | None:
        await cycle.step()
        async with cycle.database.read() as c:
            found = await runs.list_runs(c, limit=1)
        return found[0] if found and wanted(found[0]) else None

    run: Run = await wait_until(reached, what)
    return run


async def training_run(cycle: Cycle) -> Run:
    return await step_until(cycle, "it trains", lambda r: r.progress.get("step", 0) > 0)


def starts(cycle: Cycle, run: Run) -> str:
    return (cycle.folder_of(run.id) / "starts").read_text()


async def test_a_run_outlives_the_process_that_began_it(
    make: MakeCycle,
    sqlite_database: Database,
    kubernetes: FakeKubernetes,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("QUICK_JOB", "wait")
    ids = await tell(sqlite_database, 40)
    first = make()
    run = await training_run(first)
    assert run.progress["note"] == "running on node-1"
    await first.close()
    assert len(kubernetes.all("jobs")) == 1
    (first.folder_of(run.id) / "go").touch()
    second = make()
    done = await step_until(second, "it is done", lambda r: r.state is RunState.DONE)
    assert (done.id, starts(second, done)) == (run.id, "1")
    kept = held_out(ids)
    async with sqlite_database.read() as c:
        assert await statuses(c) == {"trained": 40 - len(kept), "held_out": len(kept)}


async def test_what_kubernetes_gave_up_is_not_started_again(
    make: MakeCycle, sqlite_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUICK_JOB", "crash")
    await tell(sqlite_database, 40)
    cycle = make()
    run = await step_until(cycle, "it fails", lambda r: r.state is RunState.FAILED)
    assert "the job ended with 70: BackoffLimitExceeded" in run.progress["error"]
    assert starts(cycle, run) == "2"
    async with sqlite_database.read() as c:
        assert await statuses(c) == {"accepted": 40}


async def test_a_cancelled_run_leaves_no_job_behind(
    make: MakeCycle,
    sqlite_database: Database,
    kubernetes: FakeKubernetes,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("QUICK_JOB", "wait")
    await tell(sqlite_database, 40)
    cycle = make()
    run = await training_run(cycle)
    async with sqlite_database.write() as c:
        await runs.change_run(c, run.id, runs.CANCELLABLE, state=RunState.CANCELLED)
        await training.release_claims(c, run.id)
    await make().step()  # another process, which knows nothing of it
    await wait_until(lambda: not kubernetes.all("jobs"), "the Job is gone")
    assert kubernetes.all("pods") == []


async def test_a_deleted_job_is_made_again_and_goes_on(
    make: MakeCycle,
    sqlite_database: Database,
    kubernetes: FakeKubernetes,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("QUICK_JOB", "wait")
    await tell(sqlite_database, 40)
    cycle = make()
    run = await training_run(cycle)
    name = run.id.replace("_", "-")
    kubernetes.delete("batch/v1", "jobs", "learnback", name, policy="Foreground")
    await step_until(cycle, "it starts again", lambda r: starts(cycle, r) == "2")
    (cycle.folder_of(run.id) / "go").touch()
    await step_until(cycle, "it is done", lambda r: r.state is RunState.DONE)


async def test_an_api_that_is_away_costs_nothing_but_time(
    make: MakeCycle, sqlite_database: Database, kubernetes: FakeKubernetes
) -> None:
    await tell(sqlite_database, 40)
    kubernetes.away = True
    cycle = make()
    with pytest.raises(Unavailable):
        await cycle.step()
    kubernetes.away = False
    done = await step_until(cycle, "it is done", lambda r: r.state is RunState.DONE)
    assert starts(cycle, done) == "1"
