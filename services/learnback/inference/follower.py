"""Keeps this replica on the release: knows the versions, loads their files, switches when it can.

The registry is the truth; a message on the stream only says "look now". A version that is not
ready here never replaces one that is, and all replicas move to a new stable version together. The
stable version before stays loaded, so that going back takes seconds. What nobody uses any more is
unloaded, after its last answer has ended.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
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
from learnback.inference.library import Artifact, Base
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
FAILURE_S = 5.0
"""How long a failure to load is remembered before the next attempt."""
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
        self.artifacts = artifacts
        self.cache = cache
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
        self._files: Mapping[str, Artifact] = {}
        self._loading: dict[str, asyncio.Task[None]] = {}
        self._unloading: dict[str, asyncio.Task[None]] = {}
        self._failures: dict[str, tuple[float, str]] = {}
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
            for task in (*self._loading.values(), *self._unloading.values()):
                task.cancel()
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
            self._files = {row.name: found for row in rows if (found := library.artifact_of(row))}
            self.snapshot = replace(self.snapshot, versions=library.servables(rows, self.base))
            await self._forget_lost()
            self._switch()
            await self._keep_banks()
        for name in self._wanted():
            if name not in self.snapshot.ready and not self._failed_lately(name):
                self._start_loading(name)

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
        stable = self._release.stable.version if self._release is not None else None
        if stable is None or stable == current.stable or not ready(current, stable):
            return True
        if current.stable is None or current.versions[stable].kind is VersionKind.BASE:
            return True
        return not self.presence.waits(stable)

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

    def _start_loading(self, name: str) -> asyncio.Task[None]:
        """The load that runs, or a new one."""
        task = self._loading.get(name)
        if task is None:
            task = asyncio.create_task(self._load(name), name=f"load {name}")
            self._loading[name] = task
            task.add_done_callback(lambda _: self._loading.pop(name, None))
        return task

    async def _load(self, name: str) -> None:
        """Fetch, verify and load a version's files; a failure is remembered and logged."""
        try:
            if name in self._unloading:
                await asyncio.wait([self._unloading[name]])
            artifact = self._files.get(name)
            if artifact is None:
                raise VersionUnavailable(f"The registry names no files for {name!r}.")
            folder = await library.fetch(self.artifacts, artifact, self.cache)
            await self._take(artifact, folder)
        except LearnbackError as error:
            self._fail(name, error.detail)
        except Exception as error:  # the engine's own app may raise anything
            log.exception("loading %s", name)
            self._fail(name, f"{type(error).__name__}: {error}")
        else:
            self._failures.pop(name, None)
            self.uses.touch(name)
            self.snapshot = replace(self.snapshot, ready=self.snapshot.ready | {name})
            self._switch()
            self._wake.set()  # the others want to know

    async def _take(self, artifact: Artifact, folder: Path) -> None:
        """Hand verified files to whoever works with them; an adapter is warmed as well."""
        if artifact.kind is not VersionKind.PROMPT:
            await self.loader.load(artifact.name, folder)
            return
        version = self.snapshot.versions.get(artifact.name)
        if version is None or version.strategy is None:
            raise VersionUnavailable(self._why_not(artifact.name), field="model")
        await self.banks.open(artifact.name, version.strategy, folder)

    def _unload_idle(self) -> None:
        """Let go of files that the release does not need and that answer nobody."""
        snapshot = self.snapshot
        shown = (snapshot.versions.get(n or "") for n in (snapshot.stable, snapshot.candidate))
        kept = {*self._wanted(), *(name for v in shown if v is not None for name in v.needs)}
        for name in self.uses.idle(snapshot.ready - kept):
            self.snapshot = replace(self.snapshot, ready=self.snapshot.ready - {name})
            task = asyncio.create_task(self._unload(name), name=f"unload {name}")
            self._unloading[name] = task
            task.add_done_callback(lambda _, name=name: self._unloading.pop(name, None))  # type: ignore[misc]

    async def _unload(self, name: str) -> None:
        """Whoever asks for it from now on waits, and has it loaded again."""
        try:
            if name in self.banks:
                self.banks.forget(name)
            else:
                await self.loader.unload(name)
        except LearnbackError as error:
            log.warning("the engine keeps %s: %s", name, error.detail)
        except Exception:  # the engine's own app may raise anything
            log.exception("unloading %s", name)
        else:
            log.info("unloaded %s: nobody uses it", name)
        self.uses.forget(name)

    def _fail(self, name: str, reason: str) -> None:
        self._failures[name] = (time.monotonic(), reason)
        metrics.LOAD_FAILURES.inc()
        log.error("%s is not served: %s", name, reason)

    def _failed_lately(self, name: str) -> bool:
        failure = self._failures.get(name)
        return failure is not None and time.monotonic() - failure[0] < FAILURE_S

    async def _ensure(self, name: str) -> None:
        """Have a version's files loaded now. Raises VersionUnavailable."""
        if not self._failed_lately(name):
            await asyncio.shield(self._start_loading(name))
        if name not in self.snapshot.ready:
            raise VersionUnavailable(self._why_not(name), field="model")

    def _is_coming(self, name: str | None) -> bool:
        """Whether a version will be ready here, as far as is known."""
        version = self.snapshot.versions.get(name or "")
        if version is None or version.problem is not None or ready(self.snapshot, name):
            return False
        return self._failures.keys().isdisjoint(version.needs)

    def _why_not(self, name: str | None) -> str:
        version = self.snapshot.versions.get(name or "")
        if version is None:
            return (
                f"it does not stand on the base that is served here; "
                f"serve its base, or promote {self.base.name!r}"
            )
        if version.problem is not None:
            return version.problem
        failures = [self._failures[need][1] for need in version.needs if need in self._failures]
        if not failures and ready(self.snapshot, name):
            return "other replicas are loading it"
        return failures[0] if failures else "it is being loaded"
