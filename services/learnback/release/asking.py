"""What people ask of the release process: take this version next; let it take its next step."""

from __future__ import annotations

import logging
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from learnback.contracts.models import Alias, VersionState
from learnback.core.clock import now
from learnback.core.errors import Conflict
from learnback.ledger import releases
from learnback.ledger.database import Database
from learnback.ledger.releases import Approval, Release
from learnback.registry import store
from learnback.release.gate import refused
from learnback.release.operations import check_servable, end_way

log = logging.getLogger(__name__)

REOPENED = frozenset({VersionState.REFUSED, VersionState.ROLLED_BACK, VersionState.PROMOTED})
"""Judged before: being asked for again means being judged again, against what is stable now."""


async def ask(database: Database, version: str, actor: str, reason: str) -> None:
    """Ask for evaluation and canary of `version`, before all versions that nobody asked for.

    Asking again for what is on its way already changes only who asked last. Raises NotFound;
    Unprocessable for what can't answer people; Conflict for what is stable now or was collected.
    """
    async with database.write() as connection:
        wanted = await store.hold(connection, version)
        check_servable(wanted)
        if (await store.alias_state(connection, Alias.STABLE)).version == version:
            raise Conflict(f"{version} answers everybody already.", field="version")
        values: dict[str, Any] = {"asked_at": now(), "asked_by": actor, "asked_reason": reason}
        if wanted.state in REOPENED:
            await store.set_state(connection, version, VersionState.REGISTERED)
            values |= dict.fromkeys((*releases.PROGRESS, "ended_at"))
        await releases.change(connection, version, **values)


async def approve(
    database: Database,
    version: str,
    actor: str,
    reason: str,
    *,
    approved: bool,
    expected_revision: int | None = None,
) -> None:
    """Let `version` take the step that it waits for, or refuse it for good.

    Raises NotFound; Conflict if it waits for nobody, or if its release is not at
    `expected_revision`.
    """
    async with database.write() as connection:
        wanted = await store.get(connection, version)
        release = await _waiting(connection, version, expected_revision)
        step = release.awaiting_step or 0
        said = Approval(step=step, approved=approved, by=actor, reason=reason, at=now())
        await releases.approve(connection, release, said)
        if approved:
            await store.set_state(connection, version, wanted.state, approved_by=actor)
        else:
            await _turn_down(connection, wanted, said)
    log.info("%s: step %s %s by %s", version, step, "approved" if approved else "refused", actor)


async def _waiting(
    connection: AsyncConnection, version: str, expected_revision: int | None
) -> Release:
    release = await releases.find(connection, version, lock=True)
    if expected_revision is not None and release.revision != expected_revision:
        raise Conflict(
            f"{version} changed meanwhile (revision {release.revision}, expected "
            f"{expected_revision}). Read it again and decide anew.",
            field="expected_revision",
        )
    if release.awaiting_step is None:
        raise Conflict(f"{version} does not wait for an approval.")
    return release


async def _turn_down(
    connection: AsyncConnection, version: store.ModelVersion, said: Approval
) -> None:
    """A person's no is a refusal; the gate's measurements stay in the report."""
    report = refused(f"{said.by} did not approve step {said.step}: {said.reason}").as_json()
    kept = {**(version.gate_report or {}), **{k: report[k] for k in ("verdict", "reasons")}}
    candidate = await store.alias_state(connection, Alias.CANDIDATE)
    if candidate.version == version.name:
        await store.move_alias(
            connection,
            Alias.CANDIDATE,
            None,
            expected_revision=candidate.revision,
            actor=said.by,
            reason=f"not approved: {said.reason}",
            weight=0.0,
        )
    await store.set_state(connection, version.name, VersionState.REFUSED, gate_report=kept)
    await end_way(connection, version.name)
