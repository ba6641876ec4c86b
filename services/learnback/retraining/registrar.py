"""What a finished run leaves behind: a version and a reward model, registered with their lineage.

Everything here may be repeated: names are digests of contents, artifacts are stored before the one
transaction that registers them, settles the signals and ends the run, and messages go out after it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncConnection

from learnback.contracts.messages import ModelTrained
from learnback.contracts.models import Alias, VersionKind, VersionState
from learnback.contracts.streams import MODELS
from learnback.core.bus import publish
from learnback.core.clock import now
from learnback.core.errors import Conflict, NotFound
from learnback.ledger import training
from learnback.ledger.database import Database
from learnback.ledger.runs import Run, RunState, change_run, report_name
from learnback.registry import garbage, store
from learnback.registry.artifacts import ArtifactCorrupt, ArtifactStore
from learnback.registry.store import ModelVersion
from learnback.retraining import making
from learnback.retraining.comparing import may_replace
from learnback.retraining.making import Collected, Made, MadeReward
from learnback.retraining.prompting import MadeStrategy

log = logging.getLogger(__name__)

ACTOR = "retraining"


@dataclass(frozen=True)
class Registered:
    """What came of a run."""

    versions: tuple[ModelVersion, ...]
    """The reward model first, if there is one: whoever judges the other one needs it."""
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
        found = await asyncio.to_thread(making.collect, run, base, folder)
        moves = found.reward is not None and await self._may_serve(found.reward, found)
        for made in (found.reward, found.trained):
            if made is not None:
                await asyncio.to_thread(self.artifacts.put, made.files, made.version.name)
        report = await asyncio.to_thread(self._keep_report, run, folder)
        async with self.database.write() as connection:
            return await self._enter(connection, run, found, report, move_reward=moves)

    def _keep_report(self, run: Run, folder: Path) -> dict[str, str]:
        """Store the run's report; where it is, for the run's row. Blocking."""
        pages = making.gather_report(folder)
        name = report_name(run.id)
        if pages is None:
            return {}
        return {"report": name, "report_digest": self.artifacts.put(pages, name)}

    async def report(self, run: Run) -> Path:
        """The folder of a run's report. NotFound if it has none, or has none any more."""
        name, digest = run.progress.get("report"), run.progress.get("report_digest")
        if not name or not digest:
            raise NotFound(f"Run {run.id!r} is {run.state} and has no report.")
        if not await asyncio.to_thread(self.artifacts.exists, name):
            raise NotFound(
                f"The report of run {run.id!r} was removed by garbage collection, as the files of "
                f"{run.version}, since nobody had used them for long."
            )
        return await asyncio.to_thread(self.artifacts.fetch, name, digest, self.cache)

    async def fetch(self, version: str) -> Path:
        """The files of a version, verified. Raises NotFound or ArtifactCorrupt."""
        async with self.database.read() as connection:
            found = await store.get(connection, version)
        return await asyncio.to_thread(
            self.artifacts.fetch, str(found.artifact), str(found.artifact_digest), self.cache
        )

    async def _enter(
        self,
        connection: AsyncConnection,
        run: Run,
        found: Collected,
        report: dict[str, str],
        *,
        move_reward: bool,
    ) -> Registered:
        """The one transaction: versions, alias, signals and the run's end."""
        reward = found.reward
        moved = False
        if reward is not None:
            await self._register(connection, reward)
            moved = move_reward and await _move_reward(connection, reward.version.name, run.id)
        judged = await _with_its_judge(connection, run, found.trained)
        trained = await self._register(connection, judged)
        counts = await training.finish(connection, run.id, found.outcomes, trained.name)
        made: dict[str, Any] = {"signals": counts, **report}
        if reward is not None:
            made |= {"reward_model": reward.version.name, "reward_in_use": moved}
        await change_run(
            connection,
            run.id,
            (RunState.REGISTERING,),
            state=RunState.DONE,
            version=trained.name,
            progress=run.progress | made,
        )
        log.info("run %s made %s; signals: %s", run.id, trained.name, counts)
        versions = {v.name: v for v in ([reward.version] if reward else []) + [trained]}
        return Registered(tuple(versions.values()), moved, counts)

    async def register_strategy(self, run: Run, made: MadeStrategy) -> Registered:
        """Register a prompt version, and take and settle its signals at once. Raises Conflict if
        one of them was taken back meanwhile."""
        await asyncio.to_thread(self.artifacts.put, made.files, made.version.name)
        async with self.database.write() as connection:
            taken = await training.claim(connection, run.id, made.waiting)
            if taken < len(made.waiting):
                raise Conflict(f"run {run.id}: signals changed while it was prepared; once more")
            version = await self._register(connection, made)
            counts = await training.finish(connection, run.id, made.outcomes, version.name)
            await change_run(
                connection,
                run.id,
                (RunState.PREPARING,),
                state=RunState.DONE,
                version=version.name,
                dataset_fingerprint=version.dataset_fingerprint,
                progress=run.progress | {"signals": counts},
            )
        log.info("run %s made %s; signals: %s", run.id, version.name, counts)
        return Registered((version,), False, counts)

    async def _register(self, connection: AsyncConnection, made: Made) -> ModelVersion:
        return await garbage.register(connection, self.artifacts, made.version, made.files)

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
            made = [
                *await store.list_versions(connection, VersionKind.ADAPTER),
                *await store.list_versions(connection, VersionKind.PROMPT),
            ]
            reward = (await store.alias_state(connection, Alias.REWARD)).version
            found = [v for v in made if v.state == VersionState.REGISTERED and v.run_id]
            if reward is not None:
                found.append(await store.get(connection, reward))
        return sorted(found, key=lambda v: v.created_at)

    async def _may_serve(self, new: MadeReward, found: Collected) -> bool:
        """Whether a reward model may come into use in place of the one that is."""
        async with self.database.read() as connection:
            name = (await store.alias_state(connection, Alias.REWARD)).version
            old = await store.find(connection, name) if name else None
        if old is None or old.name == new.version.name or not old.artifact:
            return True
        try:
            files = await self.fetch(old.name)
            judged = await asyncio.to_thread(making.judge, old, files, found.held_out)
        except (ArtifactCorrupt, ValueError) as error:
            log.error("reward model %s can't be read and is replaced: %s", old.name, error)
            return True
        return may_replace(new.judged, judged)


async def _with_its_judge(connection: AsyncConnection, run: Run, made: Made) -> Made:
    """The version with the reward model that it was optimised against, else the one in use."""
    if made.version.kind is VersionKind.REWARD_MODEL:
        return made
    in_use = (await store.alias_state(connection, Alias.REWARD)).version
    judge = run.progress.get("optimised_against") or in_use
    return replace(made, version=made.version.model_copy(update={"reward_model": judge}))


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
        reason=f"made by run {run_id}",
    )
    return True
