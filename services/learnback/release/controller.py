"""The release controller: judges the newest candidate, promotes what passes, says what changed.

All state is in the ledger: REGISTERED -> PASSED or REFUSED -> PROMOTED or ROLLED_BACK. Each step is
one transaction that checks the state before it and the lease's token, so a controller that was
killed at any point goes on where it was, and of two controllers only one has an effect.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine, Sequence
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

from learnback.contracts.messages import ModelTrained
from learnback.contracts.models import Alias, VersionKind, VersionState
from learnback.core.clock import now
from learnback.core.errors import LearnbackError, Unavailable
from learnback.ledger import evaluations, releases
from learnback.ledger.database import Database
from learnback.ledger.leases import LeaseLost
from learnback.ledger.releases import Release
from learnback.ledger.types import storable
from learnback.registry import store
from learnback.release import metrics, operations
from learnback.release.aftercare import Aftercare
from learnback.release.engine import CandidateFailing
from learnback.release.gate import GateReport, Verdict, decide, refused, superseded
from learnback.release.leadership import Leadership
from learnback.release.loading import LOOK_EVERY
from learnback.release.measuring import Evaluator
from learnback.release.progress import Progress
from learnback.release.queue import queue, way_of
from learnback.release.rollout import Rollout, running
from learnback.release.settings import ReleaseSettings

log = logging.getLogger(__name__)

JUDGED = frozenset({VersionKind.ADAPTER, VersionKind.PROMPT})
EXPECTED = (LearnbackError, RedisError, OSError)
"""What a look may end in without being a bug; the next one tries again."""


class Controller:
    """Looks when told to and every `look_every`; `progress` is of versions judged here."""

    def __init__(
        self,
        database: Database,
        redis: Redis,
        evaluator: Evaluator,
        settings: ReleaseSettings,
    ) -> None:
        self.database = database
        self.redis = redis
        self.evaluator = evaluator
        self.policy = evaluator.policy
        self.settings = settings
        self.leadership = Leadership(database, settings.lease)
        self.rollout = Rollout(database, self.leadership)
        self.aftercare = Aftercare(database, self.leadership)
        self.progress: dict[str, Progress] = {}
        self._attempts: dict[str, int] = {}
        self._announced: dict[Alias, int] = {}
        self._wake = asyncio.Event()
        self._soon = False

    async def on_trained(self, messages: Sequence[ModelTrained]) -> None:
        """A message says "look now"; the ledger says what there is."""
        self.wake()

    def wake(self) -> None:
        """Look now."""
        self._wake.set()

    async def run_forever(self) -> None:
        """Look, wait, look again. Ends by cancellation."""
        while True:
            self._wake.clear()
            try:
                await self.look()
            except EXPECTED as error:
                metrics.FAILURES.inc()
                log.warning("looking again later: %s", error)
            except Exception:  # the edge of the process
                metrics.FAILURES.inc()
                log.exception("a look failed; trying again later")
            await self._wait()

    async def look(self) -> None:
        """One round of whoever holds the lease.

        While a canary runs, it is all that is looked at: its verdict may be due in seconds, and
        what it decides changes what the next candidate is compared with.
        """
        if not await self.leadership.lead():
            return
        await self.announce()
        if await self.watch():
            return
        await self.watch_after()
        candidate = await self._choose()
        if candidate is not None:
            report = await self._meanwhile(self._judge(candidate))
            await self.record(candidate.name, report)
        if await self.promote():
            await self.announce()

    async def watch(self) -> bool:
        """Look at the canary; whether one runs."""
        versions, ways, _ = await self._read()
        canary = running(versions, ways)
        if canary is None:
            return False
        if canary.loading:
            await self._load(canary.version)
        else:
            await self.rollout.look(canary.version, canary)
        await self.announce()
        return True

    async def watch_after(self) -> None:
        """Look at what was promoted last, while some people have the version before."""
        if await self.aftercare.look() is not None:
            await self.announce()

    async def _meanwhile(self, judging: Coroutine[Any, Any, GateReport]) -> GateReport:
        """Go on watching while a version is judged: that may take an hour."""
        task = asyncio.create_task(judging)
        try:
            while not (await asyncio.wait({task}, timeout=self._pause()))[0]:
                try:
                    await self.watch_after()
                except EXPECTED as error:
                    log.warning("looking again later: %s", error)
            return await task
        finally:
            task.cancel()

    async def announce(self) -> None:
        """Publish each alias's revision, unless it was published by this controller already."""
        async with self.database.read() as connection:
            release = await store.release(connection)
        states = [
            state
            for state in (release.stable, release.candidate)
            if state.revision != self._announced.get(state.alias, 0)
        ]
        await operations.announce(self.redis, states)
        self._announced |= {state.alias: state.revision for state in states}

    async def record(self, version: str, report: GateReport) -> bool:
        """Write the verdict, unless another controller did or acts by now; whether it was."""
        passed = report.verdict is Verdict.PASSED
        waits = passed and self.policy.canary.steps[0].approval == "manual"
        try:
            async with self.leadership.write() as connection:
                written = await store.set_state(
                    connection,
                    version,
                    VersionState.PASSED if passed else VersionState.REFUSED,
                    gate_report=storable(report.as_json()),
                    expected=VersionState.REGISTERED,
                )
                if written:
                    await evaluations.keep(connection, version, report.pairs)
                    await releases.change(
                        connection,
                        version,
                        evaluating_since=None,
                        awaiting_step=0 if waits else None,
                        ended_at=None if passed else now(),
                        **dict.fromkeys(releases.PROGRESS),
                    )
        except LeaseLost as error:
            log.warning("%s: the verdict was not written: %s", version, error)
            return False
        if written:
            metrics.VERDICTS.labels(report.verdict).inc()
            log.info("%s: %s: %s", version, report.verdict, "; ".join(report.reasons))
        return written

    async def promote(self) -> bool:
        """Let the newest version that passed and waits for nobody go on; whether an alias moved.

        Replicas load it, and as soon as all have it comes the first step of a canary, or everybody
        where the policy has no smaller step.
        """
        versions, ways, _ = await self._read()
        newest = next((v for v in versions if v.state is VersionState.PASSED), None)
        if newest is None or way_of(ways, newest.name).awaiting_step is not None:
            return False
        try:
            begun = await self.rollout.begin(newest.name, self.policy.canary)
            if begun:
                await self._load(newest.name)
        except LeaseLost as error:
            log.warning("%s was not promoted: %s", newest.name, error)
            return False
        return begun

    async def _load(self, version: str) -> None:
        """Go on if all replicas have it by now; else look again soon."""
        found = await self.rollout.load(version)
        self._soon = found is not None and not found.everywhere

    async def _choose(self) -> store.ModelVersion | None:
        """What to judge next; what was superseded is refused on the way."""
        waiting = queue(*await self._read())
        for version, by in waiting.superseded:
            await self.record(version, superseded(by))
        return waiting.first

    async def _read(self) -> tuple[list[store.ModelVersion], dict[str, Release], str | None]:
        """All that may be judged, newest first; how far each is; what is stable."""
        async with self.database.read() as connection:
            versions = await store.list_versions(connection)
            ways = await releases.known(connection)
            stable = (await store.alias_state(connection, Alias.STABLE)).version
        return [v for v in versions if v.kind in JUDGED], ways, stable

    async def _judge(self, candidate: store.ModelVersion) -> GateReport:
        """Evaluate; a candidate that the engine can't serve is refused after some attempts."""
        async with self.leadership.write() as connection:
            await releases.change(connection, candidate.name, evaluating_since=now())
        try:
            return await self.evaluate(candidate)
        except CandidateFailing as error:
            tried = self._attempts.get(candidate.name, 0) + 1
            self._attempts[candidate.name] = tried
            if tried < self.settings.attempts:
                raise
            return refused(f"it could not be served in {tried} attempts: {error.detail}")

    async def evaluate(self, candidate: store.ModelVersion) -> GateReport:
        """Compare the candidate with what is stable now, and decide."""
        started = time.monotonic()
        async with self.database.read() as connection:
            stable = await store.alias_state(connection, Alias.STABLE)
        if stable.version is None:
            raise Unavailable("Nothing is served yet, so there is nothing to compare with.")
        progress = self.progress[candidate.name] = Progress(candidate.name)
        measured = await self.evaluator.measure(candidate, stable.version, progress)
        seconds = time.monotonic() - started
        evaluation = measured.evaluation.model_copy(update={"seconds": round(seconds, 3)})
        report = decide(evaluation, self.policy.gate)
        metrics.EVALUATION_SECONDS.observe(seconds)
        if evaluation.win_rate is not None:
            for bound in ("rate", "low", "high"):
                metrics.WIN_RATE.labels(bound).set(getattr(evaluation.win_rate, bound))
        progress.begin("done")
        kept = {"stable_revision": stable.revision, "pairs": measured.pairs}
        return report.model_copy(update=kept)

    def _pause(self) -> float:
        """Seconds until the next look."""
        pause = self.settings.look_every
        return (min(pause, LOOK_EVERY) if self._soon else pause).total_seconds()

    async def _wait(self) -> None:
        try:
            async with asyncio.timeout(self._pause()):
                await self._wake.wait()
        except TimeoutError:
            return
