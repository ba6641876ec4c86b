"""A request that is over, as the message that goes to the other processes."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import msgspec

from learnback.contracts.messages import CompletionServed
from learnback.contracts.models import Choice, CompletionEnd, Timings
from learnback.inference.answer import Answer
from learnback.inference.parse import parse
from learnback.inference.prompt_messages import messages_of, parameters_of
from learnback.inference.served import Served


def completion_of(served: Served) -> CompletionServed:
    """Parse and describe a request; errors hold no content."""
    answer = _answer_of(served) if served.status < 400 else Answer()
    kept = served.stored and served.status < 400
    request = _request_of(served.request) if kept else {}
    failed = answer.failed and served.end is CompletionEnd.COMPLETE
    return CompletionServed(
        id=answer.id or served.id,
        tenant=served.tenant,
        created_at=datetime.fromtimestamp(served.created_at, UTC),
        endpoint=served.endpoint,
        version=served.version,
        track=served.track,
        probability=served.probability,
        end=CompletionEnd.ENGINE_ERROR if failed else served.end,
        status_code=served.status,
        streamed=served.streamed,
        stored=kept,
        prompt=messages_of(served.endpoint, request),
        choices=_without_echo(request, answer.choices) if kept else (),
        parameters=parameters_of(request),
        subject=served.subject,
        session=served.session,
        metadata=served.metadata,
        usage=answer.usage,
        timings=Timings(first_byte_s=served.first_byte_s, duration_s=served.duration_s),
        prompt_strategy=served.prompt_strategy,
        examples=served.examples,
        strategy_skipped=served.strategy_skipped,
        pair=served.pair,
        place=served.place,
    )


def _answer_of(served: Served) -> Answer:
    return parse(served.endpoint, b"".join(served.answer), streamed=served.event_stream)


def _request_of(body: bytes) -> dict[str, Any]:
    try:
        request: dict[str, Any] = msgspec.json.decode(body)
    except msgspec.DecodeError:  # numbers beyond a double: an engine may have taken them
        request = json.loads(body)
    return request


def _without_echo(request: dict[str, Any], choices: tuple[Choice, ...]) -> tuple[Choice, ...]:
    """What the model wrote, where the completions API was asked to repeat the prompt before it."""
    prompt = request.get("prompt")
    if not request.get("echo") or not isinstance(prompt, str):
        return choices
    return tuple(
        choice.model_copy(update={"text": choice.text.removeprefix(prompt)}) for choice in choices
    )
