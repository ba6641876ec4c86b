"""Copies of requests for a candidate whose answers nobody sees.

A copy starts when the person has their whole answer, so it delays nobody's answer but by the work
that it gives the engine; few run at once, and what comes beyond them is left out and counted.
"""

from __future__ import annotations

import asyncio
import logging
from types import TracebackType

import msgspec
from starlette.types import ASGIApp, Scope

from learnback.contracts.models import CompletionEnd, Track
from learnback.core.ids import uuid7
from learnback.inference import body as bodies
from learnback.inference import metrics
from learnback.inference.aside import aside
from learnback.inference.exchange import Exchange
from learnback.inference.prepare import Asked, Prepared, prepare
from learnback.inference.recording import is_stored, record
from learnback.inference.routing import Assignment, position
from learnback.inference.services import Services

log = logging.getLogger(__name__)

AT_ONCE = 4
"""Copies that run at the same time: an engine's batch hardly notices so few."""
LONGEST_S = 600.0
"""A copy that takes longer is given up; it counts as failed."""
KEPT = ("previous_response_id", "conversation", "background")
"""Fields of a response that hangs on what one engine keeps: a copy would not find it there."""
ENDS = frozenset((CompletionEnd.COMPLETE, CompletionEnd.ENGINE_ERROR))
"""Of answers that were refused, or that the person left, nothing could be compared."""


class Mirror:
    """Sends copies while its block is open."""

    def __init__(self, app: ASGIApp, services: Services) -> None:
        self.app = app
        self.services = services
        self._running: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Mirror:
        """Nothing runs yet."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Copies that still run are given up, and say nothing of the candidate."""
        for task in self._running:
            task.cancel()
        if self._running:
            await asyncio.wait(self._running)

    def offer(self, scope: Scope, prepared: Prepared, exchange: Exchange) -> None:
        """Copy a request that has been answered, if it is one of those that are to be."""
        assignment = self._assignment(prepared, exchange)
        if assignment is None:
            return
        if len(self._running) >= AT_ONCE:
            metrics.MIRRORED.labels("dropped").inc()
            return
        task = asyncio.get_running_loop().create_task(self._copy(scope, prepared, assignment))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    def _assignment(self, prepared: Prepared, exchange: Exchange) -> Assignment | None:
        """Which version gets the copy, and with which probability; None: none does."""
        snapshot = self.services.follower.snapshot
        candidate = snapshot.versions.get(snapshot.candidate or "")
        asked = prepared.asked
        if candidate is None or prepared.assignment.track is not Track.STABLE:
            return None
        if exchange.end not in ENDS:
            return None
        who = asked.subject or prepared.request_id
        if position(who, f"mirror\0{candidate.name}") >= snapshot.mirror:
            return None
        if not is_stored(self.services, prepared) or _hangs_on_an_engine(asked):
            return None
        return Assignment(candidate, Track.MIRRORED, min(1.0, snapshot.mirror))

    async def _copy(self, scope: Scope, prepared: Prepared, assignment: Assignment) -> None:
        try:
            _, fields = bodies.peek(prepared.asked.body)
            if prepared.asked.endpoint == "responses":  # no engine keeps what nobody may ask for
                fields["store"] = msgspec.Raw(b"false")
            copy = prepare(
                self.services,
                prepared.asked,
                fields,
                assignment,
                uuid7(),
                pair=prepared.completion_id,
            )
            exchange = await aside(self.app, scope, self.services, copy, longest_s=LONGEST_S)
        except Exception:  # nobody waits for it: the edge of this task
            log.exception("the copy of %s", prepared.completion_id)
            metrics.MIRRORED.labels("failed").inc()
            return
        record(self.services, copy, exchange)
        well = exchange.end is CompletionEnd.COMPLETE
        metrics.MIRRORED.labels("answered" if well else "failed").inc()


def _hangs_on_an_engine(asked: Asked) -> bool:
    """Whether it is a response to what an engine keeps, or one that it shall keep."""
    if asked.endpoint != "responses":
        return False
    _, fields = bodies.peek(asked.body)
    return any(bytes(fields.get(name, b"null")) not in {b"null", b"false"} for name in KEPT)
