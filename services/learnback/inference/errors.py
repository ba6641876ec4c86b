"""Errors in OpenAI's shape, so that every OpenAI client shows them as its own."""

from __future__ import annotations

from typing import ClassVar

import msgspec

from learnback.core.errors import LearnbackError, NotFound, Unavailable


class ModelNotFound(NotFound):
    """The request names a model that is neither public nor a servable version."""

    code, title = "model_not_found", "Model not found"


class VersionUnavailable(Unavailable):
    """The version exists, but this replica can't serve it: its files are missing or wrong."""

    code, title = "version_unavailable", "Version unavailable"


class MethodNotAllowed(LearnbackError):
    """The path is known, the method is not."""

    status: ClassVar[int] = 405
    code, title = "method_not_allowed", "Method not allowed"


def openai_document(error: LearnbackError) -> tuple[str, bytes]:
    """An error of a request that the app never saw: content type and body."""
    return "application/json", openai_error(error)


TYPES = {
    401: "authentication_error",
    403: "permission_error",
    429: "rate_limit_error",
}
"""OpenAI's `type` by status; every other 4xx is an `invalid_request_error`."""


def openai_error(error: LearnbackError) -> bytes:
    """`{"error": {"message", "type", "param", "code"}}` as JSON."""
    fallback = "server_error" if error.status >= 500 else "invalid_request_error"
    return msgspec.json.encode(
        {
            "error": {
                "message": error.detail,
                "type": TYPES.get(error.status, fallback),
                "param": error.field,
                "code": error.code,
            }
        }
    )
