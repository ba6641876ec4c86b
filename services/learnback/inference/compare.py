"""Two answers side by side, for requests that ask for them (`X-Learnback-Compare: 1`).

While a canary gives people the candidate, both versions answer, for the share of people that the
step gives it. The order is drawn for each pair and recorded; nothing in the answer says which
version is which. Which one people prefer is told by feedback of the kind `preference`.

For `n` of 1 or 2, and for chats and texts; whole answers here, streams in `compare_streams`.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
from starlette.types import ASGIApp, Receive, Scope, Send

from learnback.contracts.models import CompletionEnd, Track
from learnback.core.errors import Unavailable
from learnback.core.ids import new_id, uuid7
from learnback.inference import body as bodies
from learnback.inference import pages
from learnback.inference.aside import aside, watched
from learnback.inference.errors import openai_error
from learnback.inference.exchange import Exchange
from learnback.inference.merging import merged
from learnback.inference.prepare import Asked, Prepared, prepare
from learnback.inference.recording import measure, record
from learnback.inference.routing import Assignment, position
from learnback.inference.services import Services

COMPARE = b"x-learnback-compare"
EVENT_STREAM = b"text/event-stream; charset=utf-8"


@dataclass(frozen=True)
class Pair:
    """Two requests for one, in the order in which their answers are shown."""

    id: str
    stable: str
    first: Prepared
    second: Prepared

    @property
    def both(self) -> tuple[Prepared, Prepared]:
        """By place."""
        return self.first, self.second

    @property
    def place_of_stable(self) -> int:
        """Where stable's answer stands."""
        return int(self.first.assignment.version.name != self.stable)

    def headers(self, ids: Sequence[str]) -> bodies.Headers:
        """What tells the client that there are two, and whose ids they have, if these are known."""
        found = [
            (b"x-learnback-pair", self.id.encode()),
            (b"x-learnback-track", Track.COMPARED.value.encode()),
        ]
        return [*found, (b"x-learnback-completion-ids", ",".join(ids).encode())] if ids else found


def pair_of(services: Services, prepared: Prepared) -> Pair | None:
    """The request for both versions; None if it is to be answered by one, as any other."""
    asked, snapshot = prepared.asked, services.follower.snapshot
    stable = snapshot.versions.get(snapshot.stable or "")
    candidate = snapshot.versions.get(snapshot.candidate or "")
    if stable is None or candidate is None or stable.name == candidate.name:
        return None
    if prepared.assignment.track is Track.PINNED or not _is_one_question(asked):
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
            _for_one_answer(asked),
            Assignment(version, Track.COMPARED, min(1.0, snapshot.weight)),
            uuid7(),
            pair=pair,
            place=place,
        )
        for place, version in enumerate(versions)
    )
    return Pair(pair, stable.name, first, second)


def _is_one_question(asked: Asked) -> bool:
    """Whether it is one prompt, and asks for no more answers than there are versions."""
    if asked.peeked.n not in {None, 1, 2}:
        return False
    if asked.endpoint == "chat.completions":
        return True
    fields = bodies.peek(asked.body)[1]
    return (
        asked.endpoint == "completions"
        and bytes(fields.get("prompt", b"")).startswith(b'"')
        and "best_of" not in fields
    )


def _for_one_answer(asked: Asked) -> bodies.Fields:
    """The body's fields; who asked for two answers gets one of each version."""
    fields = bodies.peek(asked.body)[1]
    if "n" in fields:
        fields["n"] = msgspec.Raw(b"1")
    return fields


async def answer_both(
    app: ASGIApp, services: Services, pair: Pair, scope: Scope, receive: Receive, send: Send
) -> None:
    """Have both versions answer at once, and show both answers; the good one if one fails."""
    async with watched(receive) as client:
        both = await asyncio.gather(
            *(aside(app, scope, services, p, receive=client.receive) for p in pair.both)
        )
    for prepared, exchange in zip(pair.both, both, strict=True):
        if client.gone:
            exchange.leave()
        record(services, prepared, exchange)
        measure(prepared, exchange)
    if not client.gone:
        await _show(send, pair, both)


async def _show(send: Send, pair: Pair, both: list[Exchange]) -> None:
    """Both answers in one, or the one that there is, or stable's error."""
    answered = [one for one in both if one.end is CompletionEnd.COMPLETE]
    if len(answered) == len(both):
        found = [msgspec.json.decode(b"".join(one.answer)) for one in both]
        body = merged(pair.id, pair.first.asked.peeked.model, found)
        await pages.respond(send, 200, body, extra=pair.headers([one["id"] for one in found]))
        return
    await show_one(send, answered[0] if answered else both[pair.place_of_stable])


async def show_one(send: Send, shown: Exchange) -> None:
    """One answer alone, or the error that there is instead."""
    body = b"".join(shown.answer) or openai_error(Unavailable("Neither version answered."))
    kind = EVENT_STREAM if shown.event_stream else b"application/json"
    await pages.respond(send, shown.status or 500, body, content_type=kind)
