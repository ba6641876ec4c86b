"""The judge of evaluations: the reward model that the alias `reward` names."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from learnback.contracts.models import Alias
from learnback.ledger.database import Database
from learnback.models import linear_reward
from learnback.registry import store
from learnback.registry.artifacts import ArtifactCorrupt, ArtifactStore
from learnback.release.gate import Judge

N = TypeVar("N", int, float)


@dataclass(frozen=True)
class LoadedJudge:
    """A reward model that can score; `facts` go into the report."""

    facts: Judge
    model: linear_reward.LinearRewardModel


async def find_judge(database: Database) -> store.ModelVersion | None:
    """The reward model's version, or None if there is none yet."""
    async with database.read() as connection:
        named = (await store.alias_state(connection, Alias.REWARD)).version
        return await store.find(connection, named) if named else None


def facts_of(version: store.ModelVersion) -> Judge:
    """What the registry knows of how well it judges."""
    return Judge(
        version=version.name,
        held_out_pairs=_number(version.metrics.get("held_out_pairs"), int),
        held_out_correct=_number(version.metrics.get("held_out_correct"), float),
    )


async def load_judge(
    version: store.ModelVersion, artifacts: ArtifactStore, cache: Path
) -> LoadedJudge:
    """Fetch, verify and load. Raises ArtifactCorrupt for unusable files, Unavailable for none."""
    name, digest = version.artifact, version.artifact_digest
    if name is None or digest is None:
        raise ArtifactCorrupt(f"The reward model {version.name} has no files.")
    folder = await asyncio.to_thread(artifacts.fetch, name, digest, cache)
    try:
        model = await asyncio.to_thread(linear_reward.load, folder)
    except ValueError as error:
        raise ArtifactCorrupt(f"The reward model {version.name}: {error}") from error
    return LoadedJudge(facts_of(version), model)


def _number(value: object, kind: type[N]) -> N | None:
    return kind(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
