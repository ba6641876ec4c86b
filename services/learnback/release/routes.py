"""The release API: what serves and why, promote, roll back."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from pydantic import AwareDatetime

from learnback.contracts.models import Alias, Scope
from learnback.core.clock import now
from learnback.ledger.database import Database
from learnback.ledger.keys import KeyRing, Principal, require_scope
from learnback.release import asking, operations, story
from learnback.release.controller import Controller
from learnback.release.looks_route import add_looks_route
from learnback.release.report_route import add_report_route
from learnback.release.schemas import (
    AliasView,
    Ask,
    Decision,
    History,
    MoveView,
    Name,
    Promotion,
    Releases,
    Rollback,
    ServedAt,
    Story,
)


def router(
    database: Database, controller: Controller, keys: KeyRing, keys_required: bool
) -> APIRouter:
    """Routes under `/admin/v1`; all need the scope `release`."""
    routes = APIRouter(prefix="/admin/v1", tags=["release"])

    async def operator(request: Request) -> Principal:
        principal = await keys.authenticate(
            request.headers.get("authorization"), required=keys_required
        )
        require_scope(principal, Scope.RELEASE)
        return principal

    @routes.get("/releases")
    async def list_releases(principal: Principal = Depends(operator)) -> Releases:
        """All versions with their phases, newest first, and what the aliases name."""
        progress = {name: found.as_data() for name, found in controller.progress.items()}
        return await story.list_releases(database, progress)

    @routes.post("/releases", status_code=202)
    async def ask(body: Ask, principal: Principal = Depends(operator)) -> Story:
        """Ask for a version: it is evaluated before all others, and takes its way from there."""
        await asking.ask(database, body.version, actor_of(principal), body.reason)
        controller.wake()
        return await story.tell(database, body.version, progress_of(controller, body.version))

    @routes.get("/releases/{version}")
    async def get_release(version: Name, principal: Principal = Depends(operator)) -> Story:
        """A version's whole story: lineage, gate report, canary, approvals, history."""
        return await story.tell(database, version, progress_of(controller, version))

    @routes.post("/releases/{version}/approval")
    async def approve(
        version: Name, body: Decision, principal: Principal = Depends(operator)
    ) -> Story:
        """Say yes or no to the step that a version waits for; 409 if it waits for none."""
        await asking.approve(
            database,
            version,
            actor_of(principal),
            body.reason,
            approved=body.approved,
            expected_revision=body.expected_revision,
        )
        controller.wake()
        return await story.tell(database, version, progress_of(controller, version))

    @routes.get("/history")
    async def get_history(
        principal: Principal = Depends(operator),
        alias: Alias = Alias.STABLE,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    ) -> History:
        """The moves of an alias, newest first."""
        moves = await operations.history(database, alias, limit)
        return History(alias=alias, moves=[MoveView.of(move) for move in moves])

    @routes.get("/serving")
    async def get_serving(
        at: AwareDatetime | None = None, principal: Principal = Depends(operator)
    ) -> ServedAt:
        """What answered people at a moment, now by default."""
        return await story.served_at(database, at or now())

    @routes.post("/promote")
    async def promote(body: Promotion, principal: Principal = Depends(operator)) -> AliasView:
        """Let a version answer everybody; 409 if the gate did not pass it, unless forced."""
        moved = await operations.promote(
            database,
            controller.redis,
            body.version,
            actor_of(principal),
            body.reason,
            body.force,
            body.expected_revision,
        )
        return AliasView.of(moved)

    @routes.post("/rollback")
    async def rollback(body: Rollback, principal: Principal = Depends(operator)) -> AliasView:
        """Let an earlier stable version answer again; 409 if there is none."""
        moved = await operations.rollback(
            database,
            controller.redis,
            actor_of(principal),
            body.reason,
            body.to,
            body.expected_revision,
        )
        return AliasView.of(moved)

    add_report_route(routes, database, operator)
    add_looks_route(routes, database, operator)
    return routes


def progress_of(controller: Controller, version: str) -> dict[str, Any] | None:
    """The evaluation's progress, if this process has begun one."""
    progress = controller.progress.get(version)
    return progress.as_data() if progress else None


def actor_of(principal: Principal) -> str:
    """Who is written into the history."""
    return f"key:{principal.key_id}" if principal.key_id else "operator"
