"""What a finished run leaves behind: a reward model and an adapter, registered with their lineage.

Everything here may be repeated: names are digests of contents, artifacts are stored before the one
transaction that registers them, settles the signals and ends the run, and messages go out after it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncConnection

from learnback import __version__
from learnback.contracts.messages import ModelTrained
from learnback.contracts.models import Alias, VersionKind, VersionState
from learnback.contracts.streams import MODELS
from learnback.core.bus import publish
from learnback.core.clock import now
from learnback.ledger import training
from learnback.ledger.database import Database
from learnback.ledger.runs import Run, RunState, change_run
from learnback.models import linear_reward
from learnback.registry import garbage, store
from learnback.registry.artifacts import ArtifactCorrupt, ArtifactStore, digest_folder
from learnback.registry.store import ModelVersion
from learnback.retraining.datasets.files import Manifest, load_manifest, load_pairs
from learnback.retraining.plan import ADAPTER_DIRECTORY, RESULT_FILE, RunResult
from learnback.retraining.trainers import linear_reward as reward_trainer

log = logging.getLogger(__name__)

ACTOR = "retraining"
DATASET_DIRECTORY, REWARD_DIRECTORY = "dataset", "reward"


@dataclass(frozen=True)
class Registered:
    """What came of a run."""

    adapter: ModelVersion
    reward: ModelVersion
    reward_moved: bool
    signals: dict[str, int]
    """The run's signals by status; withdrawn ones among them were taken back while it ran."""


class Registrar:
    """Registers what finished runs made; `cache` keeps fetched artifacts."""

    def __init__(
        self, database: Database, redis: Redis, artifacts: ArtifactStore, cache: Path
    ) -> None:
        self.database = database
        self.redis = redis
        self.artifacts = artifacts
        self.cache = cache

    async def register(self, run: Run, base: ModelVersion, folder: Path) -> Registered:
        """Register the versions of a run whose job is done. Idempotent."""
        made = await asyncio.to_thread(_collect, run, base, folder)
        old = await self._serving_reward(made.reward)
        keep_old = old is not None and await asyncio.to_thread(
            reward_trainer.significantly_worse, made.reward_model, old, made.held_out
        )
        for version, files in (
            (made.reward, folder / REWARD_DIRECTORY),
            (made.adapter, folder / ADAPTER_DIRECTORY),
        ):
            await asyncio.to_thread(self.artifacts.put, files, version.name)
        async with self.database.write() as connection:
            return await self._enter(connection, run, made, move_reward=not keep_old)

    async def _enter(
        self, connection: AsyncConnection, run: Run, made: _Made, *, move_reward: bool
    ) -> Registered:
        """The one transaction: versions, alias, signals and the run's end."""
        reward = await self._register(connection, made.reward, made.folder / REWARD_DIRECTORY)
        moved = move_reward and await _move_reward(connection, reward.name, run.id)
        in_use = (await store.alias_state(connection, Alias.REWARD)).version
        judged = made.adapter.model_copy(update={"reward_model": in_use})
        adapter = await self._register(connection, judged, made.folder / ADAPTER_DIRECTORY)
        counts = await training.finish(connection, run.id, made.manifest.outcome_of(), adapter.name)
        progress = run.progress | {"signals": counts, "reward_model": reward.name}
        await change_run(
            connection,
            run.id,
            (RunState.REGISTERING,),
            state=RunState.DONE,
            version=adapter.name,
            progress=progress,
        )
        log.info("run %s made %s and %s; signals: %s", run.id, adapter.name, reward.name, counts)
        return Registered(adapter, reward, moved, counts)

    async def _register(
        self, connection: AsyncConnection, version: ModelVersion, files: Path
    ) -> ModelVersion:
        return await garbage.register(connection, self.artifacts, version, files)

    async def announce(self, versions: Sequence[ModelVersion]) -> None:
        """Say that versions were trained. Raises RedisError if that is not certain."""
        at = now()
        messages = [
            ModelTrained(version=v.name, kind=v.kind, run_id=v.run_id or "", at=at)
            for v in versions
        ]
        await publish(self.redis, MODELS, messages)

    async def unjudged(self) -> list[ModelVersion]:
        """Versions whose message may never have gone out: trained and not yet judged, and the
        reward model that is in use."""
        async with self.database.read() as connection:
            adapters = await store.list_versions(connection, VersionKind.ADAPTER)
            reward = (await store.alias_state(connection, Alias.REWARD)).version
            found = [v for v in adapters if v.state == VersionState.REGISTERED and v.run_id]
            if reward is not None:
                found.append(await store.get(connection, reward))
        return sorted(found, key=lambda v: v.created_at)

    async def _serving_reward(self, new: ModelVersion) -> linear_reward.LinearRewardModel | None:
        """The reward model in use, to compare with; None if there is none or it can't be read."""
        async with self.database.read() as connection:
            name = (await store.alias_state(connection, Alias.REWARD)).version
            version = await store.find(connection, name) if name and name != new.name else None
        if version is None or version.artifact is None or version.artifact_digest is None:
            return None
        try:
            folder = await asyncio.to_thread(
                self.artifacts.fetch, version.artifact, version.artifact_digest, self.cache
            )
            return linear_reward.load(folder)
        except (ArtifactCorrupt, ValueError) as error:
            log.error("reward model %s can't be read and is replaced: %s", version.name, error)
            return None


@dataclass(frozen=True)
class _Made:
    """What lies in a run's folder, read and named."""

    manifest: Manifest
    adapter: ModelVersion
    reward: ModelVersion
    reward_model: linear_reward.LinearRewardModel
    held_out: list[linear_reward.Pair]
    folder: Path


def _collect(run: Run, base: ModelVersion, folder: Path) -> _Made:
    """Fit the reward model, then name both versions by their digests. Blocking."""
    dataset = folder / DATASET_DIRECTORY
    manifest = load_manifest(dataset)
    result = RunResult.model_validate_json((folder / RESULT_FILE).read_bytes())
    rows, held_out = load_pairs(dataset)
    model, metrics = reward_trainer.train(rows, held_out, seed=run.seed)
    _save_whole(model, folder / REWARD_DIRECTORY)
    reward = _version(
        run, base, manifest, "reward", VersionKind.REWARD_MODEL, folder / REWARD_DIRECTORY
    ).model_copy(update={"metrics": metrics})
    adapter = _version(
        run, base, manifest, run.method, VersionKind.ADAPTER, folder / ADAPTER_DIRECTORY
    ).model_copy(
        update={
            "parent": run.parent,
            "config": run.config,
            "metrics": _metrics(result, manifest),
        }
    )
    pairs = reward_trainer.of_held_out_prompts(held_out)
    return _Made(manifest, adapter, reward, model, pairs, folder)


def _version(
    run: Run, base: ModelVersion, manifest: Manifest, method: str, kind: VersionKind, files: Path
) -> ModelVersion:
    digest, at = digest_folder(files), now()
    name = store.version_name(base.base, method, digest)
    return ModelVersion(
        name=name,
        kind=kind,
        base=base.base,
        base_digest=base.base_digest,
        artifact=name,
        artifact_digest=digest,
        run_id=run.id,
        dataset_fingerprint=manifest.fingerprint,
        seed=run.seed,
        code_version=__version__,
        created_at=at,
        changed_at=at,
    )


def _metrics(result: RunResult, manifest: Manifest) -> dict[str, Any]:
    return {
        **result.metrics,
        "distance_from_reference": result.distance_from_reference,
        "steps": result.steps,
        "seconds": result.seconds,
        "rows_used": result.rows_used,
        "rows_skipped": result.rows_skipped,
        "train_rows": manifest.rows["train"],
        "held_out_rows": manifest.rows["held_out"],
        "libraries": result.versions,
    }


def _save_whole(model: linear_reward.LinearRewardModel, target: Path) -> None:
    """All files or none, also if a crash left half of them."""
    partial = target.with_name(f".{target.name}.partial")
    for folder in (partial, target):
        shutil.rmtree(folder, ignore_errors=True)
    model.save(partial)
    os.replace(partial, target)


async def _move_reward(connection: AsyncConnection, name: str, run_id: str) -> bool:
    """Let the alias name the new reward model; False if it does so already."""
    state = await store.alias_state(connection, Alias.REWARD)
    if state.version == name:
        return False
    await store.move_alias(
        connection,
        Alias.REWARD,
        name,
        expected_revision=state.revision,
        actor=ACTOR,
        reason=f"fitted by run {run_id}",
    )
    return True
