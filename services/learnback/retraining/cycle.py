"""The life of training runs, one step at a time: consider, prepare, follow, register.

Continues from the base model always, never from the last adapter, with every signal on record that
was trained on before or is new. So nothing that people said is forgotten however many runs there
are, a withdrawn signal is out of the next version entirely, and no version carries the mistakes of
a refused one. It costs training time in proportion to all signals; a cap belongs here once it
hurts.

All that a step decides is in the ledger before it acts, so that after a crash at any point the next
step goes on: a run being prepared is prepared again, a running job is followed or started again (it
resumes from its checkpoint), a finished one is registered again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from learnback.contracts.models import Alias
from learnback.core.clock import now
from learnback.core.errors import Conflict
from learnback.core.ids import new_id
from learnback.core.settings import HELD_OUT_SHARE
from learnback.ledger import training
from learnback.ledger.database import Database
from learnback.ledger.runs import ACTIVE, Run, RunState, change_run, create_run, list_runs
from learnback.registry import store
from learnback.registry.store import ModelVersion
from learnback.retraining import metrics, prompting
from learnback.retraining.choice import Chosen, trains_weights
from learnback.retraining.considering import AUTOMATIC, Considering
from learnback.retraining.launcher import JobStatus, Launcher, Vital
from learnback.retraining.plan import ExitCode, is_final
from learnback.retraining.planning import PlannedRun, Planner, Prospect
from learnback.retraining.preparing import write_run
from learnback.retraining.registrar import Registered, Registrar
from learnback.retraining.settings import FilterSettings, MethodSettings, RetrainingSettings
from learnback.retraining.trigger import Decision

log = logging.getLogger(__name__)

HEARTBEAT_S = 5.0
"""How often a run that shows no progress still says that it is watched."""
MAX_BACKOFF_S = 60.0
CANCEL_GRACE_S = 1.0
"""A cancelled job has nothing to save."""


@dataclass
class _Following:
    """What this process remembers of the run at hand; all of it can be lost."""

    run_id: str
    reported: dict[str, Any] | None = None
    reported_at: float = 0.0
    retry_at: float = 0.0


class Cycle:
    """Takes training runs through their states. One instance at a time works on a ledger."""

    def __init__(
        self,
        settings: RetrainingSettings,
        base: ModelVersion,
        database: Database,
        launcher: Launcher,
        registrar: Registrar,
        folder: Path,
        held_out_share: float = HELD_OUT_SHARE,
        filters: FilterSettings | None = None,
        methods: MethodSettings | None = None,
    ) -> None:
        self.settings = settings
        self.base = base
        self.planner = Planner(
            settings,
            base,
            database,
            held_out_share=held_out_share,
            filters=filters,
            methods=methods,
        )
        self.considering = Considering(self.planner)
        self.database = database
        self.launcher = launcher
        self.registrar = registrar
        self.folder = folder
        self.decision = Decision(False, "not looked yet")
        self._following: _Following | None = None
        self._swept = False
        self._unannounced: list[ModelVersion] | None = None

    def folder_of(self, run_id: str) -> Path:
        """Where a run's files are."""
        return self.folder / run_id

    @property
    def busy(self) -> bool:
        """Whether a run is under way."""
        return self._following is not None

    async def step(self) -> None:
        """Do what can be done now. Raises whatever is away; the next step tries again."""
        await self._announce()
        async with self.database.read() as connection:
            active = await list_runs(connection, ACTIVE, limit=1)
        await self._stop_cancelled(active)
        try:
            if not active:
                metrics.idle()
                await self._consider()
            else:
                await self._advance(active[0])
        except Conflict as error:  # cancelled while we were at it
            log.info("%s", error.detail)

    async def fail(self, reason: str) -> None:
        """End the active run, whatever it is doing, and let its signals wait again."""
        async with self.database.read() as connection:
            active = await list_runs(connection, ACTIVE, limit=1)
        for run in active:
            await self.launcher.stop(self.folder_of(run.id), grace_s=0.0)
            await self._fail(run, reason)

    async def close(self) -> None:
        """Leave the job to itself, or stopped with a checkpoint; our next start goes on with it."""
        if self._following is not None:
            folder = self.folder_of(self._following.run_id)
            await self.launcher.leave(folder, grace_s=self.settings.grace.total_seconds())

    async def _announce(self) -> None:
        """Send what may not have been sent; at the start, all that nobody has judged yet."""
        if self._unannounced is None:
            self._unannounced = await self.registrar.unjudged()
        if self._unannounced:
            await self.registrar.announce(self._unannounced)
            self._unannounced = []

    async def _stop_cancelled(self, active: Sequence[Run]) -> None:
        """Stop the job of a run that is no longer active, also one of a process before us."""
        current = active[0].id if active else None
        known = [self._following.run_id] if self._following else []
        if not self._swept:
            known = [folder.name for folder in self.folder.glob("*") if folder.is_dir()]
        for run_id in known:
            folder = self.folder_of(run_id)
            if run_id == current:
                continue
            if (await self.launcher.status(folder)).vital is Vital.ALIVE:
                log.info("run %s is over: stopping its job", run_id)
                await self.launcher.stop(folder, grace_s=CANCEL_GRACE_S)
        self._swept = True
        if current is None:
            self._following = None
        elif self._following is None or self._following.run_id != current:
            self._following = _Following(current)

    async def plan(self, wanted: Chosen | None = None) -> PlannedRun:
        """The next run as it would be now; nothing is changed."""
        return await self.considering.plan(wanted)

    async def _consider(self) -> None:
        asked, prospect, self.decision = await self.considering.consider()
        if asked is not None and self.decision.refuse:
            await self._fail(asked, self.decision.reason)
        elif self.decision.start:
            await self._advance(await self._begin(asked, prospect))

    async def _begin(self, asked: Run | None, prospect: Prospect) -> Run:
        """A run in the state `preparing`."""
        choice = prospect.choice
        async with self.database.write() as connection:
            parent = (await store.alias_state(connection, Alias.STABLE)).version
            reward = (await store.alias_state(connection, Alias.REWARD)).version
            progress = {"new_signals": prospect.new, "why": choice.reason}
            values: dict[str, Any] = {
                "state": RunState.PREPARING,
                "method": choice.method,
                "parent": parent,
                "base_version": self.base.name,
                "config": self._config(asked, choice.method),
                "progress": progress | _chain(asked, choice.method, reward),
            }
            if asked is not None:
                await change_run(connection, asked.id, (RunState.ASKED,), **values)
                return asked.model_copy(update=values)
            run = Run(
                id=new_id("run"),
                reason=f"{self.decision.reason}; {choice.method}: {choice.reason}",
                seed=self.settings.seed,
                created_at=now(),
                **values,
            )
            await create_run(connection, run)
        log.info("run %s: %s", run.id, run.reason)
        return run

    def _config(self, asked: Run | None, method: str | None) -> dict[str, Any]:
        if asked is not None and asked.config:
            return asked.config
        if not trains_weights(method):
            return {}
        return self.planner.hyperparameters(method).model_dump(mode="json")

    async def _advance(self, run: Run) -> None:
        if run.state is RunState.PREPARING:
            await self._prepare(run)
        elif run.state is RunState.RUNNING:
            await self._follow(run)
        else:
            await self._register(run)

    async def _prepare(self, run: Run) -> None:
        """Freeze the dataset, take its signals, start the job."""
        method = run.method
        if not trains_weights(method):
            await self._make_strategy(run)
            return
        survey = await self.planner.survey(method)
        found = await asyncio.to_thread(survey.dataset, method)
        if not found.train:
            await self._fail(run, "every usable signal was taken back before the run began")
            return
        folder = self.folder_of(run.id)
        judge = run.progress.get("optimised_against")
        paid_by = await self.registrar.fetch(judge) if judge else None
        found = await asyncio.to_thread(found.paid_by, judge) if judge else found
        await asyncio.to_thread(write_run, run, self.base, found, folder, paid_by)
        settled = found.settled
        waiting = [s.id for s in survey.waiting if s.id in settled]
        async with self.database.write() as connection:
            taken = await training.claim(connection, run.id, waiting)
            gone = await training.count_taken_back(connection, settled)  # also of earlier runs
            if taken < len(waiting) or gone:  # a word taken back must not be in the dataset
                raise Conflict(f"run {run.id}: signals changed while it was prepared; once more")
            await change_run(
                connection,
                run.id,
                (RunState.PREPARING,),
                state=RunState.RUNNING,
                dataset_fingerprint=found.fingerprint,
                progress=run.progress | {"counts": found.counts, "rows": len(found.train)},
            )
        self._following = _Following(run.id)
        await self.launcher.start(folder)
        metrics.progressed(run.method, None, 0)

    async def _make_strategy(self, run: Run) -> None:
        """A prompt strategy is made at once; there is no job to follow."""
        try:
            made = await prompting.make(self.planner, run, self.folder_of(run.id))
        except ValueError as error:
            await self._fail(run, str(error))
            return
        if made is not None:  # else scores are awaited: the next step looks again
            self._end(await self.registrar.register_strategy(run, made))
            await self._announce()

    def _end(self, registered: Registered) -> None:
        metrics.ended(RunState.DONE, registered.signals)
        self.considering.forget()
        self._unannounced = list(registered.versions)

    async def _follow(self, run: Run) -> None:
        status = await self.launcher.status(self.folder_of(run.id))
        if status.vital is Vital.ALIVE:
            await self._report(run, status)
        elif status.vital is Vital.ABSENT:
            log.info("run %s: starting its job again", run.id)
            await self.launcher.start(self.folder_of(run.id))
        elif status.exit_code == ExitCode.DONE:
            await self._change(run, _shown(status), state=RunState.REGISTERING)
            await self._register(run.model_copy(update={"state": RunState.REGISTERING}))
        else:
            await self._broken(run, status)

    async def _report(self, run: Run, status: JobStatus) -> None:
        """Heartbeat and progress, when there is news or it is time."""
        following = self._following or _Following(run.id)
        shown = _shown(status)
        late = time.monotonic() - following.reported_at > HEARTBEAT_S
        if shown == following.reported and not late:
            return
        async with self.database.read() as connection:
            taken_back = await training.taken_back(connection, run.id)
        await self._change(run, {**shown, "taken_back": taken_back})
        following.reported, following.reported_at = shown, time.monotonic()
        metrics.progressed(run.method, status.progress, taken_back)

    async def _broken(self, run: Run, status: JobStatus) -> None:
        """A job ended without success: start it again a few times, unless that is pointless."""
        attempts = int(run.progress.get("attempts", 0))
        error = (status.progress and status.progress.error) or status.note or "its log says more"
        said = f"the job ended with {status.exit_code}: {error}"
        hopeless = status.final or is_final(status.exit_code)
        if hopeless or attempts >= self.settings.max_retries:
            await self._fail(run, said)
            return
        following = self._following or _Following(run.id)
        if following.retry_at == 0.0:
            log.warning("run %s: %s; retry %d", run.id, said, attempts + 1)
            wait = self.settings.poll.total_seconds() * 2**attempts
            following.retry_at = time.monotonic() + min(wait, MAX_BACKOFF_S)
        if time.monotonic() >= following.retry_at:
            following.retry_at = 0.0
            await self._change(run, {"attempts": attempts + 1, "last_error": said})
            metrics.RETRIES.inc()
            await self.launcher.start(self.folder_of(run.id))

    async def _register(self, run: Run) -> None:
        registered = await self.registrar.register(run, self.base, self.folder_of(run.id))
        self._end(registered)
        await self._announce()

    async def _change(self, run: Run, progress: dict[str, Any], **values: Any) -> None:
        run.progress.update(progress)
        async with self.database.write() as connection:
            await change_run(connection, run.id, (run.state,), progress=run.progress, **values)

    async def _fail(self, run: Run, reason: str) -> None:
        """End a run that made no version; whoever answers people is not touched by it."""
        log.error("run %s failed: %s", run.id, reason)
        async with self.database.write() as connection:
            await change_run(
                connection,
                run.id,
                (run.state,),
                state=RunState.FAILED,
                reason=f"{run.reason}; failed: {reason}",
                progress=run.progress | {"error": reason},
            )
            await training.release_claims(connection, run.id)
        metrics.ended(RunState.FAILED)
        self.considering.forget()


def _shown(status: JobStatus) -> dict[str, Any]:
    shown: dict[str, Any] = {} if status.note is None else {"note": status.note}
    if status.progress is not None:
        told = {"run_id", "error"}
        shown |= status.progress.model_dump(mode="json", exclude=told, exclude_none=True)
    return shown


def _chain(asked: Run | None, method: str | None, reward: str | None) -> dict[str, Any]:
    """What a run has to do with the reward model before it or the policy after it."""
    if method == "rloo":
        return {"optimised_against": reward}
    by_itself = asked is None or asked.method == AUTOMATIC
    return {"then_a_policy": True} if method == "reward_model" and by_itself else {}
