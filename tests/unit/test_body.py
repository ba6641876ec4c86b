"""What reaches the engine of a request's body."""

from __future__ import annotations

import json

from learnback.inference import body
from learnback.inference.settings import InferenceSettings


def rewritten(sent: dict[str, object], *without: str) -> dict[str, object]:
    _, fields = body.peek(json.dumps(sent).encode())
    return dict(json.loads(body.rewrite(fields, "v1", None, "id", without)))


def test_only_the_model_changes() -> None:
    sent = {"model": "learnback", "messages": [], "seed": 7, "temperature": 0.123456789012345678}
    assert rewritten(sent) == {**sent, "model": "v1"}


def test_fields_that_the_engine_can_not_take_are_left_out() -> None:
    assert rewritten({"model": "learnback", "seed": 7, "n": 2}, "seed") == {"model": "v1", "n": 2}


def test_clients_can_not_set_what_engines_tell_each_other() -> None:
    sent = {"model": "learnback", "request_id": "mine", "data_parallel_rank": 1}
    assert rewritten(sent) == {"model": "v1"}


def test_fields_to_leave_out_are_a_comma_separated_setting(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setenv("LEARNBACK_INFERENCE_DROP_FIELDS", "seed, logprobs")
    assert InferenceSettings().drop_fields == ("seed", "logprobs")
