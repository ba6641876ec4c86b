"""What a run would be if it began now: the method and why, what it would learn from, how long."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from learnback.core.settings import HELD_OUT_SHARE
from learnback.ledger import training
from learnback.ledger.database import Database
from learnback.ledger.runs import Run, RunState, list_runs
from learnback.registry.store import ModelVersion
from learnback.retraining import strategies
from learnback.retraining.choice import Choice, Chosen, choose, refusal, trains_weights
from learnback.retraining.datasets.agreement import Agreement
from learnback.retraining.datasets.split import Shares
from learnback.retraining.datasets.votes import ANOTHER_METHOD, TRAINED
from learnback.retraining.hyperparameters import Hyperparameters, Method
from learnback.retraining.settings import FilterSettings, MethodSettings, RetrainingSettings
from learnback.retraining.strategies import Built
from learnback.retraining.survey import Survey, survey

SHAPES: dict[str, Method] = {
    "pairs": "dpo",
    "pairs and ties": "reward_model",
    "completions": "sft",
    "labels": "kto",
    "prompts": "rloo",
}
"""What rows are called, with a method that learns from them."""


@dataclass(frozen=True)
class Prospect:
    """The next run in short."""

    choice: Choice
    new: int = 0
    """Waiting signals that it would train on."""
    rows: int = 0
    """Rows of its training side; 0: it can't be, and `nothing` says why."""
    nothing: str = ""


class PlannedRun(BaseModel):
    """The next run, before it starts; nothing is changed by looking."""

    method: str | None
    """None: nothing can be trained."""
    reason: str
    """Why this method."""
    others: dict[str, str]
    """Why not the other ones."""
    refused: str | None
    """Why it could not start if it were asked for now."""
    waiting: dict[str, int]
    """Signals that no run has taken, by kind."""
    new_signals: int
    """Of these, what this method would train on."""
    rows: dict[str, dict[str, int]]
    """What all signals make, after the filters: rows by shape, for training and held out."""
    signals: dict[str, int]
    """What would become of all signals on record, by outcome or by the reason why not."""
    prompts_left_out: dict[str, int]
    """Prompts that a policy would not be asked, by reason; empty where no policy is in question."""
    agreement: dict[str, Agreement]
    filters: dict[str, Any]
    hyperparameters: dict[str, Any]
    steps: int | None
    seconds: float | None
    """An estimate by the last run of this method; None before there is one."""
    seconds_as_in: str | None
    """That run."""


class Planner:
    """Looks at a ledger for training; changes nothing."""

    def __init__(
        self,
        settings: RetrainingSettings,
        base: ModelVersion,
        database: Database,
        *,
        held_out_share: float = HELD_OUT_SHARE,
        filters: FilterSettings | None = None,
        methods: MethodSettings | None = None,
    ) -> None:
        self.settings = settings
        self.base = base
        self.database = database
        self.shares = Shares(held_out_share, settings.held_out_raters)
        self.filters = filters or FilterSettings()
        self.methods = methods or MethodSettings()

    async def survey(self, wanted: Chosen | None) -> Survey:
        """All that counts now; with prompts if `wanted` answers them by itself."""
        return await survey(
            self.database,
            self.base.base_digest,
            self.shares,
            self.filters,
            wanted=wanted or self.methods.method,
            pairs_for_rloo=self.methods.pairs_for_rloo,
        )

    def prospect(self, found: Survey, wanted: Chosen | None, *, policy_due: bool) -> Prospect:
        """The next run by what was found. Blocking: it may make datasets."""
        have = found.available(policy_due=policy_due)
        if wanted is None:
            choice = choose(have, self.methods.sizes, self.methods.method)
        else:
            choice = Choice(wanted, "asked for by name")
        method = choice.method
        if method is None:
            return Prospect(choice, nothing=f"there is nothing to train on: {choice.reason}")
        if (wrong := refusal(method, have)) is not None:
            return Prospect(choice, nothing=wrong)
        if method == "prompt":
            built = _examples(found)
            taken = sum(built.outcomes.get(s.id) == TRAINED for s in found.waiting)
            nothing = "no answer is rated well enough to be an example"
            return Prospect(choice, taken, len(built.bank.entries), nothing)
        rows = len(found.dataset(method).train)
        return Prospect(choice, found.new(method), rows, "there is nothing to train on")

    def hyperparameters(self, method: Method) -> Hyperparameters:
        """Of a run that was not asked for with its own."""
        return self.methods.hyperparameters(method, self.settings.hyperparameters)

    async def plan(self, wanted: Chosen | None, *, policy_due: bool) -> PlannedRun:
        """The next run at length."""
        found = await self.survey(wanted)
        async with self.database.read() as connection:
            waiting = await training.waiting_kinds(connection)
            done = await list_runs(connection, (RunState.DONE,))
        prospect = await asyncio.to_thread(self.prospect, found, wanted, policy_due=policy_due)
        return await asyncio.to_thread(self._at_length, found, prospect, waiting, done)

    def _at_length(
        self, found: Survey, prospect: Prospect, waiting: dict[str, int], done: Sequence[Run]
    ) -> PlannedRun:
        """What there is to say of a prospect. Blocking."""
        method = prospect.choice.method
        settings = self.hyperparameters(method) if trains_weights(method) else None
        steps = settings.steps(prospect.rows) if settings and prospect.rows else None
        like, seconds = estimate(done, method, steps)
        return PlannedRun(
            method=method,
            reason=prospect.choice.reason,
            others=prospect.choice.others,
            refused=None if prospect.rows else prospect.nothing,
            waiting=waiting,
            new_signals=prospect.new,
            rows={name: _rows(found, by) for name, by in SHAPES.items()},
            signals=_counts(found, method),
            prompts_left_out=dict(found.dataset("rloo").prompts_left_out),
            agreement=dict(found.examined.agreement),
            filters=self.filters.model_dump(mode="json"),
            hyperparameters=settings.model_dump(mode="json") if settings else {},
            steps=steps,
            seconds=seconds,
            seconds_as_in=like,
        )


def _examples(found: Survey) -> Built:
    """What a prompt strategy would show; by what people said alone, without scores."""
    return strategies.build(found.examined, found.signals, {})


def _counts(found: Survey, method: str | None) -> dict[str, int]:
    """What would become of all signals, by outcome or reason."""
    if trains_weights(method):
        return found.dataset(method).counts
    taken = _examples(found).outcomes if method == "prompt" else {}
    told = {**found.examined.unusable, **found.examined.set_aside}
    ends = (taken.get(s.id) or told.get(s.id) or ANOTHER_METHOD for s in found.signals)
    return dict(Counter(end.reason or end.status.value for end in ends))


def _rows(found: Survey, method: Method) -> dict[str, int]:
    made = found.dataset(method)
    return {"train": len(made.train), "held_out": len(made.held_out)}


def estimate(
    done: Sequence[Run], method: str | None, steps: int | None
) -> tuple[str | None, float | None]:
    """The newest finished run of a method that tells its pace, and the seconds that `steps` take
    at that pace; `done` is newest first."""
    for run in done:
        taken = run.progress.get("step", 0) - run.progress.get("resumed_from_step", 0)
        seconds = run.progress.get("seconds")
        if steps is not None and run.method == method and seconds and taken > 0:
            return run.id, round(steps * float(seconds) / taken, 1)
    return None, None
