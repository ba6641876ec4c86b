"""The routes for recorded completions."""

from __future__ import annotations

import re
from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi import Path as InPath

from learnback.core.errors import Gone, NotFound, Unprocessable
from learnback.feedback import answers, taking_back
from learnback.feedback.parts import CallerDep, ThePartsDep
from learnback.feedback.routes import ERRORS, NOT_FOUND, TAKEN, checked
from learnback.feedback.schemas import ID_PATTERN
from learnback.ledger import completions, rewards

router = APIRouter(prefix="/v1/completions", tags=["completions"], responses=ERRORS)

METADATA = re.compile(r"metadata\[(.*)\]", re.DOTALL)
METADATA_KEY = re.compile(r"[^\x00-\x1f\"\\]{1,64}")
"""Without quotes and backslashes, which SQLite can't find in a JSON path."""

CompletionPath = Annotated[str, InPath(max_length=200)]
Bounded = Annotated[str | None, Query(max_length=200)]


@router.get(
    "",
    openapi_extra={
        "parameters": [
            {
                "name": "metadata",
                "in": "query",
                "style": "deepObject",
                "explode": True,
                "description": "`metadata[key]=value`, as often as you like; all must hold.",
                "schema": {"type": "object", "additionalProperties": {"type": "string"}},
            }
        ]
    },
)
async def list_completions(
    request: Request,
    parts: ThePartsDep,
    caller: CallerDep,
    session: Bounded = None,
    version: Bounded = None,
    after: Annotated[str | None, Query(pattern=ID_PATTERN)] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> answers.Page[answers.CompletionOut]:
    """Recorded completions, newest first."""
    async with parts.database.read() as connection:
        rows = await completions.page(
            connection,
            caller.tenant,
            metadata=metadata_filter(request.query_params.multi_items()),
            session=_storable("session", session),
            version=_storable("version", version),
            after=after,
            limit=limit + 1,
        )
    return answers.page(rows, limit, answers.completion_out)


@router.get("/{completion_id}", responses=NOT_FOUND | TAKEN)
async def get_completion(
    completion_id: CompletionPath, parts: ThePartsDep, caller: CallerDep
) -> answers.CompletionOut:
    """A recorded completion, with its rewards."""
    async with parts.database.read() as connection:
        row = await completions.find(connection, caller.tenant, checked(completion_id))
        scores = await rewards.of_completion(connection, caller.tenant, completion_id)
    if row is None:
        raise NotFound(f"There is no completion {completion_id}.")
    if row.erased_at is not None:
        raise Gone(f"The completion {completion_id} was erased.")
    return answers.completion_out(row, scores)


@router.delete("/{completion_id}", responses=NOT_FOUND)
async def delete_completion(
    completion_id: CompletionPath, parts: ThePartsDep, caller: CallerDep
) -> answers.Deleted:
    """Erase a completion and all feedback about it from the ledger, for ever."""
    erased = await taking_back.erase(parts.database, caller.tenant, checked(completion_id))
    parts.relay.wake()
    return answers.Deleted(id=completion_id, feedback_erased=erased)


def metadata_filter(items: list[tuple[str, str]]) -> dict[str, str]:
    """The `metadata[key]=value` among query parameters; raises Unprocessable."""
    found: dict[str, str] = {}
    for name, value in items:
        match = METADATA.fullmatch(name)
        if match is None:
            continue
        if not METADATA_KEY.fullmatch(match[1]) or len(found) >= 16:
            raise Unprocessable(
                "A metadata key has 1 to 64 characters without quotes; at most 16 of them.",
                field="metadata",
            )
        found[match[1]] = _storable("metadata", value) or ""
    return found


def _storable(field: str, value: str | None) -> str | None:
    if value is not None and "\x00" in value:
        raise Unprocessable("NUL characters can't be stored, so nothing has them.", field=field)
    return value
