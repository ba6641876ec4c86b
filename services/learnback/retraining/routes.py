"""The API of the retraining process: ask for runs, look at them, cancel them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Header, Query, Request, status
from fastapi import Path as PathParameter
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from learnback.contracts.models import Scope
from learnback.core.clock import now
from learnback.core.ids import new_id
from learnback.ledger.database import Database
from learnback.ledger.keys import KeyRing, require_scope
from learnback.ledger.runs import (
    CANCELLABLE,
    Run,
    RunState,
    change_run,
    create_run,
    get_run,
    list_runs,
)
from learnback.ledger.training import release_claims
from learnback.retraining.cycle import METHOD
from learnback.retraining.plan import DpoHyperparameters
from learnback.retraining.settings import RetrainingSettings
from learnback.retraining.watch import Watch

NO_NUL = r"^[^\x00]*$"
"""PostgreSQL stores no NUL characters."""
RunId = Annotated[str, PathParameter(max_length=96, pattern=r"^[A-Za-z0-9_.-]+$")]


class RunIn(BaseModel):
    """A wish for a training run; what is left out comes from the settings."""

    model_config = ConfigDict(extra="forbid")

    method: Literal["dpo"] = "dpo"
    seed: int | None = Field(None, ge=0, lt=2**31)
    hyperparameters: DpoHyperparameters | None = None
    reason: Annotated[str, StringConstraints(min_length=1, max_length=500, pattern=NO_NUL)] = (
        "asked for"
    )


class RunList(BaseModel):
    """Runs, newest first, and why none is started now."""

    runs: list[Run]
    waiting_for: str


@dataclass(frozen=True)
class Parts:
    """What the routes need; the app keeps it in `app.state.parts`."""

    settings: RetrainingSettings
    database: Database
    watch: Watch
    ring: KeyRing
    required: bool
    """Whether an API key is."""


def _parts(request: Request) -> Parts:
    parts: Parts = request.app.state.parts
    return parts


Needs = Annotated[Parts, Depends(_parts)]


async def _trainer(parts: Needs, authorization: Annotated[str | None, Header()] = None) -> None:
    principal = await parts.ring.authenticate(authorization, required=parts.required)
    require_scope(principal, Scope.TRAIN)


router = APIRouter(prefix="/admin/v1/runs", dependencies=[Depends(_trainer)])


@router.post("", status_code=status.HTTP_202_ACCEPTED)
async def ask(body: RunIn, parts: Needs) -> Run:
    """Ask for a run; it starts as soon as no other is active."""
    run = _asked(body, parts.settings, parts.watch.cycle.base.name)
    async with parts.database.write() as connection:
        await create_run(connection, run)
    parts.watch.wake.set()
    return run


@router.get("")
async def runs(parts: Needs, limit: Annotated[int, Query(ge=1, le=1000)] = 100) -> RunList:
    """Runs, newest first."""
    async with parts.database.read() as connection:
        found = await list_runs(connection, limit=limit)
    return RunList(runs=found, waiting_for=parts.watch.cycle.decision.reason)


@router.get("/{run_id}")
async def run(run_id: RunId, parts: Needs) -> Run:
    """One run."""
    async with parts.database.read() as connection:
        return await get_run(connection, run_id)


@router.delete("/{run_id}")
async def cancel(run_id: RunId, parts: Needs) -> Run:
    """Stop a run; its signals wait for the next one."""
    async with parts.database.write() as connection:
        await change_run(connection, run_id, CANCELLABLE, state=RunState.CANCELLED)
        await release_claims(connection, run_id)
        cancelled = await get_run(connection, run_id)
    parts.watch.wake.set()
    return cancelled


def _asked(body: RunIn, settings: RetrainingSettings, base: str) -> Run:
    given = body.hyperparameters.model_dump(exclude_unset=True) if body.hyperparameters else {}
    return Run(
        id=new_id("run"),
        method=METHOD,
        state=RunState.ASKED,
        reason=body.reason,
        base_version=base,
        config=settings.hyperparameters.model_copy(update=given).model_dump(mode="json"),
        seed=settings.seed if body.seed is None else body.seed,
        created_at=now(),
    )
