"""A version's whole story, read from the ledger in one transaction."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from learnback.contracts.models import Alias
from learnback.core.errors import NotFound
from learnback.ledger import canaries, releases, replicas, runs
from learnback.ledger.database import Database
from learnback.registry import store
from learnback.release.phases import Phase, phase_of, track_of, weight_of
from learnback.release.schemas import (
    AliasView,
    Looks,
    MoveView,
    Releases,
    ServedAt,
    Story,
    VersionLine,
    earlier,
)

LONGEST_LINE = 100
"""Ancestors that a story lists: a version a day for three months."""
MOVES = 1000


async def list_releases(database: Database, progress: dict[str, dict[str, Any]]) -> Releases:
    """All versions with their phases, newest first; `progress` is of evaluations, by version."""
    async with database.read() as connection:
        serving = await store.release(connection)
        ways = await releases.known(connection)
        versions = await store.list_versions(connection)
        loaded = {
            v.name: await replicas.loaded(connection, v.name, v.base_digest)
            for v in versions
            if _is_loading(v, ways.get(v.name))
        }
    return Releases(
        stable=AliasView.of(serving.stable),
        candidate=AliasView.of(serving.candidate),
        versions=[
            VersionLine.of(
                v,
                ways.get(v.name) or releases.Release(version=v.name),
                serving,
                progress.get(v.name),
                loaded.get(v.name),
            )
            for v in versions
        ],
    )


async def tell(database: Database, version: str, progress: dict[str, Any] | None = None) -> Story:
    """A version's story. Raises NotFound."""
    async with database.read() as connection:
        found = await store.get(connection, version)
        way = await releases.find(connection, version)
        serving = await store.release(connection)
        looks = await releases.looks_of(connection, version)
        report = found.gate_report or {}
        reasons = [looks[-1].reason] if looks else report.get("reasons", [])
        if _is_loading(found, way):
            reasons = [str(await replicas.loaded(connection, version, found.base_digest))]
        return Story(
            version=found,
            phase=phase_of(found.state, way),
            verdict=looks[-1].verdict if looks else report.get("verdict"),
            reasons=reasons,
            track=track_of(version, serving),
            weight=weight_of(version, serving),
            revision=way.revision,
            release=way,
            parents=await _parents(connection, found),
            run=await _run(connection, found.run_id),
            exposed=await _exposed(connection, way),
            looks=looks,
            earlier_looks=earlier(looks),
            history=await _moves(connection, version),
            progress=progress,
        )


async def looks_before(database: Database, version: str, before: int | None, limit: int) -> Looks:
    """Looks at a version's canary before one of them. Raises NotFound."""
    async with database.read() as connection:
        await store.get(connection, version)
        return Looks.of(version, await releases.looks_of(connection, version, limit, before))


async def served_at(database: Database, at: datetime) -> ServedAt:
    """What the aliases named at a moment. Replicas follow within seconds."""
    async with database.read() as connection:
        stable, candidate = [
            await store.move_at(connection, alias, at) for alias in (Alias.STABLE, Alias.CANDIDATE)
        ]
    return ServedAt(
        at=at,
        stable=MoveView.of(stable) if stable else None,
        candidate=MoveView.of(candidate) if candidate and candidate.version else None,
    )


def _is_loading(version: store.ModelVersion, way: releases.Release | None) -> bool:
    return way is not None and phase_of(version.state, way) is Phase.LOADING


async def _parents(connection: AsyncConnection, version: store.ModelVersion) -> list[str]:
    """What it was trained from, the nearest first."""
    found: list[str] = []
    parent = version.parent
    while parent is not None and parent not in found and len(found) < LONGEST_LINE:
        found.append(parent)
        known = await store.find(connection, parent)
        parent = known.parent if known else None
    return found


async def _exposed(connection: AsyncConnection, way: releases.Release) -> int:
    """Counted anew: answers that were under way at a rollback are recorded after it."""
    if way.canary_since is None:
        return 0
    return await canaries.people_with(connection, way.version, way.canary_since)


async def _run(connection: AsyncConnection, run_id: str | None) -> runs.Run | None:
    if run_id is None:
        return None
    try:
        return await runs.get_run(connection, run_id)
    except NotFound:
        return None


async def _moves(connection: AsyncConnection, version: str) -> list[MoveView]:
    moves = [
        move
        for alias in (Alias.STABLE, Alias.CANDIDATE)
        for move in await store.history(connection, alias, MOVES)
        if version in (move.version, move.previous)
    ]
    return [MoveView.of(m) for m in sorted(moves, key=lambda m: m.at, reverse=True)]
