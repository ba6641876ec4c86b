"""The Responses API: one answer made of output items, or the events of a stream. Pure.

A stream that ends with the whole response is read from there; one that was cut is put together
from its deltas.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec

from learnback.contracts.models import Choice, ToolCall, Usage
from learnback.inference.answer import Answer

FINISH_REASONS = {"max_output_tokens": "length", "max_tokens": "length"}
"""OpenAI's reasons for an incomplete response in the words of chat completions."""


class _Content(msgspec.Struct):
    type: str | None = None
    text: str | None = None
    refusal: str | None = None


class _Item(msgspec.Struct):
    type: str | None = None
    id: str | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    input: str | None = None
    content: list[_Content] | None = None
    summary: list[_Content] | None = None


class _Usage(msgspec.Struct):
    input_tokens: int | None = None
    output_tokens: int | None = None


class _Incomplete(msgspec.Struct):
    reason: str | None = None


class _Response(msgspec.Struct):
    id: str | None = None
    status: str | None = None
    output: list[_Item] | None = None
    usage: _Usage | None = None
    incomplete_details: _Incomplete | None = None
    error: Any = None


class _Event(msgspec.Struct):
    type: str | None = None
    delta: str | None = None
    output_index: int = 0
    item: _Item | None = None
    response: _Response | None = None
    error: Any = None


_RESPONSE = msgspec.json.Decoder(_Response)
_EVENT = msgspec.json.Decoder(_Event)


@dataclass(slots=True)
class _Output:
    """An output item as it grows."""

    item: _Item | None = None
    text: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    refusal: list[str] = field(default_factory=list)
    arguments: list[str] = field(default_factory=list)


class Collector:
    """Collects one response."""

    def __init__(self, streamed: bool) -> None:
        self.streamed = streamed
        self.outputs: dict[int, _Output] = {}
        self.response: _Response | None = None
        self.ended = False
        self.failed = False

    def add(self, document: bytes) -> None:
        """One event, or a whole response; what can't be read is left out."""
        if document == b"[DONE]":
            return
        try:
            if self.streamed:
                self._event(_EVENT.decode(document))
            else:
                self.response = _RESPONSE.decode(document)
                self.ended = True
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return

    def _event(self, event: _Event) -> None:
        kind = event.type or ""
        if event.error is not None or kind in {"error", "response.failed"}:
            self.failed = True
        if event.response is not None:
            self.response = event.response
            self.ended = kind in {"response.completed", "response.incomplete", "response.failed"}
        if event.item is not None:
            self._output(event).item = event.item
        if event.delta:
            self._delta(kind, self._output(event), event.delta)

    def _output(self, event: _Event) -> _Output:
        return self.outputs.setdefault(event.output_index, _Output())

    @staticmethod
    def _delta(kind: str, output: _Output, delta: str) -> None:
        if kind == "response.output_text.delta":
            output.text.append(delta)
        elif kind == "response.refusal.delta":
            output.refusal.append(delta)
        elif kind.startswith("response.reasoning"):
            output.reasoning.append(delta)
        elif kind.startswith(("response.function_call", "response.custom_tool_call")):
            output.arguments.append(delta)

    def answer(self) -> Answer:
        """What there is so far; a response has one choice."""
        response = self.response or _Response()
        failed = self.failed or response.status == "failed"
        usage = response.usage or _Usage()
        if self.ended and response.output is not None:
            outputs = [_whole(item) for item in response.output]
        else:
            outputs = [self.outputs[i] for i in sorted(self.outputs)]
        choice = _choice(outputs, _reason(response, outputs) if self.ended else None)
        return Answer(
            id=response.id,
            choices=(choice,) if outputs else (),
            usage=Usage(prompt_tokens=usage.input_tokens, completion_tokens=usage.output_tokens),
            failed=failed,
        )


def _whole(item: _Item) -> _Output:
    """An item of a whole response, as if it had come in deltas."""
    output = _Output(item)
    target = output.reasoning if item.type == "reasoning" else output.text
    for part in [*(item.summary or ()), *(item.content or ())]:
        if part.text:
            target.append(part.text)
        if part.refusal:
            output.refusal.append(part.refusal)
    output.arguments = [item.arguments or item.input or ""]
    return output


def _reason(response: _Response, outputs: list[_Output]) -> str:
    if response.incomplete_details is not None and response.incomplete_details.reason:
        reason = response.incomplete_details.reason
        return FINISH_REASONS.get(reason, reason)
    return "tool_calls" if any(_is_call(output) for output in outputs) else "stop"


def _is_call(output: _Output) -> bool:
    return output.item is not None and str(output.item.type).endswith("_call")


def _choice(outputs: list[_Output], finish_reason: str | None) -> Choice:
    joined = {
        name: "".join(part for output in outputs for part in getattr(output, name))
        for name in ("text", "reasoning", "refusal")
    }
    return Choice(
        index=0,
        text=joined["text"],
        reasoning=joined["reasoning"] or None,
        refusal=joined["refusal"] or None,
        tool_calls=tuple(_tool_call(output) for output in outputs if _is_call(output)),
        finish_reason=finish_reason,
    )


def _tool_call(output: _Output) -> ToolCall:
    item = output.item or _Item()
    arguments = "".join(output.arguments) or item.arguments or item.input or ""
    return ToolCall(id=item.call_id or item.id, name=item.name or "", arguments=arguments)
