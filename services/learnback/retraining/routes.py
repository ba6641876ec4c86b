"""The API of the retraining process: ask for runs, look at them, cancel them."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Header, Query, Request, status
from fastapi import Path as PathParameter
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, Response
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from learnback.contracts.models import Scope
from learnback.core.clock import now
from learnback.core.errors import Unprocessable
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
from learnback.retraining.choice import Chosen, trains_weights
from learnback.retraining.considering import AUTOMATIC
from learnback.retraining.cycle import Cycle
from learnback.retraining.hyperparameters import Hyperparameters
from learnback.retraining.planning import PlannedRun
from learnback.retraining.settings import RetrainingSettings
from learnback.retraining.watch import Watch

NO_NUL = r"^[^\x00]*$"
"""PostgreSQL stores no NUL characters."""
RunId = Annotated[str, PathParameter(max_length=96, pattern=r"^[A-Za-z0-9_.-]+$")]


class RunIn(BaseModel):
    """A wish for a training run; what is left out comes from the settings."""

    model_config = ConfigDict(extra="forbid")

    method: Chosen | None = Field(
        None,
        description="Left out: the one that fits what people said; with hyperparameters: dpo.",
    )
    seed: int | None = Field(None, ge=0, lt=2**31)
    hyperparameters: dict[str, Any] | None = Field(
        None, description="Those of the method; what is left out comes from the settings."
    )
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
    run = _asked(body, parts.watch.cycle)
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


@router.get("/plan")
async def plan(
    parts: Needs,
    method: Annotated[
        Chosen | None, Query(description="As if this method were asked for by name.")
    ] = None,
) -> PlannedRun:
    """The next run before it starts: its method and why, its data after all filters, its time."""
    return await parts.watch.cycle.plan(method)


@router.get("/{run_id}/report", response_class=HTMLResponse)
async def report(
    run_id: RunId,
    parts: Needs,
    format: Annotated[Literal["html", "md"], Query()] = "html",
) -> Response:
    """The report of a finished run: HTML, or Markdown whose images are left out."""
    async with parts.database.read() as connection:
        found = await get_run(connection, run_id)
    folder = await parts.watch.cycle.registrar.report(found)
    text = await asyncio.to_thread((folder / f"report.{format}").read_text, encoding="utf-8")
    return Response(text, media_type="text/html" if format == "html" else "text/markdown")


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


def _asked(body: RunIn, cycle: Cycle) -> Run:
    """The wish as a run; its hyperparameters are filled in once its method is known."""
    method = body.method or ("dpo" if body.hyperparameters is not None else None)
    given = body.hyperparameters or {}
    if given and method == "prompt":
        raise Unprocessable("The method prompt has no hyperparameters.", field="hyperparameters")
    config: dict[str, Any] = {}
    if trains_weights(method):
        config = _checked(cycle.planner.hyperparameters(method), given).model_dump(mode="json")
    return Run(
        id=new_id("run"),
        method=method or AUTOMATIC,
        state=RunState.ASKED,
        reason=body.reason,
        base_version=cycle.base.name,
        config=config,
        seed=cycle.settings.seed if body.seed is None else body.seed,
        created_at=now(),
    )


def _checked(usual: Hyperparameters, given: dict[str, Any]) -> Hyperparameters:
    """The usual ones with what was given in their place; what is wrong is said by field."""
    try:
        return type(usual).model_validate(usual.model_dump() | given)
    except ValidationError as error:
        where = ("body", "hyperparameters")
        found = error.errors(include_url=False)
        raise RequestValidationError([e | {"loc": where + e["loc"]} for e in found]) from error
