"""Errors that callers see: each carries its HTTP status and names the field and the way out.

LearnbackError
|-- BadRequest 400          |-- Gone 410
|-- Unauthenticated 401     |-- TooLarge 413
|-- Forbidden 403           |-- Unprocessable 422
|-- NotFound 404            |-- TooManyRequests 429
|-- Timeout 408             `-- Unavailable 503
|-- Conflict 409
"""

from __future__ import annotations

from typing import ClassVar


class LearnbackError(Exception):
    """Base of all errors that Learnback raises on purpose.

    `detail` is one sentence that says what is wrong and what to do; `field` is the path of the
    offending field (`first.completion_id`), where there is one.
    """

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"
    title: ClassVar[str] = "Internal error"

    def __init__(self, detail: str, *, field: str | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.field = field


class BadRequest(LearnbackError):
    """The request can't be read at all."""

    status, code, title = 400, "malformed_request", "Malformed request"


class Unauthenticated(LearnbackError):
    """No API key, or one that is unknown, expired or revoked."""

    status, code, title = 401, "unauthenticated", "Authentication failed"


class Forbidden(LearnbackError):
    """A good API key without the scope that this needs."""

    status, code, title = 403, "forbidden", "Not allowed"


class NotFound(LearnbackError):
    """Nothing by that id, or it belongs to another tenant (never told apart)."""

    status, code, title = 404, "not_found", "Not found"


class Timeout(LearnbackError):
    """The client took too long to send its request."""

    status, code, title = 408, "request_timeout", "Request timeout"


class Conflict(LearnbackError):
    """It contradicts what is already there."""

    status, code, title = 409, "conflict", "Conflict"


class Gone(LearnbackError):
    """It was here and has been erased."""

    status, code, title = 410, "erased", "Erased"


class TooLarge(LearnbackError):
    """The body is over the limit."""

    status, code, title = 413, "body_too_large", "Body too large"


class UnsupportedMediaType(LearnbackError):
    """The body is not declared as JSON."""

    status, code, title = 415, "unsupported_media_type", "Unsupported media type"


class Unprocessable(LearnbackError):
    """Readable, but a value is out of range or contradicts another."""

    status, code, title = 422, "invalid_value", "Invalid value"


class TooManyRequests(LearnbackError):
    """Over the rate limit; `Retry-After` says when to come back."""

    status, code, title = 429, "rate_limited", "Too many requests"

    def __init__(self, detail: str, *, retry_after_s: float) -> None:
        super().__init__(detail)
        self.retry_after_s = retry_after_s


class Unavailable(LearnbackError):
    """A part that this needs is away; nothing was written."""

    status, code, title = 503, "unavailable", "Unavailable"
