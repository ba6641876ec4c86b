"""Keeps this replica on the release: knows the versions, has their files loaded, switches when it
can.

The registry is the truth; a message on the stream only says "look now". A version that is not
ready here never replaces one that is, and all replicas move to a new stable version together. The
stable version before stays loaded, so that going back takes seconds.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from redis.asyncio import Redis

from learnback.contracts.messages import ReleaseChanged
from learnback.contracts.models import Alias, VersionKind
from learnback.contracts.streams import RELEASES
from learnback.core.bus import follow
from learnback.core.errors import LearnbackError
from learnback.inference import library, metrics
from learnback.inference.banks import Banks
from learnback.inference.errors import ModelNotFound, VersionUnavailable
from learnback.inference.files import Files
from learnback.inference.library import Base
from learnback.inference.loaders import Loader
from learnback.inference.presence import Presence
from learnback.inference.routing import Assignment, Servable, Snapshot, advance, ready, route
from learnback.inference.uses import Uses
from learnback.ledger.database import Database
from learnback.ledger.migrate import migrate
from learnback.registry import store
from learnback.registry.artifacts import ArtifactStore
from learnback.registry.store import Release

log = logging.getLogger(__name__)

LOOK_AGAIN_S = 0.2
"""Unknown names make us read the registry at most this often; whoever asks waits for it."""
WAITING_S = 0.5
"""How often the others are looked at while a version that is ready here waits for them."""


class Follower:
    """Holds the snapshot that routing goes by."""

    def __init__(
        self,
        database: Database,
        artifacts: ArtifactStore,
        cache: Path,
        loader: Loader,
        base: Base,
        public_names: frozenset[str],
        *,
        refresh: timedelta = timedelta(seconds=3),
    ) -> None:
        self.database = database
        self.loader = loader
        self.base = base
        self.banks = Banks(database)
        self.context: int | None = None
        """Tokens that the engine holds in one request; None: it has not said so."""
        self.refresh_s = refresh.total_seconds()
        itself = Servable(base.name, VersionKind.BASE, base.engine_model)
        self.snapshot = Snapshot(public_names=public_names, versions={base.name: itself})
        self.presence = Presence(base.digest)
        self.uses = Uses()
        self._joined = False
        self._waits = False
        self._release: Release | None = None
        self._earlier: tuple[int, list[str]] = (-1, [])
        self._fallback: str | None = None
        self.files = Files(artifacts, cache, loader, self.banks, self.uses, arrived=self._arrived)
        self._registered = False
        self._read_at = float("-inf")
        self._reading = asyncio.Lock()
        self._looking = asyncio.Lock()
        self._wake = asyncio.Event()

    async def run(self) -> None:
        """Follow for ever; ends by cancellation."""
        try:
            while True:
                self._wake.clear()
                try:
                    await self.refresh()
                    await self._tell()
                except LearnbackError as error:
                    log.warning("the release was not read: %s", error)
                self._unload_idle()
                pause = WAITING_S if self._waits else self.refresh_s
                try:
                    await asyncio.wait_for(self._wake.wait(), min(pause, self.refresh_s))
                except TimeoutError:
                    continue
        finally:
            self.files.close()
            await self.presence.leave(self.database)

    async def listen(self, redis: Redis) -> None:
        """Look at once when the release process says so; ends by cancellation."""

        async def on_message(_: ReleaseChanged) -> None:
            self._wake.set()

        async def on_connect() -> None:
            self._wake.set()

        await follow(redis, RELEASES, on_message, on_connect=on_connect)

    async def refresh(self) -> None:
        """Read the registry, switch to what is ready, start loading what is not."""
        async with self._reading:
            await self._register_base()
            async with self.database.read() as connection:
                release = await store.release(connection)
                rows = await library.read_versions(connection, self.base)
                if self._earlier[0] != release.stable.revision:
                    names = await store.earlier(connection, release.stable.version)
                    self._earlier = (release.stable.revision, names)
                await self.presence.read(connection)
            self._read_at = time.monotonic()
            metrics.READ_AT.set_to_current_time()
            self._release = release
            self._fallback = library.fallback(self._earlier[1], rows)
            self.snapshot = replace(self.snapshot, versions=library.servables(rows, self.base))
            self.files.know(library.artifacts_of(rows), self.snapshot.versions)
            await self._forget_lost()
            self._switch()
            await self._keep_banks()
        for name in self._wanted():
            if name not in self.snapshot.ready and not self.files.failed_lately(name):
                self.files.start_loading(name)

    async def assign(self, model: str, subject: str) -> Assignment:
        """The version for a request, loaded. Raises ModelNotFound or VersionUnavailable."""
        try:
            assignment = route(self.snapshot, model, subject)
        except ModelNotFound:
            if not await self._look_again():
                raise
            assignment = route(self.snapshot, model, subject)
        for name in assignment.version.needs:
            self.uses.touch(name)
            if name not in self.snapshot.ready:
                await self._ensure(name)
        return assignment

    async def problem(self) -> str | None:
        """A readiness check: None if this replica serves the release's stable version.

        One that has just come loads the candidate first as well, unless it can't.
        """
        if self._release is None:
            return "the release has not been read yet"
        wanted = self._release.stable.version
        if self.snapshot.stable is None:
            reason = self._why_not(wanted)
            return f"the stable version {wanted!r} can't be served: {reason}"
        candidate = self._release.candidate.version
        if not self._joined and self._is_coming(candidate):
            return f"the candidate {candidate!r} is being loaded"
        self._joined = True
        return None

    def lagging(self) -> dict[str, str]:
        """Versions of the release that are not served here, and why."""
        if self._release is None:
            return {}
        served = {self.snapshot.stable, self.snapshot.candidate}
        names = (self._release.stable.version, self._release.candidate.version)
        return {name: self._why_not(name) for name in names if name and name not in served}

    async def _register_base(self) -> None:
        if self._registered:
            return
        await migrate(self.database)
        async with self.database.write() as connection:
            await store.ensure_base(
                connection, self.base.model, self.base.digest, actor="inference"
            )
        self._registered = True

    async def _look_again(self) -> bool:
        """Whether the registry could be read after the caller asked: a version may be new."""
        asked_at = time.monotonic()
        async with self._looking:
            if self._read_at > asked_at:
                return True
            await asyncio.sleep(self._read_at + LOOK_AGAIN_S - time.monotonic())
            try:
                await self.refresh()
            except LearnbackError as error:
                log.warning("the release was not read: %s", error)
                return False
            return True

    async def _forget_lost(self) -> None:
        """An engine that restarted without us has lost its adapters."""
        adapters = {name for name in self.snapshot.ready if name not in self.banks}
        loaded = await self.loader.loaded() if adapters else None
        if loaded is None or adapters <= loaded:
            return
        log.warning("the engine lost %s", sorted(adapters - loaded))
        self.snapshot = replace(self.snapshot, ready=self.snapshot.ready - (adapters - loaded))

    async def _keep_banks(self) -> None:
        """Let go of what was taken back, and see how much room examples have."""
        await self.banks.recheck()
        if self.context is None and any(v.strategy for v in self.snapshot.versions.values()):
            try:
                self.context = await self.loader.context()
            except Exception as error:  # the engine's own app may raise anything
                log.warning("the engine did not say how many tokens it holds: %s", error)

    def _switch(self) -> None:
        """Serve what the release names, as far as it is ready here; one atomic assignment."""
        if self._release is None:
            return
        before = self.snapshot
        self._waits = not self._may_replace(before)
        self.snapshot = advance(before, self._release, may_replace=not self._waits)
        if (before.stable, before.candidate) != (self.snapshot.stable, self.snapshot.candidate):
            log.info("serving %s, candidate %s", self.snapshot.stable, self.snapshot.candidate)
        self._measure()

    def _may_replace(self, current: Snapshot) -> bool:
        """Whether the release's stable version may take over here from the one before."""
        named = self._release.stable if self._release is not None else None
        stable = named.version if named is not None else None
        if (
            named is None
            or stable is None
            or stable == current.stable
            or not ready(current, stable)
        ):
            return True
        if current.stable is None or current.versions[stable].kind is VersionKind.BASE:
            return True
        return not self.presence.waits(stable, patient=named.patient)

    async def _tell(self) -> None:
        """Tell the others what this replica can answer with now."""
        named = [self._fallback]
        if self._release is not None:
            named += [self._release.stable.version, self._release.candidate.version]
        can = {name for name in named if name is not None and ready(self.snapshot, name)}
        serving = await self.problem() is None
        await self.presence.tell(self.database, serving=serving, versions=can | self.snapshot.ready)

    def _measure(self) -> None:
        metrics.VERSION.clear()
        snapshot = self.snapshot
        for name in {self.base.name, *snapshot.ready}:
            part = "candidate" if name == snapshot.candidate else "loaded"
            metrics.VERSION.labels(name, "stable" if name == snapshot.stable else part).set(1)
        metrics.NOT_SERVED.set(len(self.lagging()))
        if self._release is None:
            return
        for state in (self._release.stable, self._release.candidate):
            served = snapshot.stable if state.alias is Alias.STABLE else snapshot.candidate
            if served == state.version:
                metrics.REVISION.labels(state.alias.value).set(state.revision)

    def _wanted(self) -> list[str]:
        """The versions whose files the release needs, stable first, and what one may go back to."""
        if self._release is None:
            return []
        names = (self._release.stable.version, self._release.candidate.version, self._fallback)
        versions = [self.snapshot.versions.get(name or "") for name in names]
        return [n for v in versions if v is not None and v.problem is None for n in v.needs]

    def _arrived(self, name: str) -> None:
        """A version's files are loaded."""
        self.snapshot = replace(self.snapshot, ready=self.snapshot.ready | {name})
        self._switch()
        self._wake.set()  # the others want to know

    def _unload_idle(self) -> None:
        """Let go of files that the release does not need and that answer nobody."""
        snapshot = self.snapshot
        shown = (snapshot.versions.get(n or "") for n in (snapshot.stable, snapshot.candidate))
        kept = {*self._wanted(), *(name for v in shown if v is not None for name in v.needs)}
        for name in self.uses.idle(snapshot.ready - kept):
            self.snapshot = replace(self.snapshot, ready=self.snapshot.ready - {name})
            self.files.start_unloading(name)

    async def _ensure(self, name: str) -> None:
        """Have a version's files loaded now. Raises VersionUnavailable."""
        if not self.files.failed_lately(name):
            await asyncio.shield(self.files.start_loading(name))
        if name not in self.snapshot.ready:
            raise VersionUnavailable(self._why_not(name), field="model")

    def _is_coming(self, name: str | None) -> bool:
        """Whether a version will be ready here, as far as is known."""
        version = self.snapshot.versions.get(name or "")
        if version is None or version.problem is not None or ready(self.snapshot, name):
            return False
        return not any(map(self.files.problem, version.needs))

    def _why_not(self, name: str | None) -> str:
        version = self.snapshot.versions.get(name or "")
        if version is None:
            return (
                f"it does not stand on the base that is served here; "
                f"serve its base, or promote {self.base.name!r}"
            )
        if version.problem is not None:
            return version.problem
        failures = [why for need in version.needs if (why := self.files.problem(need))]
        if not failures and ready(self.snapshot, name):
            return "other replicas are loading it"
        return failures[0] if failures else "it is being loaded"
