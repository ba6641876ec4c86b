"""What the ledger holds for training at one moment, and what each method would make of it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from sqlalchemy.ext.asyncio import AsyncConnection

from learnback.contracts.models import Alias, FeedbackStatus
from learnback.ledger import training
from learnback.ledger.database import Database
from learnback.ledger.training import Outcome, Signal, StoredPrompt
from learnback.registry import store
from learnback.retraining.choice import Available, Chosen, Reward
from learnback.retraining.datasets import dataset
from learnback.retraining.datasets.dataset import Dataset
from learnback.retraining.datasets.examining import Examined, examine
from learnback.retraining.datasets.rows import LabelRow, PreferenceRow
from learnback.retraining.datasets.split import Shares
from learnback.retraining.datasets.votes import TRAINED
from learnback.retraining.hyperparameters import Method
from learnback.retraining.settings import FilterSettings

MAX_PROMPTS = 2_000
"""Prompts that a policy is given at most: at eight a step that is 250 steps, and drift ends most
runs long before."""


@dataclass
class Survey:
    """All signals that count, examined once; datasets are made of them on demand."""

    signals: Sequence[Signal]
    examined: Examined
    reward: Reward | None = None
    prompts: Sequence[StoredPrompt] = ()
    """Only read where a policy that answers by itself is in question."""
    _made: dict[Method, Dataset] = field(default_factory=dict)

    def dataset(self, method: Method) -> Dataset:
        """What `method` would learn from."""
        if method not in self._made:
            self._made[method] = dataset.build(self.examined, method, self.prompts)
        return self._made[method]

    @property
    def waiting(self) -> list[Signal]:
        """The signals that no run has taken."""
        return [s for s in self.signals if s.status is FeedbackStatus.ACCEPTED]

    def new(self, method: Method) -> int:
        """Waiting signals that `method` would train on."""
        outcomes = self.dataset(method).outcomes
        return sum(outcomes[s.id] == TRAINED for s in self.waiting)

    def useless(self) -> dict[str, Outcome]:
        """Waiting signals that no method can ever use."""
        unusable = self.examined.unusable
        return {s.id: unusable[s.id] for s in self.waiting if s.id in unusable}

    def notes(self, method: Method) -> dict[str, Outcome]:
        """Why signals go on waiting when `method` runs, where that is not what they say already."""
        outcomes = self.dataset(method).outcomes
        found: dict[str, Outcome] = {}
        for signal in self.waiting:
            outcome = outcomes[signal.id]
            waits = outcome.status is FeedbackStatus.ACCEPTED
            reason = outcome.reason if waits else None
            if signal.status_reason != reason:
                found[signal.id] = Outcome(FeedbackStatus.ACCEPTED, reason)
        return found

    def available(self, *, policy_due: bool) -> Available:
        """What the choice of a method goes by."""
        pairs = self.dataset("reward_model").train
        labels = [row for row in self.dataset("kto").train if isinstance(row, LabelRow)]
        liked = sum(row.label for row in labels)
        alone = {one.feedback_id for one in self.examined.opinions}
        ties = sum(isinstance(r, PreferenceRow) and r.tie for r in pairs)
        return Available(
            pairs=len(pairs) - ties,
            ties=ties,
            completions=len(self.dataset("sft").train),
            liked=liked,
            disliked=len(labels) - liked,
            single=sum(not alone.isdisjoint(row.feedback_ids) for row in labels),
            prompts=len(self.dataset("rloo").train),
            reward=self.reward,
            policy_due=policy_due,
        )


async def survey(
    database: Database,
    base_digest: str,
    shares: Shares,
    filters: FilterSettings,
    *,
    wanted: Chosen | None,
    pairs_for_rloo: int,
) -> Survey:
    """Read the ledger and examine what it holds. Prompts are read if `wanted` is RLOO, or there
    are pairs enough for it."""
    async with database.read() as connection:
        signals = await training.signals(connection)
        reward = await _reward(connection)
    examined = await asyncio.to_thread(examine, signals, base_digest, shares, filters)
    found = Survey(signals, examined, reward)
    pairs = await asyncio.to_thread(found.dataset, "dpo")
    if wanted == "rloo" or len(pairs.train) >= pairs_for_rloo:
        async with database.read() as connection:
            found.prompts = await training.prompts(connection, MAX_PROMPTS)
    await asyncio.to_thread(found.available, policy_due=False)  # makes what loops would block on
    return found


async def _reward(connection: AsyncConnection) -> Reward | None:
    """The reward model in use."""
    name = (await store.alias_state(connection, Alias.REWARD)).version
    version = await store.find(connection, name) if name else None
    if version is None:
        return None
    measured = version.metrics
    return Reward(
        version=version.name,
        neural=version.config.get("kind") == "neural",
        train_pairs=int(measured.get("train_pairs") or measured.get("rows_used") or 0),
        judged=int(measured.get("held_out_pairs") or 0),
        accuracy=measured.get("held_out_accuracy"),
    )
