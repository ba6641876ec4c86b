"""Errors, with the names that users of `openai` know.

LearnbackError
|-- NotJoinedError                    wait_until_joined ran out of time
`-- APIError
    |-- APIConnectionError            no answer
    |   `-- APITimeoutError           none in time
    |-- APIResponseError              a good status with a body that is not ours
    `-- APIStatusError                an error as an answer
        |-- BadRequestError           400
        |-- AuthenticationError       401
        |-- PermissionDeniedError     403
        |-- NotFoundError             404
        |-- ConflictError             409
        |-- GoneError                 410
        |-- UnprocessableEntityError  422
        |-- RateLimitError            429
        `-- InternalServerError       5xx
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from learnback_client._types import WrongField


class LearnbackError(Exception):
    """Base of all errors of this package."""


class NotJoinedError(LearnbackError):
    """The signal's completion has not been recorded within the time given."""


class APIError(LearnbackError):
    """Something went wrong between us and the service."""


class APIConnectionError(APIError):
    """The service could not be reached, after all retries."""


class APITimeoutError(APIConnectionError):
    """The service did not answer in time, after all retries."""


class APIResponseError(APIError):
    """The answer is not one of Learnback's; is something else listening there?"""


class APIStatusError(APIError):
    """The service answered with an error.

    `status_code` is its HTTP status, `code` a stable word for it, `errors` the fields that are
    wrong, `body` the whole answer.
    """

    def __init__(self, status_code: int, body: Any, retry_after_s: float | None = None) -> None:
        document = body if isinstance(body, dict) else {}
        detail = document.get("detail") or document.get("title") or str(body)[:500]
        super().__init__(f"{status_code}: {detail}")
        self.status_code = status_code
        self.body = body
        self.code: str | None = document.get("code")
        self.errors: Sequence[WrongField] = [
            WrongField(field=str(e.get("field", "")), message=str(e.get("message", "")))
            for e in document.get("errors") or []
            if isinstance(e, dict)
        ]
        self.retry_after_s = retry_after_s


class BadRequestError(APIStatusError):
    """400: the request can't be read."""


class AuthenticationError(APIStatusError):
    """401: no API key, or one that is unknown, expired or revoked."""


class PermissionDeniedError(APIStatusError):
    """403: the API key lacks the scope `feedback`."""


class NotFoundError(APIStatusError):
    """404: nothing by that id."""


class ConflictError(APIStatusError):
    """409: the idempotency key came with another body, or the signal was already taken back."""


class GoneError(APIStatusError):
    """410: it has been erased."""


class UnprocessableEntityError(APIStatusError):
    """422: a value is wrong; `errors` names the fields."""


class RateLimitError(APIStatusError):
    """429: too many signals; `retry_after_s` says when to come back."""


class InternalServerError(APIStatusError):
    """5xx: the service failed; nothing was written."""


_BY_STATUS: dict[int, type[APIStatusError]] = {
    400: BadRequestError,
    401: AuthenticationError,
    403: PermissionDeniedError,
    404: NotFoundError,
    409: ConflictError,
    410: GoneError,
    422: UnprocessableEntityError,
    429: RateLimitError,
}


def from_status(status_code: int, body: Any, retry_after_s: float | None) -> APIStatusError:
    """The error for an answer."""
    fallback = InternalServerError if status_code >= 500 else APIStatusError
    return _BY_STATUS.get(status_code, fallback)(status_code, body, retry_after_s)
