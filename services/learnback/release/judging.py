"""Who judges: a reward model, if possible one that did not train the candidate, and beside it a
judge model that no candidate was ever trained on."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from learnback.contracts.models import Alias, PromptMessages, VersionKind
from learnback.ledger.database import Database
from learnback.models.reward import RewardModel, RewardModels
from learnback.registry import store
from learnback.registry.artifacts import ArtifactCorrupt, ArtifactStore
from learnback.release.analysis import proportion
from learnback.release.measured import Judge

N = TypeVar("N", int, float)

ON_POLICY = "rloo"
"""The method that climbs a reward model, and so finds its holes."""


class Scoring(Protocol):
    """A reward model."""

    def score_many(self, items: Iterable[tuple[PromptMessages, str]]) -> Sequence[float | None]:
        """The rewards of many (prompt, answer), in order; None: it can't judge such a text."""


@dataclass(frozen=True)
class LoadedJudge:
    """A reward model that can score; `facts` go into the report."""

    facts: Judge
    model: Scoring


@dataclass(frozen=True)
class Chosen:
    """The reward model that judges, and what weakens its word."""

    version: store.ModelVersion
    note: str | None = None

    @property
    def facts(self) -> Judge:
        """For the report."""
        return facts_of(self.version).model_copy(update={"note": self.note})


async def find_judge(
    database: Database, candidate: store.ModelVersion, least_accuracy: float
) -> Chosen | None:
    """The reward model that `reward` names, or another if that one trained the candidate."""
    async with database.read() as connection:
        named = (await store.alias_state(connection, Alias.REWARD)).version
        in_use = await store.find(connection, named) if named else None
        others = await store.list_versions(connection, VersionKind.REWARD_MODEL)
    return choose(candidate, in_use, others, least_accuracy)


def choose(
    candidate: store.ModelVersion,
    in_use: store.ModelVersion | None,
    others: Sequence[store.ModelVersion],
    least_accuracy: float,
) -> Chosen | None:
    """Pure. Newest first in `others`; None if there is no reward model at all."""
    if in_use is None:
        return None
    if candidate.config.get("method") != ON_POLICY or candidate.reward_model != in_use.name:
        same = candidate.dataset_fingerprint is not None and (
            candidate.dataset_fingerprint == in_use.dataset_fingerprint
        )
        note = "it was fitted to the comparisons that trained the candidate" if same else None
        return Chosen(in_use, note)
    for other in others:
        if _independent(other, in_use) and _proven(other, least_accuracy):
            return Chosen(other, f"not {in_use.name}, on which the candidate was trained")
    return Chosen(in_use, "it trained the candidate, and there is no other that is proven")


def _independent(other: store.ModelVersion, trainer: store.ModelVersion) -> bool:
    return (
        other.name != trainer.name
        and other.artifact is not None
        and other.base_digest == trainer.base_digest
        and other.dataset_fingerprint != trainer.dataset_fingerprint
    )


def _proven(version: store.ModelVersion, least_accuracy: float) -> bool:
    facts = facts_of(version)
    if not facts.held_out_pairs or facts.held_out_correct is None:
        return False
    return proportion(facts.held_out_correct, facts.held_out_pairs).low > least_accuracy


def facts_of(version: store.ModelVersion) -> Judge:
    """What the registry knows of how well it judges."""
    return Judge(
        version=version.name,
        held_out_pairs=_number(version.metrics.get("held_out_pairs"), int),
        held_out_correct=_number(version.metrics.get("held_out_correct"), float),
    )


@dataclass(frozen=True)
class Opened:
    """A reward model of either kind, as evaluations ask it."""

    model: RewardModel

    def score_many(self, items: Iterable[tuple[PromptMessages, str]]) -> Sequence[float | None]:
        """See `Scoring`. Raises Unavailable where the model is away, ArtifactCorrupt if broken."""
        scored = self.model.score_batch(list(items))
        for one in scored:
            if one.fault:
                raise ArtifactCorrupt(f"The reward model is broken: {one.error}")
        return [one.score for one in scored]


async def load_judge(
    chosen: Chosen, artifacts: ArtifactStore, cache: Path, models: RewardModels
) -> LoadedJudge:
    """Fetch, verify and load. Raises ArtifactCorrupt for unusable files, Unavailable for none."""
    version = chosen.version
    name, digest = version.artifact, version.artifact_digest
    if name is None or digest is None:
        raise ArtifactCorrupt(f"The reward model {version.name} has no files.")
    folder = await asyncio.to_thread(artifacts.fetch, name, digest, cache)
    try:
        model = await asyncio.to_thread(models.open, version.name, folder)
    except ValueError as error:
        raise ArtifactCorrupt(f"The reward model {version.name}: {error}") from error
    return LoadedJudge(chosen.facts, Opened(model))


def _number(value: object, kind: type[N]) -> N | None:
    return kind(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
