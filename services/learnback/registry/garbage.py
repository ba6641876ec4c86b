"""Garbage collection: files of versions that nobody needs go, their rows and history stay.

Two steps. A version is marked deleted first, in a transaction that holds its row and reads all
reasons to keep it again; from then on nobody starts to load it and no alias can name it. Its files
go a while later, if still no replica has it loaded, while its row is held again. So of any number
of collectors, controllers and runs at once, none can take what another is about to use.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from sqlalchemy import or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from learnback.contracts.models import Alias
from learnback.core.clock import now
from learnback.ledger import releases, replicas, runs
from learnback.ledger.database import Database
from learnback.ledger.tables import alias_history, model_versions
from learnback.registry import store
from learnback.registry.artifacts import ArtifactStore
from learnback.registry.retention import Facts, collectable, needed, why_report_stays
from learnback.registry.settings import RetentionSettings
from learnback.registry.store import AliasMove, ModelVersion

log = logging.getLogger(__name__)

ABANDONED = timedelta(days=1)
"""An upload that began longer ago and never ended is dead: the longest takes minutes."""
LIVE_RUNS = (runs.RunState.ASKED, *runs.ACTIVE)


@dataclass(frozen=True)
class Collection:
    """What one pass did; of a dry run, what it would have done."""

    kept: dict[str, str] = field(default_factory=dict)
    """Versions and reports of runs whose files are needed, each with the first reason."""
    marked: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    """Versions and reports of runs whose files went."""
    waiting: dict[str, str] = field(default_factory=dict)
    """Versions that are marked, and why their files are still there."""
    abandoned: list[str] = field(default_factory=list)
    """Uploads that were begun and never ended; removed."""
    unknown: list[str] = field(default_factory=list)
    """Whole artifacts that this ledger does not know. Another ledger may: they are left alone."""


async def collect(
    database: Database,
    artifacts: ArtifactStore,
    retention: RetentionSettings,
    *,
    dry_run: bool = False,
) -> Collection:
    """One pass. Safe to repeat, and beside others. Raises Unavailable, with what was done kept."""
    marked = await _mark(database, retention, dry_run=dry_run)
    async with database.read() as connection:
        facts = await read(connection, retention)
    stored = await asyncio.to_thread(artifacts.names)
    removed, waiting = [], {}
    for version in _gone(facts, stored):
        problem = await _remove(database, artifacts, retention, version.name, dry_run=dry_run)
        if problem is None:
            removed.append(version.name)
        else:
            waiting[version.name] = problem
    with_files = {v.name for v in facts.versions if v.artifact and not v.deleted}
    kept = {name: why for name, why in needed(facts, retention).items() if name in with_files}
    reports = await _reports(database, artifacts, stored, facts, retention, dry_run=dry_run)
    known = {v.artifact for v in facts.versions} | reports.keys()
    used = {v.artifact for v in facts.versions if not v.deleted}
    found = Collection(
        kept=kept | {name: why for name, why in reports.items() if why is not None},
        marked=marked,
        removed=removed + [name for name, why in reports.items() if why is None],
        waiting=waiting,
        abandoned=await _remove_abandoned(artifacts, used, dry_run=dry_run),
        unknown=[name for name in stored if name not in known],
    )
    if not dry_run and (marked or found.removed or found.abandoned):
        log.info("collected: marked %s, removed %s and %s", marked, found.removed, found.abandoned)
    return found


async def register(
    connection: AsyncConnection, artifacts: ArtifactStore, version: ModelVersion, folder: Path
) -> ModelVersion:
    """Register a version whose files were put from `folder`.

    One that was collected comes back with its files: the same content has the same name.
    """
    found = await store.register(connection, version)
    if not found.deleted:
        return found
    await store.restore(connection, version.name)  # holds the row: nobody removes them meanwhile
    await asyncio.to_thread(artifacts.delete, version.name)  # a collector may have taken half
    await asyncio.to_thread(artifacts.put, folder, version.name)
    return await store.get(connection, version.name)


async def read(connection: AsyncConnection, retention: RetentionSettings) -> Facts:
    """What the ledger says now."""
    at = now()
    return Facts(
        at=at,
        versions=await store.list_versions(connection),
        aliases=[await store.alias_state(connection, alias) for alias in Alias],
        moves=await _moves(connection, retention),
        ways=await releases.known(connection),
        runs=await runs.list_runs(connection, LIVE_RUNS, limit=1000),
        loaded=await _loaded(connection),
    )


async def _mark(database: Database, retention: RetentionSettings, *, dry_run: bool) -> list[str]:
    """Mark what nobody needs; the names. The rows are held before the reasons are read again."""
    async with database.read() as connection:
        wanted = collectable(await read(connection, retention), retention)
    if dry_run or not wanted:
        return wanted
    async with database.write() as connection:
        await _hold(connection, wanted)
        still = set(collectable(await read(connection, retention), retention))
        marked = [name for name in wanted if name in still]
        if marked:
            await connection.execute(
                update(model_versions)
                .where(model_versions.c.name.in_(marked))
                .values(deleted=True, changed_at=now())
            )
    return marked


async def _remove(
    database: Database,
    artifacts: ArtifactStore,
    retention: RetentionSettings,
    name: str,
    *,
    dry_run: bool,
) -> str | None:
    """Remove the files of a version that is marked; None, or why not yet."""
    async with database.write() as connection:
        await _hold(connection, [name])
        version = await store.get(connection, name)
        if not version.deleted:
            return "it is needed again"
        if version.changed_at > now() - retention.grace:
            return f"marked at {version.changed_at:%Y-%m-%d %H:%M:%S} UTC"
        if having := (await _loaded(connection)).get(name):
            return f"loaded by {', '.join(having)}"
        if not dry_run:
            await asyncio.to_thread(artifacts.delete, version.artifact or "")
    return None


async def _reports(
    database: Database,
    artifacts: ArtifactStore,
    stored: Sequence[str],
    facts: Facts,
    retention: RetentionSettings,
    *,
    dry_run: bool,
) -> dict[str, str | None]:
    """Reports of runs with why they stay; without a reason they are removed.

    A run that ended never writes its report again; its row is held against other collectors.
    """
    async with database.read() as connection:
        found = await runs.runs_of_reports(connection, stored)
    reports = {name: why_report_stays(run, facts, retention) for name, run in found.items()}
    for name in [name for name, why in reports.items() if why is None and not dry_run]:
        async with database.write() as connection:
            await runs.hold(connection, found[name].id)
            await asyncio.to_thread(artifacts.delete, name)
    return reports


async def _remove_abandoned(
    artifacts: ArtifactStore, used: set[str | None], *, dry_run: bool
) -> list[str]:
    found = await asyncio.to_thread(artifacts.abandoned, now() - ABANDONED)
    found = [name for name in found if name not in used]
    if not dry_run:
        for name in found:
            await asyncio.to_thread(artifacts.delete, name)
    return found


def _gone(facts: Facts, stored: Sequence[str]) -> list[ModelVersion]:
    """Versions that are marked and whose files are there, shared with no other version."""
    used = {v.artifact for v in facts.versions if not v.deleted}
    there = set(stored) - used
    return [v for v in facts.versions if v.deleted and v.artifact in there]


async def _hold(connection: AsyncConnection, names: Sequence[str]) -> None:
    """Keep rows as they are until the transaction ends; in one order, so that nobody deadlocks."""
    query = select(model_versions.c.name).where(model_versions.c.name.in_(names))
    await connection.execute(query.order_by(model_versions.c.name).with_for_update())


async def _moves(connection: AsyncConnection, retention: RetentionSettings) -> list[AliasMove]:
    """All moves of `stable`, and of the other aliases those within the retention."""
    c = alias_history.c
    recent = or_(c.alias == Alias.STABLE, c.at >= now() - retention.history)
    query = select(alias_history).where(recent).order_by(c.at.desc(), c.revision.desc())
    return [AliasMove(Alias(row.alias), *row[1:]) for row in await connection.execute(query)]


async def _loaded(connection: AsyncConnection) -> dict[str, list[str]]:
    """Replicas by the version that they have loaded; one that fell silent counts for a while."""
    found: dict[str, list[str]] = {}
    for replica in await replicas.known(connection):
        for name in replica.versions:
            found.setdefault(name, []).append(replica.id)
    return found
