"""Judges with the reward model that the registry's alias `reward` names."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from learnback.contracts.models import Alias
from learnback.ledger.database import Database
from learnback.models import linear_reward
from learnback.models.linear_reward import LinearRewardModel
from learnback.registry import store
from learnback.registry.artifacts import ArtifactCorrupt, ArtifactStore
from learnback.registry.store import ModelVersion
from learnback.reward.scorers.base import Answer, Verdict

log = logging.getLogger(__name__)

MAX_COMPONENTS = 5
"""Reasons kept with a score: the features that moved it most."""


class ModelScorer:
    """A reward model under its version name; it never changes, a newer one is another object."""

    name = "model"

    def __init__(self, version: str, model: LinearRewardModel) -> None:
        self.version = version
        self.model = model

    def score(self, answer: Answer) -> Verdict:
        """Calibrated logits, centred on what people saw; components: the weightiest features."""
        parts = self.model.contributions(answer.prompt, answer.text)
        weightiest = sorted(parts, key=lambda name: (-abs(parts[name]), name))[:MAX_COMPONENTS]
        return Verdict(
            self.model.score(answer.prompt, answer.text),
            components={name: round(parts[name], 6) for name in weightiest if parts[name]},
        )


class CurrentModel:
    """Keeps the scorer that `reward` names; `scorer` is None until there is one.

    A new model is fetched, verified and loaded beside the old one, which serves until the swap.
    """

    def __init__(self, database: Database, artifacts: ArtifactStore, cache: Path) -> None:
        self.database = database
        self.artifacts = artifacts
        self.cache = cache
        self.scorer: ModelScorer | None = None
        self.problem: str | None = None
        self._looking = asyncio.Lock()

    async def refresh(self) -> bool:
        """Look at the alias; True if another model serves now. Raises Unavailable.

        A model that can't be fetched or read leaves the old one in place and sets `problem`.
        """
        async with self._looking:
            version = await self._named()
            if version is None or (self.scorer and self.scorer.version == version.name):
                self.problem = None
                return False
            try:
                model = await asyncio.to_thread(self._load, version)
            except (ArtifactCorrupt, ValueError, OSError) as error:
                self.problem = f"reward model {version.name} can't be used: {error}"
                log.error("%s", self.problem)
                return False
            self.scorer, self.problem = ModelScorer(version.name, model), None
            log.info("scoring with %s", version.name)
            return True

    async def _named(self) -> ModelVersion | None:
        async with self.database.read() as connection:
            name = (await store.alias_state(connection, Alias.REWARD)).version
            return await store.find(connection, name) if name else None

    def _load(self, version: ModelVersion) -> LinearRewardModel:
        if version.artifact is None or version.artifact_digest is None:
            raise ValueError("the registry knows no files of it")
        return linear_reward.load(
            self.artifacts.fetch(version.artifact, version.artifact_digest, self.cache)
        )
