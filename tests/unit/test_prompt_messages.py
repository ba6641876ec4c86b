"""Requests of all endpoints as one kind of prompt; prompt strategies around them."""

from __future__ import annotations

from typing import Any

import pytest

from learnback.contracts.models import Endpoint
from learnback.inference.prompt_messages import messages_of, parameters_of
from learnback.inference.prompts import THINK, apply, problem_with

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


FEW = {
    "strategy": "few_shot",
    "system": "Be kind.",
    "examples": [{"user": "a?", "assistant": "b!"}],
}
TURNS = [{"role": "user", "content": "a?"}, {"role": "assistant", "content": "b!"}]


def test_few_shot_in_a_chat_keeps_the_callers_system_message_after_ours() -> None:
    given = [{"role": "system", "content": "Speak French."}, USER]
    changed = apply(FEW, "chat.completions", {"messages": given})
    assert changed["messages"] == [
        {"role": "system", "content": "Be kind.\n\nSpeak French."},
        *TURNS,
        USER,
    ]
    assert given[0]["content"] == "Speak French.", "the request itself is not touched"


def test_few_shot_in_a_response_and_in_a_text() -> None:
    changed = apply(FEW, "responses", {"input": "hi", "instructions": "Speak French."})
    assert changed == {"instructions": "Be kind.\n\nSpeak French.", "input": [*TURNS, USER]}
    assert apply(FEW, "completions", {"prompt": "hi"}) == {"prompt": "Be kind.\n\na?\nb!\n\nhi"}


def test_chain_of_thought_speaks_last() -> None:
    config = {"strategy": "chain_of_thought"}
    changed = apply(config, "chat.completions", {"messages": [USER]})
    assert changed["messages"] == [{"role": "user", "content": f"hi\n\n{THINK}"}]
    parts = [{"type": "text", "text": "hi"}]
    changed = apply(config, "chat.completions", {"messages": [{"role": "user", "content": parts}]})
    assert changed["messages"][0]["content"] == [*parts, {"type": "text", "text": THINK}]
    assistant = [USER, {"role": "assistant", "content": "well"}]
    assert apply(config, "chat.completions", {"messages": assistant})["messages"] == assistant


@pytest.mark.parametrize("request_body", [{"prompt": [1, 2]}, {"prompt": 3}, {}])
def test_tokens_and_nonsense_are_left_alone(request_body: dict[str, Any]) -> None:
    assert apply(FEW, "completions", request_body) == {}
    assert apply(FEW, "chat.completions", request_body) == {}


@pytest.mark.parametrize(
    "config",
    [{}, {"strategy": "magic"}, {"strategy": "few_shot"}, {"strategy": "zero_shot", "system": 3}],
)
def test_what_is_no_strategy_says_why(config: dict[str, Any]) -> None:
    assert "strategy" in str(problem_with(config))
    assert problem_with(FEW) is None
