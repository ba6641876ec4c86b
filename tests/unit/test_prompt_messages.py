"""Requests of all endpoints as one kind of prompt."""

from __future__ import annotations

from typing import Any

import pytest

from learnback.contracts.models import Endpoint
from learnback.inference.prompt_messages import messages_of, parameters_of

USER = {"role": "user", "content": "hi"}


@pytest.mark.parametrize(
    ("endpoint", "request_body", "expected"),
    [
        ("chat.completions", {"messages": [USER]}, [USER]),
        ("chat.completions", {"messages": "hi"}, []),
        ("chat.completions", {"messages": ["hi", USER]}, [USER]),
        ("completions", {"prompt": "hi"}, [USER]),
        ("completions", {"prompt": ["hi"]}, [USER]),
        (
            "completions",
            {"prompt": [1, 2]},
            [{"role": "user", "content": None, "token_ids": [1, 2]}],
        ),
        (
            "completions",
            {"prompt": [[1, 2]]},
            [{"role": "user", "content": None, "token_ids": [1, 2]}],
        ),
        (
            "completions",
            {"prompt": ["a", "b"]},
            [{"role": "user", "content": None, "batch": ["a", "b"]}],
        ),
        ("completions", {}, []),
        ("responses", {"input": "hi"}, [USER]),
        (
            "responses",
            {"input": "hi", "instructions": "be kind"},
            [{"role": "system", "content": "be kind"}, USER],
        ),
        ("responses", {"input": [USER]}, [USER]),
        (
            "responses",
            {"input": [{"role": "user", "content": [{"type": "input_text", "text": "hi"}]}]},
            [USER],
        ),
        (
            "responses",
            {"input": [{"type": "function_call_output", "call_id": "c", "output": "4"}]},
            [{"role": "tool", "tool_call_id": "c", "content": "4"}],
        ),
        (
            "responses",
            {"input": [{"type": "function_call", "call_id": "c", "name": "f", "arguments": ""}]},
            [
                {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [
                        {
                            "id": "c",
                            "type": "function",
                            "function": {"name": "f", "arguments": ""},
                        }
                    ],
                }
            ],
        ),
    ],
)
def test_the_prompt_of(endpoint: Endpoint, request_body: dict[str, Any], expected: Any) -> None:
    assert list(messages_of(endpoint, request_body)) == expected


def test_inline_images_are_kept_as_their_digest() -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 999}}
    (message,) = messages_of(
        "chat.completions", {"messages": [{"role": "user", "content": [image]}]}
    )
    url = message["content"][0]["image_url"]["url"]
    assert url.startswith("data:image/png;base64,sha256:")
    assert len(url) < 120


def test_parameters_are_what_shapes_an_answer() -> None:
    request = {"model": "x", "messages": [], "temperature": 1, "user": "ann", "n": 2}
    assert parameters_of(request) == {"temperature": 1, "n": 2}
