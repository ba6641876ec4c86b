"""Files of versions on this replica: each is loaded or unloaded once at a time, and failures are
remembered.

Whoever serves says which are wanted. An adapter goes to the engine, an example bank stays with us.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from learnback.contracts.models import VersionKind
from learnback.core.errors import LearnbackError
from learnback.inference import library, metrics
from learnback.inference.banks import Banks
from learnback.inference.errors import VersionUnavailable
from learnback.inference.library import Artifact
from learnback.inference.loaders import Loader
from learnback.inference.routing import Servable
from learnback.inference.uses import Uses
from learnback.registry.artifacts import ArtifactStore

log = logging.getLogger(__name__)

FAILURE_S = 5.0
"""How long a failure to load is remembered before the next attempt."""


class Files:
    """Loads and unloads; `arrived` is called with the name of what is loaded."""

    def __init__(
        self,
        artifacts: ArtifactStore,
        cache: Path,
        loader: Loader,
        banks: Banks,
        uses: Uses,
        *,
        arrived: Callable[[str], None],
    ) -> None:
        self.artifacts = artifacts
        self.cache = cache
        self.loader = loader
        self.banks = banks
        self.uses = uses
        self.arrived = arrived
        self.loading: dict[str, asyncio.Task[None]] = {}
        self._unloading: dict[str, asyncio.Task[None]] = {}
        self._failures: dict[str, tuple[float, str]] = {}
        self._known: Mapping[str, Artifact] = {}
        self._versions: Mapping[str, Servable] = {}

    def know(self, artifacts: Mapping[str, Artifact], versions: Mapping[str, Servable]) -> None:
        """What there is, as the registry says."""
        self._known, self._versions = artifacts, versions

    def close(self) -> None:
        """Nothing that is under way goes on."""
        for task in (*self.loading.values(), *self._unloading.values()):
            task.cancel()

    def start_loading(self, name: str) -> asyncio.Task[None]:
        """The load that runs, or a new one."""
        task = self.loading.get(name)
        if task is None:
            task = asyncio.create_task(self._load(name), name=f"load {name}")
            self.loading[name] = task
            task.add_done_callback(lambda _: self.loading.pop(name, None))
        return task

    def start_unloading(self, name: str) -> None:
        """Whoever asks for it from now on waits, and has it loaded again."""
        task = asyncio.create_task(self._unload(name), name=f"unload {name}")
        self._unloading[name] = task
        task.add_done_callback(lambda _: self._unloading.pop(name, None))

    def problem(self, name: str) -> str | None:
        """Why it could not be loaded the last time, if it could not."""
        failure = self._failures.get(name)
        return failure[1] if failure else None

    def failed_lately(self, name: str) -> bool:
        """Whether it is too early for another attempt."""
        failure = self._failures.get(name)
        return failure is not None and time.monotonic() - failure[0] < FAILURE_S

    async def _load(self, name: str) -> None:
        """Fetch, verify and load a version's files; a failure is remembered and logged."""
        try:
            if name in self._unloading:
                await asyncio.wait([self._unloading[name]])
            artifact = self._known.get(name)
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
            self.arrived(name)

    async def _take(self, artifact: Artifact, folder: Path) -> None:
        """Hand verified files to whoever works with them; an adapter is warmed as well."""
        if artifact.kind is not VersionKind.PROMPT:
            await self.loader.load(artifact.name, folder)
            return
        version = self._versions.get(artifact.name)
        if version is None or version.strategy is None:
            raise VersionUnavailable(f"{artifact.name!r} is no strategy that is served here.")
        await self.banks.open(artifact.name, version.strategy, folder)

    async def _unload(self, name: str) -> None:
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
