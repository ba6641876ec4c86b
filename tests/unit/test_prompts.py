"""Prompt strategies around a caller's prompt: where each piece goes, and when they step aside."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from learnback.inference.examples import Applied, Prompter
from learnback.inference.prompts import apply
from learnback.models.example_bank import Entry, system_key
from learnback.models.retrieval import Index
from learnback.models.strategy import THINK, Strategy, problem_with

FEW = {
    "strategy": "few_shot",
    "system": "Be kind.",
    "examples": [{"user": "a?", "assistant": "b!"}],
}
USER = {"role": "user", "content": "hi"}
TURNS = [{"role": "user", "content": "a?"}, {"role": "assistant", "content": "b!"}]
BANK = {"strategy": "few_shot", "bank": "0" * 64, "max_examples": 2, "reward_weight": 0.0}


def an_entry(number: int, user: str, **changes: Any) -> Entry:
    values: dict[str, Any] = {
        "id": f"ex_{number}",
        "tenant": "acme",
        "system_key": "",
        "prompt_key": "",
        "user": user,
        "answer": f"answer {number}",
        "quality": 0.5,
    }
    return Entry(**values | changes)


def applied(
    config: dict[str, Any],
    endpoint: Any,
    request: dict[str, Any],
    entries: tuple[Entry, ...] = (),
    context: int | None = None,
) -> Applied:
    strategy = Strategy.model_validate(config)
    index = Index(entries, prefer_reasoning=strategy.strategy == "chain_of_thought")
    fields = {name: msgspec.Raw(json.dumps(value).encode()) for name, value in request.items()}
    return apply(Prompter(strategy, index), endpoint, fields, "acme", context)


def chat(config: dict[str, Any], *messages: Any, **more: Any) -> list[Any]:
    """The messages of a chat after the strategy."""
    request = {"messages": list(messages)}
    changed = applied(config, "chat.completions", request, **more).changed
    return list(changed.get("messages", request["messages"]))


def test_few_shot_in_a_chat_keeps_the_callers_system_message_after_ours() -> None:
    system = {"role": "system", "content": "Speak French."}
    ours = {"role": "system", "content": "Be kind.\n\nSpeak French."}
    assert chat(FEW, system, USER) == [ours, *TURNS, USER]


def test_without_words_of_ours_the_callers_system_messages_stay_as_they_are() -> None:
    systems = [{"role": "system", "content": "One."}, {"role": "developer", "content": "Two."}]
    plain = {"strategy": "few_shot", "examples": FEW["examples"]}
    assert chat(plain, *systems, USER) == [*systems, *TURNS, USER]


def test_few_shot_in_a_response_and_in_a_text() -> None:
    changed = applied(FEW, "responses", {"input": "hi", "instructions": "Speak French."}).changed
    assert changed == {"instructions": "Be kind.\n\nSpeak French.", "input": [*TURNS, USER]}
    developer = {"role": "developer", "content": "Two."}
    changed = applied(FEW, "responses", {"input": [developer, USER]}).changed
    assert changed["input"] == [developer, *TURNS, USER]
    changed = applied(FEW, "completions", {"prompt": "hi"}).changed
    assert changed == {"prompt": "Be kind.\n\na?\nb!\n\nhi"}


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"strategy": "chain_of_thought"}, THINK),
        ({"strategy": "zero_shot_cot"}, THINK),
        ({"strategy": "zero_shot_cot", "suffix": "Take a breath."}, "Take a breath."),
    ],
)
def test_the_wording_speaks_last(config: dict[str, Any], words: str) -> None:
    assert chat(config, USER) == [{"role": "user", "content": f"hi\n\n{words}"}]
    parts = [{"type": "text", "text": "hi"}]
    assert chat(config, {"role": "user", "content": parts})[0]["content"] == [
        *parts,
        {"type": "text", "text": words},
    ]
    given_words = [USER, {"role": "assistant", "content": "well"}]
    assert chat(config, *given_words) == given_words, "the assistant has the word already"


def test_the_example_most_like_the_prompt_stands_next_to_it() -> None:
    entries = (an_entry(1, "how do cats purr"), an_entry(2, "how do dogs bark"))
    said = chat(BANK, {"role": "user", "content": "how do dogs bark"}, entries=entries)
    assert [m["content"] for m in said] == [
        "how do cats purr",
        "answer 1",
        "how do dogs bark",
        "answer 2",
        "how do dogs bark",
    ]


def test_in_a_conversation_the_examples_come_first_and_the_last_question_picks_them() -> None:
    entries = (an_entry(1, "cats"), an_entry(2, "dogs"))
    talk = [
        {"role": "user", "content": "cats"},
        {"role": "assistant", "content": "meow"},
        {"role": "user", "content": "dogs"},
    ]
    said = chat(BANK | {"max_examples": 1}, *talk, entries=entries)
    assert said == [
        {"role": "user", "content": "dogs"},
        {"role": "assistant", "content": "answer 2"},
        *talk,
    ]


def test_an_example_is_shown_only_under_the_system_text_that_it_was_given_under() -> None:
    system = {"role": "system", "content": "Speak  French."}
    entries = (
        an_entry(1, "hi"),
        an_entry(2, "hi", system_key=system_key("Speak French.")),
        an_entry(3, "hi", system_key=system_key("Speak Dutch.")),
    )
    assert applied(BANK, "chat.completions", {"messages": [USER]}, entries).examples == ("ex_1",)
    under = applied(BANK, "chat.completions", {"messages": [system, USER]}, entries)
    assert under.examples == ("ex_2",)
    response = {"instructions": "Speak French.", "input": "hi"}
    assert applied(BANK, "responses", response, entries).examples == ("ex_2",)


def test_chain_of_thought_shows_how_the_answer_was_found() -> None:
    thinking = an_entry(1, "two plus two", answer="4", reasoning="Two and two more.")
    bare = an_entry(2, "hi", answer="hello")
    config = BANK | {"strategy": "chain_of_thought", "suffix": "Think."}
    said = chat(config, USER, entries=(thinking, bare))
    assert [m["content"] for m in said] == [
        "two plus two",
        "Two and two more.\n\n4",
        "hi\n\nThink.",
    ], "where some examples have reasoning, the others are not shown"
    assert chat(config, USER, entries=(bare,))[1]["content"] == "hello"


OTHERS = {
    "tools": {"tools": [{"type": "function", "function": {"name": "f"}}]},
    "structured_output": {"response_format": {"type": "json_object"}},
}


@pytest.mark.parametrize(("why", "more"), OTHERS.items())
def test_beside_tools_and_structured_output_only_the_system_text_is_put_in(
    why: str, more: dict[str, Any]
) -> None:
    config = FEW | {"suffix": "Think."}
    found = applied(config, "chat.completions", {"messages": [USER], **more})
    assert found.changed["messages"] == [{"role": "system", "content": "Be kind."}, USER]
    assert found.skipped == why
    text = applied(config, "chat.completions", {"messages": [USER], "tools": []})
    assert text.skipped is None, "an empty list of tools is none"


def test_structured_output_of_a_response_is_told_as_well() -> None:
    wanted = {"format": {"type": "json_schema", "name": "x", "schema": {}}}
    assert applied(FEW, "responses", {"input": "hi", "text": wanted}).skipped == "structured_output"
    plain = {"format": {"type": "text"}}
    assert applied(FEW, "responses", {"input": "hi", "text": plain}).skipped is None


@pytest.mark.parametrize(
    ("endpoint", "request_body", "why"),
    [
        ("completions", {"prompt": [1, 2]}, "no_prompt"),
        ("completions", {"prompt": 3}, "no_prompt"),
        ("completions", {}, "no_prompt"),
        ("chat.completions", {}, "no_prompt"),
        ("chat.completions", {"messages": []}, "no_prompt"),
        ("chat.completions", {"messages": ["hi"]}, "no_prompt"),
        ("responses", {"input": 3}, "no_prompt"),
        ("completions", {"prompt": "hi", "echo": True}, "echo"),
        ("completions", {"prompt": "hi", "suffix": "there"}, "echo"),
        ("chat.completions", {"messages": [USER], "prompt_logprobs": 0}, "echo"),
    ],
)
def test_what_can_not_be_prompted_is_left_alone(
    endpoint: str, request_body: dict[str, Any], why: str
) -> None:
    found = applied(FEW, endpoint, request_body)
    assert (found.changed, found.skipped) == ({}, why)


def test_with_a_picture_or_a_conversation_kept_elsewhere_no_example_is_shown() -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}
    message = {"role": "user", "content": [{"type": "text", "text": "hi"}, picture]}
    found = applied(FEW, "chat.completions", {"messages": [message]})
    assert found.changed["messages"] == [{"role": "system", "content": "Be kind."}, message]
    assert found.skipped == "not_text"
    later = applied(FEW, "responses", {"input": "hi", "previous_response_id": "resp_1"})
    assert (later.changed, later.skipped) == ({"instructions": "Be kind."}, "continued")


def test_each_text_of_a_batch_gets_its_own_examples() -> None:
    entries = (an_entry(1, "cats"), an_entry(2, "dogs"))
    config = BANK | {"max_examples": 1}
    found = applied(config, "completions", {"prompt": ["dogs", "cats"]}, entries)
    assert found.changed["prompt"] == ["dogs\nanswer 2\n\ndogs", "cats\nanswer 1\n\ncats"]
    assert found.examples == ("ex_2", "ex_1")


def test_a_tenant_without_examples_gets_none_and_it_is_said() -> None:
    found = applied(
        BANK, "chat.completions", {"messages": [USER]}, (an_entry(1, "hi", tenant="b"),)
    )
    assert (found.changed, found.skipped) == ({}, "no_examples")


@given(
    st.lists(st.text(max_size=300), max_size=12),
    st.text(min_size=1, max_size=1500),
    st.integers(1, 3000),
    st.one_of(st.none(), st.integers(1, 3000)),
)
def test_examples_never_make_a_prompt_too_long(
    users: list[str], prompt: str, context: int, max_tokens: int | None
) -> None:
    """In bytes, of which a token has at least one."""
    entries = tuple(an_entry(i, user) for i, user in enumerate(users))
    request: dict[str, Any] = {"messages": [{"role": "user", "content": prompt}]}
    request |= {} if max_tokens is None else {"max_tokens": max_tokens}
    config = BANK | {"max_examples": 8, "max_example_bytes": 1000}
    found = applied(config, "chat.completions", request, entries, context)
    turns = found.changed.get("messages", request["messages"])[:-1]
    shown = sum(len(turn["content"].encode("utf-8", "surrogatepass")) for turn in turns)
    assert len(turns) == 2 * len(found.examples) <= 16
    assert shown <= 1000
    if turns:
        own = len(prompt.encode("utf-8", "surrogatepass"))
        assert own + shown + (max_tokens or 0) <= context
    assert found.left_out + len(found.examples) == min(8, len(users))


def test_what_does_not_fit_is_counted_and_a_shorter_one_takes_its_place() -> None:
    entries = (an_entry(1, "hi", answer="long " * 100), an_entry(2, "hi there"))
    found = applied(
        BANK, "chat.completions", {"messages": [USER], "max_tokens": 10}, entries, context=300
    )
    assert (found.examples, found.left_out, found.skipped) == (("ex_2",), 1, None)
    tight = applied(BANK, "chat.completions", {"messages": [USER]}, entries, context=100)
    assert (tight.examples, tight.left_out, tight.skipped) == ((), 2, "no_room")


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"strategy": "magic"},
        {"strategy": "few_shot"},
        {"strategy": "zero_shot"},
        {"strategy": "zero_shot", "system": 3},
        {"strategy": "zero_shot_cot", "bank": "0" * 64},
        FEW | {"max_examples": 17},
        FEW | {"reward_weight": 1.5},
    ],
)
def test_what_is_no_strategy_says_why(config: dict[str, Any]) -> None:
    assert "strategy" in str(problem_with(config))
    assert problem_with(FEW) is None
