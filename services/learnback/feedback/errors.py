"""What callers see of a body that does not fit: paths as they wrote them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response

from learnback.contracts.models import FeedbackKind
from learnback.core.http import invalid_request, problem

TAG = re.compile(r"<\w+>")
KINDS = frozenset(kind.value for kind in FeedbackKind)


def add_invalid_handler(app: FastAPI) -> None:
    """Answer bodies that do not fit with 400 or 422 and the fields' paths."""

    async def on_invalid(request: Request, error: Exception) -> Response:
        if not isinstance(error, RequestValidationError):
            raise error
        invalid, listed = invalid_request(without_tags(error.errors()))
        return problem(invalid, listed, request.url.path)

    app.add_exception_handler(RequestValidationError, on_invalid)


def without_tags(errors: Sequence[Any]) -> list[dict[str, Any]]:
    """Pydantic's errors with the names of union members taken out of their locations."""
    return [{**error, "loc": _written(error["loc"])} for error in errors]


def _written(location: Sequence[int | str]) -> tuple[int | str, ...]:
    """`("body", "preference", "first", "<completion>", "choice")` is `body, first, choice`."""
    parts = list(location)
    if len(parts) > 1 and parts[0] == "body" and parts[1] in KINDS:
        del parts[1]
    return tuple(part for part in parts if not TAG.fullmatch(str(part)))
