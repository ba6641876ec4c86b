"""Keeps objects and versions alike: what is there decides, not what changed. Safe to repeat."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress

from learnback.core.clock import now
from learnback.core.errors import (
    Conflict,
    LearnbackError,
    NotFound,
    Unauthenticated,
    Unavailable,
    Unprocessable,
)
from learnback.core.kubernetes import Cluster, Object
from learnback.operator import metrics
from learnback.operator.releases import Line, Releases
from learnback.operator.resource import (
    ACCEPTED,
    MODEL_RELEASE,
    Condition,
    changed,
    decision,
    earlier,
    object_of,
    status_of,
    wants_canary,
)

log = logging.getLogger(__name__)

NEW_KEY_S = 3600.0
"""How long our key may be unknown at first: an install registers it when all pods are ready."""


class Mirror:
    """Asks the release process what objects wish, and writes what it says into their status."""

    def __init__(self, cluster: Cluster, releases: Releases, poll_s: float) -> None:
        self.cluster = cluster
        self.releases = releases
        self.poll_s = poll_s
        self.wake = asyncio.Event()
        self.trouble: str | None = "no look was taken yet"
        """Why the last look failed; None: it did not."""
        self.key_until: float | None = time.monotonic() + NEW_KEY_S
        """Until when a key that nobody knows is no trouble; None: it was known once."""

    async def run_forever(self) -> None:
        """Look for ever: each `poll_s` seconds, and as soon as `wake` is set."""
        while True:
            self.wake.clear()
            try:
                await self.look()
                self.trouble = self.key_until = None
            except LearnbackError as error:
                self.trouble = None if self._key_is_new(error) else error.detail
                metrics.FAILURES.inc()
                log.warning("%s", error.detail)
            with suppress(TimeoutError):
                await asyncio.wait_for(self.wake.wait(), self.poll_s)

    async def check(self) -> str | None:
        """A readiness check."""
        return self.trouble

    def _key_is_new(self, error: LearnbackError) -> bool:
        """Whether Helm or Argo CD may still wait for us before they register it (decision 0042)."""
        until = self.key_until
        return isinstance(error, Unauthenticated) and until is not None and time.monotonic() < until

    async def look(self) -> None:
        """One look at everything."""
        lines = {line.name: line for line in await self.releases.list()}
        found = await self.cluster.list(MODEL_RELEASE, {})
        known = {o["spec"]["version"] for o in found}
        for line in lines.values():
            if line.name not in known:
                found.append(await self._create(line))
        metrics.OBJECTS.set(len(found))
        for each in found:
            with suppress(NotFound):  # deleted meanwhile: the next look knows
                await self._sync(each, lines.get(each["spec"]["version"]))

    async def _create(self, line: Line) -> Object:
        wanted = object_of(line)
        try:
            return await self.cluster.create(MODEL_RELEASE, wanted)
        except Conflict:  # somebody was first, or another version has a name that differs by case
            there = await self.cluster.find(MODEL_RELEASE, wanted["metadata"]["name"])
            if there is None:
                raise
            return there

    async def _sync(self, found: Object, line: Line | None) -> None:
        accepted = earlier(found)
        if wants_canary(found):
            accepted = await self._ask(found)
        wish = decision(found, line)
        if wish is not None:
            await self._approve(found["spec"]["version"], *wish)
        status = status_of(found, line, accepted, now())
        if changed(found, status):
            name = found["metadata"]["name"]
            await self.cluster.patch(MODEL_RELEASE, name, {"status": status}, subresource="status")

    async def _ask(self, found: Object) -> Condition:
        version, name = found["spec"]["version"], found["metadata"]["name"]
        try:
            await self.releases.ask(version, f"asked for by ModelRelease {name}")
        except (Unavailable, Unauthenticated):
            raise
        except (NotFound, Conflict, Unprocessable) as error:
            reason = {404: "VersionUnknown", 409: "Conflict"}.get(error.status, "Invalid")
            return Condition(ACCEPTED, False, reason, error.detail)
        metrics.ASKED.inc()
        log.info("%s: asked for a canary", version)
        self.wake.set()  # its phase has changed
        return Condition(ACCEPTED, True, "Asked", "The release process evaluates it.")

    async def _approve(self, version: str, approved: bool, reason: str) -> None:
        try:
            await self.releases.approve(version, approved=approved, reason=reason)
        except Conflict as error:  # it went on meanwhile
            log.info("%s", error.detail)
            return
        metrics.DECIDED.labels("yes" if approved else "no").inc()
        self.wake.set()
