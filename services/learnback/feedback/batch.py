"""Many signals in one request: each is judged on its own."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from pydantic import TypeAdapter, ValidationError

from learnback.core.errors import LearnbackError
from learnback.core.http import invalid_request, problem
from learnback.feedback.answers import BatchAnswer, BatchResult, Problem
from learnback.feedback.errors import without_tags
from learnback.feedback.intake import Intake, Submission
from learnback.feedback.schemas import FeedbackIn, IdempotencyKey

_feedback: TypeAdapter[Any] = TypeAdapter(FeedbackIn)
_key: TypeAdapter[str | None] = TypeAdapter(IdempotencyKey)


async def take(
    intake: Intake, tenant: str, items: list[dict[str, Any]], *, dry_run: bool
) -> BatchAnswer:
    """Store the good items, or only look at them; a result for each, in order."""
    results = await asyncio.gather(
        *(_one(intake, tenant, index, item, dry_run) for index, item in enumerate(items))
    )
    return BatchAnswer(results=results)


async def _one(
    intake: Intake, tenant: str, index: int, item: dict[str, Any], dry_run: bool
) -> BatchResult:
    try:
        submission = read(tenant, item)
        receipt = await (intake.check if dry_run else intake.submit)(submission)
    except ValidationError as error:
        invalid, listed = invalid_request(
            without_tags([{**e, "loc": ("body", *e["loc"])} for e in error.errors()])
        )
        return _failed(index, invalid, listed)
    except LearnbackError as error:
        return _failed(index, error, [])
    return BatchResult(
        index=index,
        status_code=200 if dry_run else 202,
        id=receipt.id or None,
        status=receipt.status,
        status_reason=receipt.status_reason,
        replayed=receipt.replayed,
    )


def read(tenant: str, item: dict[str, Any]) -> Submission:
    """An item as a submission; raises ValidationError."""
    fields = dict(item)
    key = _key.validate_python(fields.pop("idempotency_key", None))
    body = _feedback.validate_python(fields)
    return Submission(tenant, body.model_dump(mode="json"), key)


def _failed(index: int, error: LearnbackError, listed: list[dict[str, str]]) -> BatchResult:
    document = Problem.model_validate(json.loads(bytes(problem(error, listed).body)))
    return BatchResult(index=index, status_code=error.status, error=document)
