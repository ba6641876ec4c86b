"""What engines send, put together again: however it is cut, and wherever it ends."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from learnback.contracts.models import CompletionEnd, Endpoint, ToolCall, Track
from learnback.inference.completion import completion_of
from learnback.inference.parse import parse
from learnback.inference.served import Served
from learnback.inference.sse import Events, event_data

words = st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=8)
endings = st.sampled_from(["\n", "\r\n", "\r"])


def events(*data: Any, end: str = "\n", done: bool = True) -> bytes:
    said = [f"data: {json.dumps(d)}{end}{end}" for d in data]
    return "".join([*said, f"data: [DONE]{end}{end}" if done else ""]).encode()


def chat_chunk(delta: dict[str, Any], index: int = 0, reason: str | None = None) -> dict[str, Any]:
    choice = {"index": index, "delta": delta, "finish_reason": reason}
    return {"id": "chatcmpl-1", "choices": [choice]}


def chat(said: list[str], end: str = "\n") -> bytes:
    chunks = [chat_chunk({"content": word}) for word in said]
    usage = {"id": "chatcmpl-1", "choices": [], "usage": {"prompt_tokens": 2}}
    return events(*chunks, chat_chunk({}, reason="stop"), usage, end=end)


@given(words, endings)
def test_line_ends_make_no_difference(said: list[str], end: str) -> None:
    answer = parse("chat.completions", chat(said, end), streamed=True)
    assert [c.text for c in answer.choices] == ["".join(said)]
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.prompt_tokens == 2
    assert answer.id == "chatcmpl-1"


@given(words, st.lists(st.integers(0, 400), max_size=6))
def test_however_the_bytes_arrive_the_record_is_the_same(said: list[str], cuts: list[int]) -> None:
    raw = chat(said)
    at = sorted({0, len(raw), *(cut % (len(raw) + 1) for cut in cuts)})
    pieces = [raw[a:b] for a, b in itertools.pairwise(at)]
    whole = completion_of(a_served([raw]))
    assert completion_of(a_served(pieces)) == whole
    assert whole.choices[0].text == "".join(said)


def a_served(answer: list[bytes]) -> Served:
    return Served(
        id="chatcmpl-1",
        tenant="default",
        created_at=0.0,
        endpoint="chat.completions",
        version="base",
        track=Track.STABLE,
        probability=1.0,
        prompt_strategy=None,
        request=b'{"messages": [{"role": "user", "content": "hi"}]}',
        answer=answer,
        event_stream=True,
        streamed=True,
        stored=True,
        status=200,
        end=CompletionEnd.COMPLETE,
        subject=None,
        session=None,
        metadata={},
        first_byte_s=0.1,
        duration_s=0.2,
    )


@given(words, st.integers(0, 2000), st.sampled_from(["chat.completions", "responses"]))
def test_a_stream_cut_anywhere_gives_a_beginning_of_the_answer(
    said: list[str], cut: int, endpoint: Endpoint
) -> None:
    raw = chat(said) if endpoint == "chat.completions" else response_stream(said)
    answer = parse(endpoint, raw[: cut % (len(raw) + 1)], streamed=True)
    assert len(answer.choices) <= 1
    for choice in answer.choices:
        assert "".join(said).startswith(choice.text)


@given(st.binary(max_size=300), st.booleans())
@pytest.mark.parametrize("endpoint", ["chat.completions", "completions", "responses"])
def test_no_bytes_at_all_make_it_raise(endpoint: Endpoint, raw: bytes, streamed: bool) -> None:
    parse(endpoint, raw, streamed=streamed)
    parse(endpoint, b"data: " + raw, streamed=streamed)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["id", "choices", "delta", "message", "index", "output", "usage"]),
                inner,
                max_size=4,
            )
        ),
        max_leaves=12,
    )
)
@pytest.mark.parametrize("endpoint", ["chat.completions", "responses"])
def test_json_of_another_shape_is_left_out(endpoint: Endpoint, value: Any) -> None:
    parse(endpoint, json.dumps(value).encode(), streamed=False)
    parse(endpoint, events(value), streamed=True)


def test_data_of_several_lines_and_comments() -> None:
    raw = b': ping\n\nevent: x\nid: 7\ndata: {"a":\ndata:1}\n\ndata\n\n'
    assert event_data(raw) == [b'{"a":\n1}', b""]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_events_are_the_same_in_pieces_of_any_size(end: str) -> None:
    raw = events({"a": 1}, {"b": "two\nlines"}, end=end)
    for size in (1, 2, 7, len(raw)):
        found = Events()
        pieces = [raw[at : at + size] for at in range(0, len(raw), size)]
        assert [data for piece in pieces for data in found.feed(piece)] == event_data(raw)


def test_tool_calls_in_fragments() -> None:
    deltas: list[dict[str, Any]] = [
        {"tool_calls": [{"index": 0, "id": "c1", "function": {"name": "f", "arguments": ""}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"a"'}}]},
        {"tool_calls": [{"index": 1, "id": "c2", "function": {"name": "g", "arguments": "{}"}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": ": 1}"}}]},
    ]
    answer = parse("chat.completions", events(*map(chat_chunk, deltas)), streamed=True)
    assert answer.choices[0].tool_calls == (
        ToolCall(id="c1", name="f", arguments='{"a": 1}'),
        ToolCall(id="c2", name="g", arguments="{}"),
    )


def test_choices_that_come_mixed_are_told_apart() -> None:
    chunks = [chat_chunk({"content": f"{i}{n}"}, index=i) for n in range(3) for i in (1, 0)]
    answer = parse("chat.completions", events(*chunks), streamed=True)
    assert [(c.index, c.text) for c in answer.choices] == [(0, "000102"), (1, "101112")]


@pytest.mark.parametrize("field", ["reasoning", "reasoning_content"])
def test_reasoning_is_kept_apart(field: str) -> None:
    chunks = [chat_chunk({field: "hm "}), chat_chunk({field: "so"}), chat_chunk({"content": "x"})]
    answer = parse("chat.completions", events(*chunks), streamed=True)
    assert (answer.choices[0].reasoning, answer.choices[0].text) == ("hm so", "x")


def test_a_refusal_and_parts_in_a_whole_answer() -> None:
    message = {"content": [{"type": "text", "text": "a"}, {"text": "b"}], "refusal": "no"}
    whole = {"id": "x", "choices": [{"index": 0, "message": message, "finish_reason": "length"}]}
    choice = parse("chat.completions", json.dumps(whole).encode(), streamed=False).choices[0]
    assert (choice.text, choice.refusal, choice.finish_reason) == ("ab", "no", "length")


def test_an_error_in_a_stream_shows() -> None:
    answer = parse("chat.completions", events({"error": {"message": "x"}}), streamed=True)
    assert answer.failed
    failed = {"type": "response.failed", "response": {"id": "r", "status": "failed"}}
    assert parse("responses", events(failed), streamed=True).failed


def response_stream(said: list[str]) -> bytes:
    text = {"type": "output_text", "text": "".join(said)}
    item = {"type": "message", "id": "m", "content": [text]}
    whole = {"id": "resp_1", "status": "completed", "output": [item]}
    deltas = [
        {"type": "response.output_text.delta", "output_index": 0, "delta": word} for word in said
    ]
    return events(
        {"type": "response.created", "response": {"id": "resp_1", "status": "in_progress"}},
        {"type": "response.output_item.added", "output_index": 0, "item": {"type": "message"}},
        *deltas,
        {"type": "response.completed", "response": whole},
        done=False,
    )


def test_a_whole_response_with_reasoning_and_a_call() -> None:
    output = [
        {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "hm"}]},
        {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"},
    ]
    body = {"id": "resp_1", "status": "completed", "output": output}
    body["usage"] = {"input_tokens": 4, "output_tokens": 5}
    answer = parse("responses", json.dumps(body).encode(), streamed=False)
    (choice,) = answer.choices
    assert (choice.reasoning, choice.text, choice.finish_reason) == ("hm", "", "tool_calls")
    assert choice.tool_calls == (ToolCall(id="c1", name="f", arguments="{}"),)
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (4, 5)


def test_a_response_that_was_cut_is_put_together_from_its_deltas() -> None:
    call = {"type": "function_call", "call_id": "c1", "name": "f", "arguments": ""}
    said = [
        {"type": "response.created", "response": {"id": "resp_1"}},
        {"type": "response.output_item.added", "output_index": 0, "item": call},
        {"type": "response.function_call_arguments.delta", "output_index": 0, "delta": '{"a"'},
    ]
    answer = parse("responses", events(*said, done=False), streamed=True)
    assert answer.choices[0].tool_calls == (ToolCall(id="c1", name="f", arguments='{"a"'),)
    assert answer.choices[0].finish_reason is None


def test_an_incomplete_response_says_why() -> None:
    body = {
        "id": "resp_1",
        "status": "incomplete",
        "incomplete_details": {"reason": "max_output_tokens"},
        "output": [{"type": "message", "content": [{"type": "output_text", "text": "a"}]}],
    }
    answer = parse("responses", json.dumps(body).encode(), streamed=False)
    assert answer.choices[0].finish_reason == "length"
