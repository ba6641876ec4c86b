"""A prompt strategy as a run: the best-rated answers become examples. No job and no GPU."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from learnback.contracts.models import VersionKind
from learnback.core.clock import now
from learnback.ledger.runs import Run
from learnback.ledger.training import Outcome
from learnback.models import example_bank
from learnback.models.strategy import Strategy
from learnback.registry import store
from learnback.registry.artifacts import digest_folder
from learnback.registry.store import ModelVersion
from learnback.retraining import strategies
from learnback.retraining.making import Made
from learnback.retraining.planning import Planner
from learnback.retraining.scores import scores_of
from learnback.retraining.strategies import Built
from learnback.retraining.survey import Survey

BANK_DIRECTORY = "bank"
SCORES_AWAITED = timedelta(minutes=1)
"""How long a run waits for the reward model to score the answers; then it does without."""


@dataclass(frozen=True)
class MadeStrategy(Made):
    """A prompt version, and what became of the signals that it was made of."""

    outcomes: Mapping[str, Outcome]
    waiting: list[str]
    """Those of them that no run has taken before."""


async def make(planner: Planner, run: Run, folder: Path) -> MadeStrategy | None:
    """Build the strategy of a run; None while scores are awaited. Raises ValueError without an
    example."""
    survey = await planner.survey("prompt")
    about = {s.completion.id for s in survey.signals if s.completion is not None}
    scores = await scores_of(planner.database, sorted(about))
    if scores.awaited_since is not None and now() - scores.awaited_since < SCORES_AWAITED:
        return None
    built = await asyncio.to_thread(build, survey, scores.found)
    if not built.bank.entries:
        raise ValueError("no answer is rated well enough to be an example")
    files = folder / BANK_DIRECTORY
    await asyncio.to_thread(example_bank.save, built.bank, files)
    strategy = Strategy(strategy="few_shot", bank=await asyncio.to_thread(digest_folder, files))
    version = strategies.version_of(
        strategy,
        planner.base,
        parent=await _weights(planner, run),
        built=built,
        run_id=run.id,
        reward_model=scores.reward_model,
    )
    waiting = [s.id for s in survey.waiting if s.id in built.outcomes]
    return MadeStrategy(version, files, built.outcomes, waiting)


def build(survey: Survey, scores: Mapping[tuple[str, int], float]) -> Built:
    """The examples that all signals make. Blocking."""
    return strategies.build(survey.examined, survey.signals, scores)


async def _weights(planner: Planner, run: Run) -> str:
    """What the strategy is put on: the weights that answer people when the run begins."""
    async with planner.database.read() as connection:
        found: ModelVersion | None = await store.find(connection, run.parent or "")
    if found is None:
        return planner.base.name
    return found.parent or planner.base.name if found.kind is VersionKind.PROMPT else found.name
