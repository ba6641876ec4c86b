"""The versions of the registry that stand on the base served here, and their verified files."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Row, select
from sqlalchemy.ext.asyncio import AsyncConnection

from learnback.contracts.models import VersionKind, VersionState
from learnback.core.errors import LearnbackError
from learnback.inference.dialects import VLLM, Dialect
from learnback.inference.errors import VersionUnavailable
from learnback.inference.routing import Servable
from learnback.ledger.tables import model_versions
from learnback.models.strategy import Strategy, problem_with
from learnback.registry.artifacts import ArtifactStore

SERVED_KINDS = (VersionKind.BASE, VersionKind.ADAPTER, VersionKind.PROMPT)
BAD_NAMES = ("/", "\\", "..")
"""No version name has these; one that does would be a path in some engine."""


@dataclass(frozen=True)
class Base:
    """The base model served here."""

    name: str
    """Its version name."""
    model: str
    """Folder or hub name of its weights."""
    digest: str
    engine_model: str
    """The model name under which the engine knows it."""
    dialect: Dialect = VLLM

    def engine_adapter(self, name: str) -> str:
        """The model name under which the engine answers for an adapter."""
        return self.dialect.adapter_model.format(base=self.engine_model, adapter=name)


@dataclass(frozen=True)
class Artifact:
    """A version's files in the artifact store: an adapter, or an example bank."""

    name: str
    path: str
    digest: str
    kind: VersionKind = VersionKind.ADAPTER


def _columns() -> list[Any]:
    c = model_versions.c
    return [
        *(c.name, c.kind, c.state, c.parent, c.artifact, c.artifact_digest, c.config),
        c.created_at,
    ]


async def read_versions(connection: AsyncConnection, base: Base) -> list[Row[Any]]:
    """The rows of all versions on this base that nobody has refused or deleted."""
    query = select(*_columns()).where(
        model_versions.c.base_digest == base.digest,
        model_versions.c.kind.in_(SERVED_KINDS),
        model_versions.c.state != VersionState.REFUSED,
        model_versions.c.deleted.is_(False),
    )
    return list((await connection.execute(query)).all())


async def read_adapter(connection: AsyncConnection, name: str, digest: str) -> Artifact | None:
    """The files of the adapter called `name` on the base with `digest`; None if there is none."""
    query = select(*_columns()).where(
        model_versions.c.name == name,
        model_versions.c.kind == VersionKind.ADAPTER,
        model_versions.c.base_digest == digest,
        model_versions.c.state != VersionState.REFUSED,
        model_versions.c.deleted.is_(False),
    )
    row = (await connection.execute(query)).first()
    return None if row is None else artifact_of(row)


def artifact_of(row: Row[Any]) -> Artifact | None:
    """The files of an adapter or an example bank; None where the registry names none."""
    kind = VersionKind(row.kind)
    if kind is VersionKind.BASE or not row.artifact or not row.artifact_digest:
        return None
    if any(part in row.name for part in BAD_NAMES):
        return None
    return Artifact(row.name, row.artifact, row.artifact_digest, kind)


def artifacts_of(rows: Iterable[Row[Any]]) -> dict[str, Artifact]:
    """The files of all versions that have some here."""
    return {row.name: found for row in rows if (found := artifact_of(row))}


def servables(rows: Iterable[Row[Any]], base: Base) -> dict[str, Servable]:
    """The versions as routing sees them."""
    by_name = {row.name: row for row in rows}
    return {name: _servable(row, by_name, base) for name, row in by_name.items()}


def _servable(row: Row[Any], by_name: dict[str, Row[Any]], base: Base) -> Servable:
    created = int(row.created_at.timestamp())
    kind = VersionKind(row.kind)
    if kind is VersionKind.BASE:
        return Servable(row.name, kind, base.engine_model, created=created)
    if kind is VersionKind.ADAPTER:
        missing = None if artifact_of(row) else "the registry names no files for it"
        return Servable(
            row.name,
            kind,
            base.engine_adapter(row.name),
            needs=(row.name,),
            problem=missing,
            created=created,
        )
    adapter = row.parent if _is_adapter(by_name.get(row.parent or "")) else None
    problem = _problem_of_prompt(row, by_name)
    strategy = None if problem else Strategy.model_validate(row.config)
    bank = row.name if strategy is not None and strategy.bank else None
    return Servable(
        row.name,
        kind,
        base.engine_adapter(adapter) if adapter else base.engine_model,
        needs=tuple(name for name in (adapter, bank) if name),
        strategy=strategy,
        problem=problem,
        created=created,
    )


def _problem_of_prompt(row: Row[Any], by_name: dict[str, Row[Any]]) -> str | None:
    """Why a prompt version can't be served, before its files are looked at."""
    if row.parent and row.parent not in by_name:
        return f"its parent {row.parent!r} can't be served here"
    problem = problem_with(row.config)
    if problem is None and row.config.get("bank"):
        found = artifact_of(row)
        if found is None:
            return "the registry names no files for it"
        if found.digest != row.config["bank"]:
            return "its configuration names another example bank than the registry"
    return problem


def fallback(earlier: Iterable[str], rows: Iterable[Row[Any]]) -> str | None:
    """What a rollback goes back to: the last version that was stable before (`earlier`, the latest
    first) and that nobody found fault with, if it stands on this base."""
    good = {row.name for row in rows if row.state == VersionState.PROMOTED}
    return next((name for name in earlier if name in good), None)


def _is_adapter(row: Row[Any] | None) -> bool:
    return row is not None and row.kind == VersionKind.ADAPTER


async def fetch(store: ArtifactStore, artifact: Artifact, cache: Path) -> Path:
    """A local copy with the right digest; VersionUnavailable says why there is none."""
    try:
        return await asyncio.to_thread(store.fetch, artifact.path, artifact.digest, cache)
    except (LearnbackError, OSError, ValueError) as error:
        raise VersionUnavailable(
            f"The version {artifact.name!r} can't be served: {error}", field="model"
        ) from error
