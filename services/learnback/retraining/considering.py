"""Whether to train now, and how: reads the ledger, settles what is of no use, and decides."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncConnection

from learnback.core.clock import now
from learnback.ledger import training
from learnback.ledger.runs import Run, RunState, list_runs
from learnback.ledger.training import Waiting
from learnback.retraining import metrics
from learnback.retraining.choice import Choice, Chosen, as_chosen, trains_weights
from learnback.retraining.planning import PlannedRun, Planner, Prospect
from learnback.retraining.trigger import Decision, Policy, Situation, decide

AUTOMATIC = "auto"
"""The method of a run that was asked for without one, until it begins."""
NOT_LOOKED = Choice(None, "too few signals wait")


BRINGS_ALONG = 4
"""A new signal may make others of use that waited for it, such as the second thumb of a pair. So it
is worth to look again once a quarter of the signals that were missing has come."""


@dataclass(frozen=True)
class _Look:
    """What the waiting signals came to."""

    waiting: Waiting
    policy_due: bool
    prospect: Prospect

    def still_says(self, waiting: Waiting, min_new: int, *, policy_due: bool) -> bool:
        """Whether looking again can't find a reason to train: looking costs seconds where there
        are many signals, and each one that comes in asks for it."""
        if self.policy_due != policy_due:
            return False
        came = waiting.count - self.waiting.count
        missing = min_new - self.prospect.new
        return waiting == self.waiting or BRINGS_ALONG * came < missing


class Considering:
    """Considers the next run; `forget` what was seen once a run has ended."""

    def __init__(self, planner: Planner) -> None:
        self.planner = planner
        self.database = planner.database
        self._looked: _Look | None = None

    def forget(self) -> None:
        """Look anew next time, though the same signals wait."""
        self._looked = None

    async def plan(self, wanted: Chosen | None) -> PlannedRun:
        """The next run at length; nothing is changed."""
        async with self.database.read() as connection:
            last = await _last_run(connection)
        return await self.planner.plan(wanted, policy_due=_policy_due(last))

    async def consider(self) -> tuple[Run | None, Prospect, Decision]:
        """The oldest run that was asked for, what the next run would be, and whether it starts."""
        async with self.database.read() as connection:
            waiting = await training.waiting(connection)
            asked = await list_runs(connection, (RunState.ASKED,))
            last = await _last_run(connection)
        metrics.WAITING.set(waiting.count)
        oldest = asked[-1] if asked else None
        due = _policy_due(last)
        few = waiting.count < self.planner.settings.min_new_signals
        if oldest is None and few and not due:
            prospect = Prospect(NOT_LOOKED, new=waiting.count)
        else:
            prospect = await self._look(waiting, oldest, policy_due=due)
        came_to_nothing = last is not None and last.state is not RunState.DONE
        situation = Situation(
            now=now(),
            new_signals=prospect.new,
            rows=prospect.rows,
            nothing=prospect.nothing,
            due="a reward model was made, and no policy since" if due else None,
            asked_run=oldest.id if oldest else None,
            last_finished_at=last.finished_at if last else None,
            last_failed_signals=last.progress["new_signals"] if last and came_to_nothing else None,
        )
        return oldest, prospect, decide(situation, self._policy())

    async def _look(self, waiting: Waiting, asked: Run | None, *, policy_due: bool) -> Prospect:
        """The next run as it would be now. Signals that no method can ever use are settled, and
        the others say what they wait for."""
        known, least = self._looked, self.planner.settings.min_new_signals
        if asked is None and known and known.still_says(waiting, least, policy_due=policy_due):
            return known.prospect
        wanted = _wanted(asked)
        found = await self.planner.survey(wanted)
        prospect = await asyncio.to_thread(
            self.planner.prospect, found, wanted, policy_due=policy_due
        )
        method = prospect.choice.method
        useless = found.useless()
        notes = found.notes(method) if trains_weights(method) else {}
        async with self.database.write() as connection:
            await training.record(connection, useless)
            await training.explain(connection, {i: o for i, o in notes.items() if i not in useless})
        self._looked = None if asked else _Look(waiting, policy_due, prospect)
        return prospect

    def _policy(self) -> Policy:
        settings = self.planner.settings
        return Policy(settings.automatic, settings.min_new_signals, settings.cool_down)


async def _last_run(connection: AsyncConnection) -> Run | None:
    """The last run that began and ended, however it did."""
    ended = (RunState.DONE, RunState.FAILED, RunState.CANCELLED)
    began = (r for r in await list_runs(connection, ended) if "new_signals" in r.progress)
    return max(began, key=lambda r: r.finished_at or r.created_at, default=None)


def _policy_due(last: Run | None) -> bool:
    """Whether the last run made a reward model by itself: a policy comes after it."""
    return bool(last and last.state is RunState.DONE and last.progress.get("then_a_policy"))


def _wanted(asked: Run | None) -> Chosen | None:
    """The method that was asked for by name."""
    return None if asked is None or asked.method == AUTOMATIC else as_chosen(asked.method)
