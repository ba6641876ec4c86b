"""Judges with the reward model that the registry's alias `reward` names, of whatever kind."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from weakref import WeakKeyDictionary

from learnback.contracts.models import Alias, VersionKind
from learnback.core.errors import NotFound, Unavailable, Unprocessable
from learnback.ledger.database import Database
from learnback.models.reward import RewardModel, RewardModels, Scored
from learnback.registry import copies, store
from learnback.registry.artifacts import ArtifactCorrupt, ArtifactStore
from learnback.registry.store import ModelVersion
from learnback.reward.scorers.base import Answer, Verdict

log = logging.getLogger(__name__)

RETRY_S = 120.0
"""Before a model that could not be used is tried again: its files may have been mended, and a base
model takes a while to load in vain."""


class ModelScorer:
    """A reward model under its version name; it never changes, a newer one is another object."""

    name = "model"

    def __init__(self, version: str, model: RewardModel) -> None:
        self.version = version
        self.model = model

    @property
    def slow(self) -> bool:
        """See `Scorer`."""
        return self.model.kind != "linear"

    async def score(self, answers: Sequence[Answer]) -> list[Verdict]:
        """Calibrated logits: `sigmoid(a - b)` is the chance that people prefer a."""
        items = [(answer.prompt, answer.text) for answer in answers]
        return [_verdict(s) for s in await asyncio.to_thread(self.model.score_batch, items)]


def _verdict(scored: Scored) -> Verdict:
    return Verdict(scored.score, scored.error, scored.components, scored.fault)


class CurrentModel:
    """Keeps the scorer that `reward` names; `scorer` is None until there is one.

    A new model is fetched, verified, loaded and tried beside the old one, which serves until the
    swap: one assignment. Whoever took the old one before finishes with it.
    """

    def __init__(
        self,
        database: Database,
        artifacts: ArtifactStore,
        cache: Path,
        models: RewardModels | None = None,
    ) -> None:
        self.database = database
        self.artifacts = artifacts
        self.cache = cache
        self.models = models or RewardModels()
        self.scorer: ModelScorer | None = None
        self.problem: str | None = None
        self._held: WeakKeyDictionary[ModelScorer, Path] = WeakKeyDictionary()
        self._retry: tuple[str, float] = ("", 0.0)
        self._looking = asyncio.Lock()

    async def refresh(self) -> bool:
        """Look at the alias; True if another model serves now. Raises Unavailable.

        A model that can't be used leaves the old one in place and sets `problem`.
        """
        async with self._looking:
            version = await self._named()
            if version is None or (self.scorer and self.scorer.version == version.name):
                self.problem = None
                return False
            if self._retry[0] == version.name and time.monotonic() < self._retry[1]:
                return False
            try:
                scorer = await self.open(version)
            except (ArtifactCorrupt, Unavailable, ValueError, OSError) as error:
                self._refuse(version, error)
                return False
            self.scorer, self.problem = scorer, None
            log.info("scoring with %s (%s)", version.name, scorer.model.kind)
            return True

    async def open(self, version: ModelVersion) -> ModelScorer:
        """Any reward model, ready to score.

        Raises ArtifactCorrupt, ValueError or OSError if it can't be used, Unavailable if it can't
        be had now.
        """
        model, folder = await asyncio.to_thread(self._load, version)
        scorer = ModelScorer(version.name, model)
        self._held[scorer] = folder
        return scorer

    async def open_named(self, name: str) -> ModelScorer:
        """The one in use if that is its name, else another one beside it. Raises as `open` does,
        NotFound, and Unprocessable if it is no reward model."""
        if self.scorer is not None and self.scorer.version == name:
            return self.scorer
        async with self.database.read() as connection:
            version = await store.find(connection, name)
        if version is None:
            raise NotFound(f"There is no model version {name!r}; `learnback status` lists them.")
        if version.kind is not VersionKind.REWARD_MODEL:
            raise Unprocessable(f"{name} is no reward model but of the kind {version.kind}.")
        return await self.open(version)

    async def tidy(self) -> None:
        """Remove copies of reward models that neither this process nor another one here holds.

        An engine reads a model's files again after a restart, so they stay as long as it is used.
        """
        held = list(self._held.values())
        for name in await asyncio.to_thread(copies.tidy, self.cache, held):
            log.info("removed the copy %s of a reward model that nobody uses", name[:12])

    def _refuse(self, version: ModelVersion, error: Exception) -> None:
        problem = f"reward model {version.name} can't be used: {error}"
        if problem != self.problem:
            serving = self.scorer.version if self.scorer else "no learned model"
            log.error("%s; %s goes on", problem, serving)
        self.problem = problem
        if not isinstance(error, Unavailable):
            self._retry = (version.name, time.monotonic() + RETRY_S)

    async def _named(self) -> ModelVersion | None:
        async with self.database.read() as connection:
            name = (await store.alias_state(connection, Alias.REWARD)).version
            return await store.find(connection, name) if name else None

    def _load(self, version: ModelVersion) -> tuple[RewardModel, Path]:
        if version.artifact is None or version.artifact_digest is None:
            raise ValueError("the registry knows no files of it")
        folder = self.artifacts.fetch(version.artifact, version.artifact_digest, self.cache)
        return self.models.open(version.name, folder), folder
