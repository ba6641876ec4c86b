"""The routes for feedback."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Body, Header, Query, Request, Response
from fastapi import Path as InPath

from learnback.contracts.models import FeedbackKind, FeedbackStatus
from learnback.core.errors import NotFound
from learnback.feedback import answers, batch, taking_back
from learnback.feedback.examples import EXAMPLES
from learnback.feedback.intake import Submission
from learnback.feedback.parts import CallerDep, ThePartsDep, bucket
from learnback.feedback.schemas import ID_PATTERN, BatchIn, FeedbackIn
from learnback.ledger import feedback as signals

REPLAYED = "Idempotent-Replayed"
PROBLEM = {"content": {"application/problem+json": {}}, "model": answers.Problem}
ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"description": "The body can't be read.", **PROBLEM},
    401: {"description": "No good API key.", **PROBLEM},
    403: {"description": "The API key lacks the scope.", **PROBLEM},
    422: {"description": "A value is wrong; `errors` names the fields.", **PROBLEM},
    429: {"description": "Over the rate limit; see Retry-After.", **PROBLEM},
    503: {"description": "The ledger is away; nothing was written.", **PROBLEM},
}
NOT_FOUND: dict[int | str, dict[str, Any]] = {404: {"description": "No such thing.", **PROBLEM}}
TAKEN: dict[int | str, dict[str, Any]] = {
    409: {"description": "The same key with another body, or already taken back.", **PROBLEM},
    410: {"description": "It has been erased.", **PROBLEM},
}

router = APIRouter(prefix="/v1/feedback", tags=["feedback"], responses=ERRORS)

FeedbackBody = Annotated[FeedbackIn, Body(openapi_examples=EXAMPLES)]
Key = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        pattern=r"^[\x21-\x7e]{1,200}$",
        description="Send the same key again to be sure that the signal counts once.",
    ),
]
FeedbackId = Annotated[
    str, InPath(max_length=200, examples=["fb_0193a1b2c3d47e5f8a9b0c1d2e3f4a5b"])
]


@router.post("", status_code=202, responses=TAKEN)
async def post_feedback(
    body: FeedbackBody,
    request: Request,
    response: Response,
    parts: ThePartsDep,
    caller: CallerDep,
    idempotency_key: Key = None,
    dry_run: bool = False,
) -> answers.Received:
    """Take in a signal. It is durable before the answer."""
    parts.limiter.take(bucket(request, caller))
    submission = Submission(caller.tenant, body.model_dump(mode="json"), idempotency_key)
    if dry_run:
        response.status_code = 200
        return answers.received(await parts.intake.check(submission))
    receipt = await parts.intake.submit(submission)
    if receipt.replayed:
        response.headers[REPLAYED] = "true"
    return answers.received(receipt)


@router.post("/batch")
async def post_batch(
    body: BatchIn, request: Request, parts: ThePartsDep, caller: CallerDep, dry_run: bool = False
) -> answers.BatchAnswer:
    """Take in up to a thousand signals, with a result for each; all good ones are durable."""
    parts.limiter.take(bucket(request, caller), len(body.items))
    return await batch.take(parts.intake, caller.tenant, body.items, dry_run=dry_run)


@router.get("")
async def list_feedback(
    parts: ThePartsDep,
    caller: CallerDep,
    completion_id: Annotated[str | None, Query(pattern=ID_PATTERN)] = None,
    status: FeedbackStatus | None = None,
    kind: FeedbackKind | None = None,
    after: Annotated[str | None, Query(pattern=ID_PATTERN)] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> answers.Page[answers.FeedbackOut]:
    """Signals, newest first."""
    async with parts.database.read() as connection:
        rows = await signals.page(
            connection,
            caller.tenant,
            completion_id=completion_id,
            status=status,
            kind=kind,
            after=after,
            limit=limit + 1,
        )
    return answers.page(rows, limit, answers.feedback_out)


@router.get("/{feedback_id}", responses=NOT_FOUND)
async def get_feedback(
    feedback_id: FeedbackId, parts: ThePartsDep, caller: CallerDep
) -> answers.FeedbackOut:
    """A signal, and what became of it."""
    async with parts.database.read() as connection:
        row = await signals.find(connection, caller.tenant, checked(feedback_id))
    if row is None:
        raise NotFound(f"There is no feedback {feedback_id}.")
    return answers.feedback_out(row)


@router.put("/{feedback_id}", status_code=202, responses=NOT_FOUND | TAKEN)
async def put_feedback(
    feedback_id: FeedbackId,
    body: FeedbackBody,
    request: Request,
    response: Response,
    parts: ThePartsDep,
    caller: CallerDep,
    idempotency_key: Key = None,
) -> answers.Received:
    """Supersede a signal by a new one, which gets an id of its own."""
    parts.limiter.take(bucket(request, caller))
    stored = body.model_dump(mode="json")
    receipt = await parts.intake.submit(
        Submission(caller.tenant, stored, idempotency_key, supersedes=checked(feedback_id))
    )
    if receipt.replayed:
        response.headers[REPLAYED] = "true"
    return answers.received(receipt)


@router.delete("/{feedback_id}", responses=NOT_FOUND | TAKEN)
async def delete_feedback(
    feedback_id: FeedbackId, parts: ThePartsDep, caller: CallerDep
) -> answers.FeedbackOut:
    """Withdraw a signal; no training from then on uses it."""
    row = await taking_back.withdraw(parts.database, caller.tenant, checked(feedback_id))
    parts.relay.wake()
    return answers.feedback_out(row)


def checked(item_id: str) -> str:
    """An id from a path; what can't be one is not found (and never reaches the database)."""
    if not (item_id.isascii() and item_id.isprintable() and len(item_id) <= 96):
        raise NotFound("There is nothing by that id.")
    return item_id
