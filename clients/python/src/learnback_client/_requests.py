"""Requests and what their answers mean. Pure."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar
from urllib.parse import quote

from pydantic import BaseModel

from learnback_client._types import (
    BatchAnswer,
    Completion,
    Deleted,
    Feedback,
    Page,
    Received,
)
from learnback_client.signals import Signal

R = TypeVar("R")
B = TypeVar("B", bound=BaseModel)
MOST_PER_BATCH = 1000
MOST_BYTES = 3_500_000
"""Of the signals in one batch: the service takes bodies of 4 MiB."""


@dataclass(frozen=True)
class Request(Generic[R]):
    """One request, and how to read its answer from the JSON body and the headers."""

    method: str
    path: str
    read: Callable[[Any, Mapping[str, str]], R]
    body: Any = None
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)


def _as(model: type[B]) -> Callable[[Any, Mapping[str, str]], B]:
    return lambda body, _: model.model_validate(body)


def _received(body: Any, headers: Mapping[str, str]) -> Received:
    replayed = headers.get("idempotent-replayed") == "true"
    return Received.model_validate({**body, "replayed": replayed})


def _signal(method: str, path: str, signal: Signal, dry_run: bool = False) -> Request[Received]:
    body = dict(signal)
    key = body.pop("idempotency_key", None) or str(uuid.uuid4())
    query = {"dry_run": "true"} if dry_run else {}
    return Request(method, path, _received, body, query, {"Idempotency-Key": key})


def send(signal: Signal, *, dry_run: bool = False) -> Request[Received]:
    """Send one signal."""
    return _signal("POST", "/v1/feedback", signal, dry_run)


def supersede(feedback_id: str, signal: Signal) -> Request[Received]:
    """Put a signal in the place of another."""
    return _signal("PUT", f"/v1/feedback/{quote(feedback_id, safe='')}", signal)


def batches(items: Sequence[Signal]) -> list[Request[BatchAnswer]]:
    """Send many signals, as many at once as the service takes; each with its own key."""
    parts: list[list[dict[str, Any]]] = []
    used = 0
    for item in items:
        keyed = {"idempotency_key": str(uuid.uuid4()), **item}
        size = len(json.dumps(keyed, default=str).encode())
        if not parts or len(parts[-1]) == MOST_PER_BATCH or used + size > MOST_BYTES:
            parts.append([])
            used = 0
        parts[-1].append(keyed)
        used += size
    path = "/v1/feedback/batch"
    return [Request("POST", path, _as(BatchAnswer), {"items": part}) for part in parts]


def get(feedback_id: str) -> Request[Feedback]:
    """A signal, and what became of it."""
    return Request("GET", f"/v1/feedback/{quote(feedback_id, safe='')}", _as(Feedback))


def withdraw(feedback_id: str) -> Request[Feedback]:
    """Take a signal back."""
    return Request("DELETE", f"/v1/feedback/{quote(feedback_id, safe='')}", _as(Feedback))


def list_feedback(**query: Any) -> Request[Page[Feedback]]:
    """A page of signals."""
    return Request("GET", "/v1/feedback", _as(Page[Feedback]), query=_query(query))


def completion(completion_id: str) -> Request[Completion]:
    """A recorded completion."""
    return Request("GET", f"/v1/completions/{quote(completion_id, safe='')}", _as(Completion))


def list_completions(metadata: Mapping[str, str] | None, **query: Any) -> Request[Page[Completion]]:
    """A page of recorded completions."""
    found = _query(query) | {f"metadata[{k}]": v for k, v in (metadata or {}).items()}
    return Request("GET", "/v1/completions", _as(Page[Completion]), query=found)


def erase_completion(completion_id: str) -> Request[Deleted]:
    """Erase a completion and all feedback about it."""
    return Request("DELETE", f"/v1/completions/{quote(completion_id, safe='')}", _as(Deleted))


def _query(values: Mapping[str, Any]) -> dict[str, str]:
    return {name: str(value) for name, value in values.items() if value is not None}
