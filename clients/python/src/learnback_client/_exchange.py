"""What the clients do, without doing it: steps to take, and what to make of their results.

Each function is a generator of `Send` and `Sleep`. The synchronous and the asynchronous client
carry the steps out and send the results back in; that is all in which they differ.
"""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import httpx
from pydantic import ValidationError

from learnback_client import _requests
from learnback_client._errors import (
    APIConnectionError,
    APIResponseError,
    APITimeoutError,
    NotJoinedError,
    from_status,
)
from learnback_client._requests import Request
from learnback_client._retry import RETRIED, RetryPolicy
from learnback_client._types import BatchResult, Feedback
from learnback_client.signals import Signal

R = TypeVar("R")
DEFAULT_URL = "http://127.0.0.1:8001"
URL_VARIABLE = "LEARNBACK_FEEDBACK_URL"
KEY_VARIABLE = "LEARNBACK_API_KEY"


@dataclass(frozen=True)
class Send:
    """Send this request; its result is a `Reply`, or the error that kept it from coming."""

    request: Request[Any]


@dataclass(frozen=True)
class Sleep:
    """Wait for so many seconds."""

    seconds: float


@dataclass(frozen=True)
class Reply:
    """An answer of the service."""

    status_code: int
    headers: Mapping[str, str]
    content: bytes


Result = Reply | httpx.TransportError | None
Steps = Generator[Send | Sleep, Result, R]


def call(request: Request[R], policy: RetryPolicy) -> Steps[R]:
    """Send a request until it succeeds, fails for good, or has failed too often."""
    failures = 0
    while True:
        result = yield Send(request)
        failures += 1
        if isinstance(result, Reply) and result.status_code not in RETRIED:
            return _read(request, result)
        retry_after = _retry_after(result) if isinstance(result, Reply) else None
        delay = policy.delay(failures, random.random(), retry_after)
        if delay is None:
            return _give_up(request, result)
        yield Sleep(delay)


def call_in_batches(items: Sequence[Signal], policy: RetryPolicy) -> Steps[list[BatchResult]]:
    """Send many signals; a result for each, in their order."""
    results: list[BatchResult] = []
    for request in _requests.batches(items):
        start = len(results)
        answer = yield from call(request, policy)
        results += [r.model_copy(update={"index": start + r.index}) for r in answer.results]
    return results


def wait_until_joined(
    feedback_id: str, policy: RetryPolicy, *, timeout_s: float, interval_s: float
) -> Steps[Feedback]:
    """Look at a signal until its completion is recorded, or it came to an end without."""
    deadline = time.monotonic() + timeout_s
    while True:
        signal = yield from call(_requests.get(feedback_id), policy)
        if signal.status != "pending_target":
            return signal
        left = deadline - time.monotonic()
        if left <= 0:
            raise NotJoinedError(
                f"{feedback_id} still waits for its completion after {timeout_s:g} s"
            )
        yield Sleep(min(interval_s, left))


def _read(request: Request[R], reply: Reply) -> R:
    body = _body(reply)
    if not 200 <= reply.status_code < 300:
        raise from_status(reply.status_code, body, _retry_after(reply))
    try:
        return request.read(body, reply.headers)
    except (ValidationError, TypeError) as error:
        raise APIResponseError(f"{request.method} {request.path}: {error}") from error


def _body(reply: Reply) -> Any:
    """The JSON body; the text where it is not JSON, such as a proxy's error page."""
    try:
        return json.loads(reply.content)
    except ValueError:
        return reply.content.decode(errors="replace")


def _give_up(request: Request[R], result: Result) -> R:
    if isinstance(result, Reply):
        return _read(request, result)
    kind = APITimeoutError if isinstance(result, httpx.TimeoutException) else APIConnectionError
    raise kind(f"{request.method} {request.path}: {result!r}") from result


def _retry_after(reply: Reply) -> float | None:
    """Seconds as the service asked for; None without a number."""
    try:
        return max(0.0, float(reply.headers.get("retry-after", "")))
    except ValueError:
        return None


def options(base_url: str | None, api_key: str | None, timeout_s: float) -> dict[str, Any]:
    """The arguments of the httpx client."""
    key = api_key if api_key is not None else os.environ.get(KEY_VARIABLE)
    headers = {"User-Agent": "learnback-client/0.1.0"}
    if key:
        headers["Authorization"] = f"Bearer {key}"
    return {
        "base_url": base_url or os.environ.get(URL_VARIABLE) or DEFAULT_URL,
        "headers": headers,
        "timeout": httpx.Timeout(timeout_s),
    }
