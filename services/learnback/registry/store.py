"""Model versions and aliases. A version never changes under its name; an alias moves by
compare-and-set, and every move is kept."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict
from sqlalchemy import insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from learnback import __version__
from learnback.contracts.models import Alias, VersionKind, VersionState
from learnback.core.clock import now
from learnback.core.errors import Conflict, NotFound
from learnback.ledger.tables import alias_history, aliases, model_versions


class ModelVersion(BaseModel):
    """A model version with its lineage: what it was made of, by whom, and how it was judged."""

    model_config = ConfigDict(frozen=True, from_attributes=True, protected_namespaces=())

    name: str
    kind: VersionKind
    state: VersionState = VersionState.REGISTERED
    base: str
    """Path or hub name of the base model's weights."""
    base_digest: str
    parent: str | None = None
    artifact: str | None = None
    """Where the files are, relative to the artifact root; None for a base."""
    artifact_digest: str | None = None
    run_id: str | None = None
    dataset_fingerprint: str | None = None
    reward_model: str | None = None
    config: dict[str, Any] = {}
    seed: int | None = None
    code_version: str
    metrics: dict[str, Any] = {}
    gate_report: dict[str, Any] | None = None
    approved_by: str | None = None
    created_at: datetime
    changed_at: datetime
    deleted: bool = False
    """Its files were collected, or are about to be; what it was stays known."""


@dataclass(frozen=True)
class AliasState:
    """What an alias names now; `revision` 0 and no version before its first move."""

    alias: Alias
    version: str | None
    weight: float
    revision: int
    mirror: float = 0.0
    """Share of requests of which the version gets a copy; nobody sees what it answers."""
    patient: bool = False
    """No replica moves to it before all can, however long that takes."""


@dataclass(frozen=True)
class Release:
    """Which versions answer people: the stable one, and a candidate with its share of traffic."""

    stable: AliasState
    candidate: AliasState


def version_name(base: str, method: str, digest: str) -> str:
    """A content-addressed name, such as `smollm2-135m-instruct-dpo-3f9a1c20b7d4`.

    `digest` is the artifact's SHA-256, so other content always has another name.
    """
    stem = re.sub(r"[^a-z0-9.]+", "-", base.rstrip("/").rsplit("/", 1)[-1].lower()).strip("-.")
    return f"{stem[:64]}-{method}-{digest[:12]}"


async def register(connection: AsyncConnection, version: ModelVersion) -> ModelVersion:
    """Add a version. The same name again is the same content, so the first entry stands."""
    existing = await find(connection, version.name)
    if existing is not None:
        return existing
    await connection.execute(insert(model_versions).values(**version.model_dump()))
    return version


async def ensure_base(
    connection: AsyncConnection, model: str, digest: str, *, actor: str
) -> ModelVersion:
    """Register the base model `model` (path or hub name), and serve it if nothing is served yet.

    Idempotent; called by every process that needs a base before the first training.
    """
    at = now()
    version = await register(
        connection,
        ModelVersion(
            name=version_name(model, "base", digest),
            kind=VersionKind.BASE,
            state=VersionState.PROMOTED,
            base=model,
            base_digest=digest,
            code_version=__version__,
            created_at=at,
            changed_at=at,
        ),
    )
    if (await alias_state(connection, Alias.STABLE)).revision == 0:
        await move_alias(
            connection,
            Alias.STABLE,
            version.name,
            expected_revision=0,
            actor=actor,
            reason="the base model: nothing was served before",
        )
    return version


async def find(connection: AsyncConnection, name: str) -> ModelVersion | None:
    """The version called `name`, or None."""
    query = select(model_versions).where(model_versions.c.name == name)
    row = (await connection.execute(query)).first()
    return ModelVersion.model_validate(row) if row else None


async def get(connection: AsyncConnection, name: str) -> ModelVersion:
    """The version called `name`; NotFound if there is none."""
    version = await find(connection, name)
    if version is None:
        raise NotFound(f"There is no model version {name!r}; `learnback status` lists them.")
    return version


async def hold(connection: AsyncConnection, name: str) -> ModelVersion:
    """The version called `name`; until the transaction ends nobody can collect its files.

    Raises NotFound, and Conflict if they were collected.
    """
    query = select(model_versions.c.name).where(model_versions.c.name == name)
    # in the way of collectors only: others who change the row need not wait
    await connection.execute(query.with_for_update(read=True, key_share=True))
    version = await get(connection, name)
    if version.deleted:
        raise Conflict(
            f"The files of {name} were removed by garbage collection, since nobody had used it "
            "for long; train again.",
            field="version",
        )
    return version


async def restore(connection: AsyncConnection, name: str) -> None:
    """Take back that a version is deleted; its files must be put in the same transaction."""
    await connection.execute(
        update(model_versions)
        .where(model_versions.c.name == name)
        .values(deleted=False, changed_at=now())
    )


async def list_versions(
    connection: AsyncConnection, kind: VersionKind | None = None
) -> list[ModelVersion]:
    """All versions, newest first."""
    query = select(model_versions).order_by(
        model_versions.c.created_at.desc(), model_versions.c.name
    )
    if kind is not None:
        query = query.where(model_versions.c.kind == kind)
    return [ModelVersion.model_validate(row) for row in await connection.execute(query)]


async def set_state(
    connection: AsyncConnection,
    name: str,
    state: VersionState,
    *,
    gate_report: dict[str, Any] | None = None,
    approved_by: str | None = None,
    expected: VersionState | None = None,
) -> bool:
    """Say where a version stands; what it is made of never changes.

    With `expected` only if it stands there now: of two who decide, one does. False: it did not.
    """
    values: dict[str, Any] = {"state": state, "changed_at": now()}
    if gate_report is not None:
        values["gate_report"] = gate_report
    if approved_by is not None:
        values["approved_by"] = approved_by
    change = update(model_versions).where(model_versions.c.name == name).values(**values)
    if expected is not None:
        change = change.where(model_versions.c.state == expected)
    return bool((await connection.execute(change)).rowcount)


async def alias_state(connection: AsyncConnection, alias: Alias) -> AliasState:
    """What `alias` names now."""
    query = select(aliases).where(aliases.c.alias == alias)
    row = (await connection.execute(query)).first()
    if row is None:
        return AliasState(alias, None, 0.0, 0)
    return AliasState(alias, row.version, row.weight, row.revision, row.mirror, row.patient)


async def release(connection: AsyncConnection) -> Release:
    """The release as it stands."""
    return Release(
        await alias_state(connection, Alias.STABLE),
        await alias_state(connection, Alias.CANDIDATE),
    )


async def move_alias(
    connection: AsyncConnection,
    alias: Alias,
    version: str | None,
    *,
    expected_revision: int,
    actor: str,
    reason: str,
    weight: float = 1.0,
    mirror: float = 0.0,
    patient: bool = False,
) -> AliasState:
    """Let `alias` name `version`, if nobody moved it since `expected_revision`.

    Raises Conflict otherwise and for a version whose files are gone, and NotFound for an unknown
    one. The move is kept in the history within the same transaction.
    """
    if version is not None:
        await hold(connection, version)
    before = await alias_state(connection, alias)
    moved = AliasState(alias, version, weight, expected_revision + 1, mirror, patient)
    if before.revision != expected_revision or not await _swap(connection, moved):
        raise Conflict(
            f"The alias {alias} was moved meanwhile (revision {before.revision}, "
            f"expected {expected_revision}). Read it again and decide anew.",
            field="expected_revision",
        )
    await connection.execute(
        insert(alias_history).values(
            alias=alias,
            revision=moved.revision,
            version=version,
            previous=before.version,
            weight=weight,
            at=now(),
            actor=actor,
            reason=reason,
            mirror=mirror,
        )
    )
    return moved


async def _swap(connection: AsyncConnection, moved: AliasState) -> bool:
    values = asdict(moved) | {"changed_at": now()}
    alias, expected = values.pop("alias"), moved.revision - 1
    if expected == 0:
        try:
            await connection.execute(insert(aliases).values(alias=alias, **values))
        except IntegrityError:
            return False
        return True
    changed = await connection.execute(
        update(aliases)
        .where(aliases.c.alias == alias, aliases.c.revision == expected)
        .values(**values)
    )
    return bool(changed.rowcount == 1)


@dataclass(frozen=True)
class AliasMove:
    """One line of an alias's history."""

    alias: Alias
    revision: int
    version: str | None
    previous: str | None
    weight: float
    at: datetime
    actor: str
    reason: str
    mirror: float


async def history(
    connection: AsyncConnection, alias: Alias = Alias.STABLE, limit: int = 100
) -> list[AliasMove]:
    """The moves of an alias, newest first."""
    query = (
        select(alias_history)
        .where(alias_history.c.alias == alias)
        .order_by(alias_history.c.revision.desc())
        .limit(limit)
    )
    return [AliasMove(Alias(row.alias), *row[1:]) for row in await connection.execute(query)]


async def earlier(connection: AsyncConnection, current: str | None) -> list[str]:
    """What was stable before `current`, the latest first; each once."""
    moves = await history(connection, Alias.STABLE, limit=1000)
    names = (move.previous for move in moves)
    return list(dict.fromkeys(name for name in names if name and name != current))


async def move_at(connection: AsyncConnection, alias: Alias, at: datetime) -> AliasMove | None:
    """The move of an alias that was in force at a moment; None before the first."""
    query = (
        select(alias_history)
        .where(alias_history.c.alias == alias, alias_history.c.at <= at)
        .order_by(alias_history.c.revision.desc())
        .limit(1)
    )
    row = (await connection.execute(query)).first()
    return AliasMove(Alias(row.alias), *row[1:]) if row else None
