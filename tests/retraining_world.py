"""A retraining process without its HTTP: cycles on a real ledger whose jobs take a moment."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import WAIT_S, wait_until
from tests.learning import JOB, tell

from learnback.contracts.streams import MODELS
from learnback.core import bus
from learnback.core.clock import now
from learnback.ledger import runs
from learnback.ledger.database import Database
from learnback.ledger.runs import Run, RunState
from learnback.registry import store
from learnback.registry.artifacts import ArtifactStore
from learnback.retraining.cycle import Cycle
from learnback.retraining.launcher import SubprocessLauncher
from learnback.retraining.registrar import Registrar
from learnback.retraining.settings import FilterSettings, MethodSettings, RetrainingSettings

MakeCycle = Callable[..., Cycle]


@pytest.fixture
async def base(database: Database) -> store.ModelVersion:
    async with database.write() as c:
        return await store.ensure_base(c, "tiny", "b" * 64, actor="test")


@pytest.fixture
async def make(
    database: Database, redis: Any, base: store.ModelVersion, tmp_path: Path
) -> AsyncIterator[MakeCycle]:
    """Makes the working part of a retraining process; whatever it started ends with the test."""
    made: list[Cycle] = []

    def cycle(**changes: Any) -> Cycle:
        values = {"min_new_signals": 20, "job_command": JOB, "poll": timedelta(0), "niceness": 0}
        values |= {"cool_down": timedelta(0), "held_out_raters": 0.0}
        filters = FilterSettings(**changes.pop("filters", {}))
        methods = MethodSettings(**changes.pop("methods", {}))
        settings = RetrainingSettings(**values | changes)
        artifacts = ArtifactStore(f"file://{tmp_path}/artifacts")
        made.append(
            Cycle(
                settings,
                base,
                database,
                SubprocessLauncher(settings.job_command, threads=1, niceness=0),
                Registrar(database, redis, artifacts, tmp_path / "cache"),
                tmp_path / "runs",
                filters=filters,
                methods=methods,
            )
        )
        return made[-1]

    yield cycle
    for folder in (tmp_path / "runs").glob("*"):
        await made[-1].launcher.stop(folder, grace_s=0.0)


@dataclass(frozen=True)
class UnderWay:
    """A run, and the cycle that started it."""

    cycle: Cycle
    id: str

    @property
    def folder(self) -> Path:
        """Its job trains until a file `go` appears here."""
        return self.cycle.folder_of(self.id)

    @property
    def starts(self) -> int:
        """How often its job was started."""
        return int((self.folder / "starts").read_text())


@pytest.fixture
async def under_way(
    database: Database, make: MakeCycle, monkeypatch: pytest.MonkeyPatch
) -> UnderWay:
    """A run on 40 signals whose job waits."""
    monkeypatch.setenv("QUICK_JOB", "wait")
    await tell(database, 40)
    cycle = make()
    return UnderWay(cycle, (await step_until(cycle, RunState.RUNNING)).id)


async def the_run(database: Database) -> Run:
    async with database.read() as c:
        return (await runs.list_runs(c))[0]


async def step_until(cycle: Cycle, *states: RunState, timeout_s: float = WAIT_S) -> Run:
    """Step until the newest run is in one of `states`."""

    async def reached() -> Run | None:
        await cycle.step()
        async with cycle.database.read() as c:
            found = await runs.list_runs(c, limit=1)
        return found[0] if found and found[0].state in states else None

    what = f"the run is {' or '.join(states)}"
    run: Run = await wait_until(reached, what, timeout_s)
    return run


async def messages(redis: Any) -> list[str]:
    entries = await redis.xrange(MODELS.key)
    found = [bus.decode(MODELS, entry_id, fields) for entry_id, fields in entries]
    return [d.message.version for d in found if d is not None and d.message is not None]


def a_wish(base: store.ModelVersion, **changes: Any) -> Run:
    values = {"id": "runa_wish", "method": "dpo", "state": RunState.ASKED, "created_at": now()}
    return Run(**values | {"base_version": base.name} | changes)
