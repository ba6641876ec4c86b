"""Training runs in the ledger: one row each, from the wish to the model version."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict
from sqlalchemy import insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from learnback.core.clock import now
from learnback.core.errors import Conflict, NotFound
from learnback.ledger.database import chunks
from learnback.ledger.tables import runs
from learnback.ledger.types import storable


class RunState(StrEnum):
    """Where a run stands: `asked` waits for its turn, the last three are final."""

    ASKED = "asked"
    PREPARING = "preparing"
    RUNNING = "running"
    REGISTERING = "registering"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


ACTIVE = (RunState.PREPARING, RunState.RUNNING, RunState.REGISTERING)
CANCELLABLE = (RunState.ASKED, RunState.PREPARING, RunState.RUNNING)
"""Once its version is being registered a run is past taking back: roll the version back instead."""
ENDED = (RunState.DONE, RunState.FAILED, RunState.CANCELLED)
_REPORT = "-report"


class Run(BaseModel):
    """A training run; `reason` says why it was started, and why it failed."""

    model_config = ConfigDict(frozen=True, from_attributes=True)

    id: str
    method: str
    state: RunState
    reason: str | None = None
    base_version: str
    parent: str | None = None
    dataset_fingerprint: str | None = None
    config: dict[str, Any] = {}
    seed: int = 0
    progress: dict[str, Any] = {}
    created_at: datetime
    heartbeat_at: datetime | None = None
    finished_at: datetime | None = None
    version: str | None = None


async def create_run(connection: AsyncConnection, run: Run) -> None:
    """Add a run."""
    await connection.execute(insert(runs).values(**run.model_dump()))


async def get_run(connection: AsyncConnection, run_id: str) -> Run:
    """The run by that id; NotFound if there is none."""
    row = (await connection.execute(select(runs).where(runs.c.id == run_id))).first()
    if row is None:
        raise NotFound(f"There is no run {run_id!r}; GET /admin/v1/runs lists them.")
    return Run.model_validate(row)


async def list_runs(
    connection: AsyncConnection, states: Sequence[RunState] = tuple(RunState), limit: int = 100
) -> list[Run]:
    """Runs in any of `states`, newest first."""
    query = (
        select(runs)
        .where(runs.c.state.in_(states))
        .order_by(runs.c.created_at.desc(), runs.c.id.desc())
        .limit(limit)
    )
    return [Run.model_validate(row) for row in await connection.execute(query)]


async def runs_of_reports(connection: AsyncConnection, names: Sequence[str]) -> dict[str, Run]:
    """The runs whose reports are among these artifacts, by the report's name."""
    ids = [name.removesuffix(_REPORT) for name in names if name.endswith(_REPORT)]
    found = {}
    for part in chunks(ids):
        for row in await connection.execute(select(runs).where(runs.c.id.in_(part))):
            found[report_name(row.id)] = Run.model_validate(row)
    return found


async def hold(connection: AsyncConnection, run_id: str) -> None:
    """Keep a run's row as it is until the transaction ends."""
    await connection.execute(select(runs.c.id).where(runs.c.id == run_id).with_for_update())


def report_name(run_id: str) -> str:
    """The artifact that holds a run's report."""
    return f"{run_id}{_REPORT}"


async def change_run(
    connection: AsyncConnection, run_id: str, expected: Sequence[RunState], **values: Any
) -> None:
    """Change a run that is in one of the `expected` states; Conflict if it is in another.

    A final state sets `finished_at`, any change the heartbeat.
    """
    at = now()
    values = {name: storable(value) for name, value in values.items()}
    values["heartbeat_at"] = at
    if values.get("state") in ENDED:
        values["finished_at"] = at
    changed = await connection.execute(
        update(runs).where(runs.c.id == run_id, runs.c.state.in_(expected)).values(**values)
    )
    if changed.rowcount == 0:
        found = await get_run(connection, run_id)
        wanted = ", ".join(expected)
        raise Conflict(f"Run {run_id!r} is {found.state}; this needs one that is {wanted}.")
