"""Typed client for Learnback's feedback API, synchronous and asynchronous."""

from learnback_client import signals
from learnback_client._async_client import AsyncLearnback
from learnback_client._client import Learnback
from learnback_client._errors import (
    APIConnectionError,
    APIError,
    APIResponseError,
    APIStatusError,
    APITimeoutError,
    AuthenticationError,
    BadRequestError,
    ConflictError,
    GoneError,
    InternalServerError,
    LearnbackError,
    NotFoundError,
    NotJoinedError,
    PermissionDeniedError,
    RateLimitError,
    UnprocessableEntityError,
)
from learnback_client._retry import RetryPolicy
from learnback_client._types import (
    BatchResult,
    Completion,
    Deleted,
    Feedback,
    Page,
    Received,
    Reward,
    WrongField,
)
from learnback_client.signals import Answer, Rater, Text

__version__ = "0.1.0"

__all__ = [
    "APIConnectionError",
    "APIError",
    "APIResponseError",
    "APIStatusError",
    "APITimeoutError",
    "Answer",
    "AsyncLearnback",
    "AuthenticationError",
    "BadRequestError",
    "BatchResult",
    "Completion",
    "ConflictError",
    "Deleted",
    "Feedback",
    "GoneError",
    "InternalServerError",
    "Learnback",
    "LearnbackError",
    "NotFoundError",
    "NotJoinedError",
    "Page",
    "PermissionDeniedError",
    "RateLimitError",
    "Rater",
    "Received",
    "RetryPolicy",
    "Reward",
    "Text",
    "UnprocessableEntityError",
    "WrongField",
    "signals",
]
