"""Two answers side by side, for requests that ask for them (`X-Learnback-Compare: 1`).

While a canary gives people the candidate, both versions answer, for the share of people that the
step gives it. The order is drawn for each pair and recorded; nothing in the answer says which
version is which. Which one people prefer is told by feedback of the kind `preference`.

Whole answers to chats only: two streams in one would have to be taken apart and written anew, and
whose stream begins first would tell people apart what they are to compare.
"""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass
from typing import Any

import msgspec
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from learnback.contracts.models import CompletionEnd, Track
from learnback.core.errors import Unavailable
from learnback.core.ids import new_id, uuid7
from learnback.inference import body as bodies
from learnback.inference import pages
from learnback.inference.aside import aside
from learnback.inference.errors import openai_error
from learnback.inference.exchange import Exchange
from learnback.inference.prepare import Prepared, prepare
from learnback.inference.recording import measure, record
from learnback.inference.routing import Assignment, position
from learnback.inference.services import Services

COMPARE = b"x-learnback-compare"


@dataclass(frozen=True)
class Pair:
    """Two requests for one, in the order in which their answers are shown."""

    id: str
    stable: str
    first: Prepared
    second: Prepared


def pair_of(services: Services, prepared: Prepared) -> Pair | None:
    """The request for both versions; None if it is to be answered by one, as any other."""
    asked, snapshot = prepared.asked, services.follower.snapshot
    stable = snapshot.versions.get(snapshot.stable or "")
    candidate = snapshot.versions.get(snapshot.candidate or "")
    if stable is None or candidate is None or stable.name == candidate.name:
        return None
    if prepared.assignment.track is Track.PINNED or not _is_one_chat(prepared):
        return None
    who = asked.subject or prepared.request_id
    if position(who, f"compare\0{candidate.name}") >= snapshot.weight:
        return None
    pair = new_id("pair")
    versions = [stable, candidate]
    if secrets.randbits(1):
        versions.reverse()
    first, second = (
        prepare(
            services,
            asked,
            bodies.peek(asked.body)[1],
            Assignment(version, Track.COMPARED, min(1.0, snapshot.weight)),
            uuid7(),
            pair=pair,
            place=place,
        )
        for place, version in enumerate(versions)
    )
    return Pair(pair, stable.name, first, second)


def _is_one_chat(prepared: Prepared) -> bool:
    """Whether one whole answer to a chat is asked for."""
    asked = prepared.asked
    return (
        asked.endpoint == "chat.completions"
        and not asked.peeked.stream
        and asked.peeked.n in {None, 1}
    )


async def answer_both(
    app: ASGIApp, services: Services, pair: Pair, scope: Scope, receive: Receive, send: Send
) -> None:
    """Have both versions answer at once, and show both answers; the good one if one fails."""
    gone = asyncio.Event()

    async def watch() -> None:
        await receive()
        gone.set()

    async def leaves() -> Message:
        await gone.wait()
        return {"type": "http.disconnect"}

    watching = asyncio.create_task(watch())
    try:
        both = await asyncio.gather(
            *(aside(app, scope, services, one, receive=leaves) for one in (pair.first, pair.second))
        )
    finally:
        watching.cancel()
    for prepared, exchange in zip((pair.first, pair.second), both, strict=True):
        if gone.is_set():
            exchange.leave()
        record(services, prepared, exchange)
        measure(prepared, exchange)
    if not gone.is_set():
        await _show(send, pair, both)


async def _show(send: Send, pair: Pair, both: list[Exchange]) -> None:
    """Both answers in one, or the one that there is, or stable's error."""
    answered = [one for one in both if one.end is CompletionEnd.COMPLETE]
    if len(answered) == len(both):
        found = [msgspec.json.decode(b"".join(one.answer)) for one in both]
        body = msgspec.json.encode(_merged(pair, found))
        ids = ",".join(str(one["id"]) for one in found)
        extra = [
            (b"x-learnback-pair", pair.id.encode()),
            (b"x-learnback-completion-ids", ids.encode()),
            (b"x-learnback-track", Track.COMPARED.value.encode()),
        ]
        await pages.respond(send, 200, body, extra=extra)
        return
    shown = answered[0] if answered else both[_place_of_stable(pair)]
    body = b"".join(shown.answer) or openai_error(Unavailable("Neither version answered."))
    await pages.respond(send, shown.status or 500, body)


def _merged(pair: Pair, found: list[dict[str, Any]]) -> dict[str, Any]:
    """One chat completion with both answers as its choices, each with its own completion's id."""
    choices = [
        {**one["choices"][0], "index": index, "completion_id": one["id"]}
        for index, one in enumerate(found)
    ]
    return {
        **found[0],
        "id": pair.id,
        "model": pair.first.asked.peeked.model,
        "choices": choices,
        "usage": _total(found),
    }


def _total(found: list[dict[str, Any]]) -> dict[str, int]:
    """The tokens of both."""
    names = ("prompt_tokens", "completion_tokens", "total_tokens")
    used = [one.get("usage") or {} for one in found]
    return {name: sum(int(usage.get(name) or 0) for usage in used) for name in names}


def _place_of_stable(pair: Pair) -> int:
    return int(pair.first.assignment.version.name != pair.stable)
