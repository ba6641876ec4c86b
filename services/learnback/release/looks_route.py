"""All looks at a canary over HTTP, page by page: a story tells only the newest."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request

from learnback.ledger.database import Database
from learnback.ledger.keys import Principal
from learnback.release import story
from learnback.release.schemas import Looks, Name


def add_looks_route(
    routes: APIRouter, database: Database, operator: Callable[[Request], Awaitable[Principal]]
) -> None:
    """`GET /releases/{version}/looks`, for whoever `operator` lets in."""

    @routes.get("/releases/{version}/looks")
    async def get_looks(
        version: Name,
        principal: Principal = Depends(operator),
        before: Annotated[int | None, Query(ge=1, lt=2**31)] = None,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    ) -> Looks:
        """Looks at a version's canary, the newest before a number."""
        return await story.looks_before(database, version, before, limit)
