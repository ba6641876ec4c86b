"""The client without I/O: bodies, retries, and the same methods on both clients."""

from __future__ import annotations

import inspect
import json
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from learnback_client import (
    APIConnectionError,
    APIResponseError,
    APIStatusError,
    APITimeoutError,
    AsyncLearnback,
    AuthenticationError,
    ConflictError,
    GoneError,
    InternalServerError,
    Learnback,
    NotFoundError,
    RateLimitError,
    Rater,
    RetryPolicy,
    Text,
    UnprocessableEntityError,
    signals,
)
from learnback_client import _requests as requests
from learnback_client._exchange import Reply, Result, Send, Sleep, Steps, call

OK = Reply(202, {}, b'{"id": "fb_1", "status": "accepted"}')
POLICY = RetryPolicy(max_retries=2)


def carry_out(steps: Steps[Any], *results: Result) -> tuple[Any, list[Send], list[float]]:
    """Feed results to the steps: the outcome, what was sent, and the pauses."""
    sent: list[Send] = []
    pauses: list[float] = []
    waiting = list(results)
    value: Result = None
    while True:
        try:
            step = steps.send(value)
        except StopIteration as end:
            assert not waiting, "fewer attempts than expected"
            return end.value, sent, pauses
        if isinstance(step, Sleep):
            pauses.append(step.seconds)
            value = None
        else:
            sent.append(step)
            value = waiting.pop(0)


def a_request() -> Any:
    return requests.send(signals.thumbs("chatcmpl-1", "up"))


def test_a_signal_is_a_plain_body() -> None:
    signal = signals.preference(
        "chatcmpl-1",
        Text("four"),
        "second",
        rater="u1",
        tags=("a",),
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
        metadata=None,
        idempotency_key="k",
    )
    assert signal == {
        "kind": "preference",
        "first": {"completion_id": "chatcmpl-1", "choice": 0},
        "second": {"text": "four"},
        "preferred": "second",
        "strength": 1.0,
        "rater": {"id": "u1", "kind": "human"},
        "tags": ["a"],
        "created_at": "2026-01-01T00:00:00+00:00",
        "idempotency_key": "k",
    }
    request = requests.send(signal)
    assert request.headers == {"Idempotency-Key": "k"}
    assert "idempotency_key" not in request.body
    assert signals.thumbs("c", "up", rater=Rater(kind="code"))["rater"]["kind"] == "code"


def test_each_signal_gets_a_key_of_its_own_that_its_retries_share() -> None:
    assert a_request().headers != a_request().headers
    received, sent, pauses = carry_out(
        call(a_request(), POLICY), httpx.ReadTimeout("slow"), Reply(503, {}, b""), OK
    )
    assert received.id == "fb_1"
    assert len({step.request.headers["Idempotency-Key"] for step in sent}) == 1
    assert 0.25 <= pauses[0] <= 0.5 <= pauses[1] <= 1.0


def test_retry_after_is_honoured_unless_it_is_too_long() -> None:
    busy = Reply(429, {"retry-after": "7"}, b"{}")
    _, _, pauses = carry_out(call(a_request(), POLICY), busy, OK)
    assert pauses == [7.0]
    with pytest.raises(RateLimitError):
        carry_out(call(a_request(), POLICY), Reply(429, {"retry-after": "3600"}, b"{}"))


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (401, AuthenticationError),
        (404, NotFoundError),
        (409, ConflictError),
        (410, GoneError),
        (413, APIStatusError),
        (422, UnprocessableEntityError),
    ],
)
def test_an_error_of_the_caller_is_not_tried_again(status: int, kind: type[Exception]) -> None:
    body = b'{"detail": "no", "code": "c", "errors": [{"field": "value", "message": "m"}]}'
    with pytest.raises(kind, match=f"{status}: no") as raised:
        carry_out(call(a_request(), POLICY), Reply(status, {}, body))
    assert isinstance(raised.value, APIStatusError)
    assert (raised.value.code, raised.value.errors[0].field) == ("c", "value")


@pytest.mark.parametrize(
    ("result", "kind"),
    [
        (Reply(500, {}, b"<html>"), InternalServerError),
        (httpx.ConnectError("refused"), APIConnectionError),
        (httpx.ConnectTimeout("slow"), APITimeoutError),
    ],
)
def test_it_gives_up_after_the_last_retry(result: Result, kind: type[Exception]) -> None:
    with pytest.raises(kind):
        carry_out(call(a_request(), POLICY), result, result, result)


@pytest.mark.parametrize("content", [b"<html>hello</html>", b"[]", b"{}", b"\xff"])
def test_an_answer_of_something_else_is_an_error_of_its_own(content: bytes) -> None:
    with pytest.raises(APIResponseError):
        carry_out(call(a_request(), POLICY), Reply(200, {}, content))


def test_ids_are_quoted_in_paths() -> None:
    assert requests.get("../keys?x").path == "/v1/feedback/..%2Fkeys%3Fx"


def test_both_clients_have_the_same_methods() -> None:
    names = {"__aenter__": "__enter__", "__aexit__": "__exit__"}

    def methods(cls: type) -> dict[str, inspect.Signature]:
        return {
            names.get(name, name): inspect.signature(member).replace(
                return_annotation=inspect.Signature.empty
            )
            for name, member in vars(cls).items()
            if inspect.isfunction(member) and name != "__init__"
        }

    assert methods(Learnback) == methods(AsyncLearnback)
    for name, member in vars(AsyncLearnback).items():
        if inspect.isfunction(member) and name != "__init__":
            assert inspect.iscoroutinefunction(member), name


def test_batches_keep_to_the_services_limits_in_number_and_in_bytes() -> None:
    short = [{"kind": "comment", "text": "x"} for _ in range(1001)]
    assert [len(r.body["items"]) for r in requests.batches(short)] == [1000, 1]
    long = [{"kind": "correction", "text": "ä" * 100_000} for _ in range(60)]
    parts = requests.batches(long)
    assert sum(len(r.body["items"]) for r in parts) == 60
    assert all(len(json.dumps(r.body).encode()) < 4 * 1024 * 1024 for r in parts)
    keys = [item["idempotency_key"] for r in parts for item in r.body["items"]]
    assert len(set(keys)) == 60
    assert requests.batches([]) == []
