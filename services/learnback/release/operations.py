"""Moving the stable alias: by the gate, by an operator, and back."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from redis.asyncio import Redis
from redis.exceptions import RedisError
from sqlalchemy.ext.asyncio import AsyncConnection

from learnback.contracts.messages import ReleaseChanged
from learnback.contracts.models import Alias, VersionKind, VersionState
from learnback.contracts.streams import RELEASES
from learnback.core.bus import publish
from learnback.core.clock import now
from learnback.core.errors import Conflict, Unprocessable
from learnback.ledger import releases
from learnback.ledger.database import Database
from learnback.registry import store
from learnback.release import metrics

log = logging.getLogger(__name__)

GATE = "gate"
"""Actor of promotions that nothing but the gate decided."""
SERVABLE = frozenset({VersionKind.BASE, VersionKind.ADAPTER, VersionKind.PROMPT})


async def promote(
    database: Database,
    redis: Redis,
    version: str,
    actor: str,
    reason: str,
    force: bool = False,
    expected_revision: int | None = None,
) -> store.AliasState:
    """Let `version` answer everybody, as soon as all replicas have it; with `force` each replica
    that has it need not wait for the others. Promoting what is stable already changes nothing, but
    for `force` where replicas wait.

    Raises NotFound; Unprocessable for what can't answer (a reward model); Conflict if the gate did
    not pass it and `force` is not set, or if the alias moved since `expected_revision`.
    """
    async with database.write() as connection:
        wanted = await store.get(connection, version)
        check_servable(wanted)
        await _lock_candidate(connection)
        before = await store.alias_state(connection, Alias.STABLE)
        if before.version == version and not (force and before.patient):
            return before
        if not force:
            _check_passed(wanted)
        said = _with_force(reason, force)
        moved = await _move(
            connection, version, before, actor, said, expected_revision, patient=not force
        )
        taken = await _end_canary(connection, version, actor, f"{version} was promoted: {reason}")
        await store.set_state(connection, version, VersionState.PROMOTED, approved_by=actor)
        await end_way(connection, version)
    metrics.PROMOTIONS.labels("operator").inc()
    await announce_or_log(redis, [moved, *taken])
    return moved


async def rollback(
    database: Database,
    redis: Redis,
    actor: str,
    reason: str,
    to: str | None = None,
    expected_revision: int | None = None,
) -> store.AliasState:
    """Take the newest change back: the candidate of a canary, else the stable version, though some
    people still have the one before it.

    Then the stable version before this one answers again. What is left is marked rolled back.
    `to` names any version that was stable before, and ends a canary too. Raises Conflict if there
    is none to go back to.
    """
    async with database.write() as connection:
        held_back = await watched(connection, lock=True) is not None
        candidate = await _lock_candidate(connection)
        before = await store.alias_state(connection, Alias.STABLE)
        if candidate.version is not None and to is None and not held_back:
            moved = await _take_candidate(connection, candidate, actor, reason)
            taken: list[store.AliasState] = []
        else:
            moved, taken = await _go_back(connection, before, to, actor, reason, expected_revision)
    metrics.PROMOTIONS.labels("rollback").inc()
    await announce_or_log(redis, [moved, *taken])
    return moved


async def history(
    database: Database, alias: Alias = Alias.STABLE, limit: int = 100
) -> list[store.AliasMove]:
    """The moves of an alias, newest first."""
    async with database.read() as connection:
        return await store.history(connection, alias, limit)


async def promote_in(
    connection: AsyncConnection, version: str, actor: str, reason: str, holdback: float = 0.0
) -> None:
    """Let `version` answer everybody, but a share of people who keep what was stable before."""
    wanted = await store.get(connection, version)
    before = await store.alias_state(connection, Alias.STABLE)
    if before.version != version:
        await _move(connection, version, before, actor, reason, None)
        metrics.PROMOTIONS.labels(actor).inc()
    await end_way(connection, version)
    if holdback and before.version not in (None, version):
        await _hold_back(connection, before.version, holdback, actor)
        await releases.change(connection, version, watched_since=now(), ended_at=None)
    else:
        await withdraw_candidate(connection, actor, f"{version} is stable")
    await store.set_state(
        connection, version, VersionState.PROMOTED, approved_by=wanted.approved_by or actor
    )
    log.info("%s is stable", version)


async def _hold_back(
    connection: AsyncConnection, version: str | None, share: float, actor: str
) -> None:
    candidate = await store.alias_state(connection, Alias.CANDIDATE)
    await store.move_alias(
        connection,
        Alias.CANDIDATE,
        version,
        expected_revision=candidate.revision,
        actor=actor,
        reason=f"{share:.0%} of people keep it for a while, to compare with",
        weight=share,
    )


async def watched(connection: AsyncConnection, *, lock: bool = False) -> releases.Release | None:
    """The stable version's way, while some people still have the version before it."""
    stable = (await store.alias_state(connection, Alias.STABLE)).version
    if stable is None:
        return None
    way = await releases.find(connection, stable)
    if way.watched and lock:
        way = await releases.find(connection, stable, lock=True)
    return way if way.watched else None


async def take_back(connection: AsyncConnection, actor: str, reason: str) -> store.AliasState:
    """Let the version before answer everybody again: what was promoted is at fault."""
    before = await store.alias_state(connection, Alias.STABLE)
    moved, _ = await _go_back(connection, before, None, actor, reason, None)
    metrics.PROMOTIONS.labels("rollback").inc()
    return moved


async def withdraw_candidate(
    connection: AsyncConnection, actor: str, reason: str
) -> store.AliasState | None:
    """The candidate gets nobody any more; None if there was none."""
    before = await store.alias_state(connection, Alias.CANDIDATE)
    if before.version is None:
        return None
    return await store.move_alias(
        connection,
        Alias.CANDIDATE,
        None,
        expected_revision=before.revision,
        actor=actor,
        reason=reason,
        weight=0.0,
    )


async def _lock_candidate(connection: AsyncConnection) -> store.AliasState:
    """The candidate, whose canary does not move until this transaction ends.

    Its row before the aliases, as the controller does: else each may wait for the other.
    """
    seen = await store.alias_state(connection, Alias.CANDIDATE)
    if seen.version is None:
        return seen
    await releases.find(connection, seen.version, lock=True)
    return await store.alias_state(connection, Alias.CANDIDATE)


async def _end_canary(
    connection: AsyncConnection, promoted: str | None, actor: str, reason: str
) -> list[store.AliasState]:
    """A canary compares with the stable version: when that moves by hand, it is judged again."""
    before = await store.alias_state(connection, Alias.CANDIDATE)
    moved = await withdraw_candidate(connection, actor, reason)
    if moved is None or before.version is None:
        return []
    if before.version != promoted:
        await store.set_state(
            connection, before.version, VersionState.REGISTERED, expected=VersionState.PASSED
        )
        await end_way(connection, before.version)
    return [moved]


async def _go_back(
    connection: AsyncConnection,
    before: store.AliasState,
    to: str | None,
    actor: str,
    reason: str,
    expected_revision: int | None,
) -> tuple[store.AliasState, list[store.AliasState]]:
    """Stable moves back, and a canary ends since it was compared with what is left."""
    target = await _target(connection, before, to)
    said = f"rollback: {reason}"
    moved = await _move(connection, target, before, actor, said, expected_revision)
    taken = await _end_canary(connection, None, actor, said)
    if before.version is not None:
        await _mark_left(connection, before.version)
    await store.set_state(connection, target, VersionState.PROMOTED)
    return moved, taken


async def _take_candidate(
    connection: AsyncConnection,
    candidate: store.AliasState,
    actor: str,
    reason: str,
) -> store.AliasState:
    version = candidate.version or ""
    moved = await withdraw_candidate(connection, actor, f"rollback: {reason}")
    await store.set_state(connection, version, VersionState.ROLLED_BACK)
    await end_way(connection, version)
    assert moved is not None  # noqa: S101  # there is a candidate
    return moved


async def end_watch(connection: AsyncConnection, version: str | None) -> None:
    """Nobody compares this version with the one before it any more."""
    if version is not None and (await releases.find(connection, version)).watched:
        await end_way(connection, version)


async def end_way(connection: AsyncConnection, version: str) -> None:
    """It is decided: the version waits for nothing any more."""
    await releases.change(
        connection, version, evaluating_since=None, awaiting_step=None, ended_at=now()
    )


def compared_with(version: store.ModelVersion) -> str | None:
    """The version that the gate compared it with."""
    evaluation = (version.gate_report or {}).get("evaluation") or {}
    found = evaluation.get("stable")
    return str(found) if found else None


def passed_reason(version: store.ModelVersion) -> str:
    """One sentence for the history."""
    evaluation = (version.gate_report or {}).get("evaluation") or {}
    rate = evaluation.get("win_rate") or {}
    if not rate:
        return "passed the gate"
    return (
        f"passed the gate: win rate {rate['rate']:.3f} [{rate['low']:.3f}, {rate['high']:.3f}] "
        f"on {rate['n']} held-out prompts against {evaluation.get('stable')}"
    )


async def announce(redis: Redis, states: Sequence[store.AliasState]) -> None:
    """Publish `ReleaseChanged` for aliases that have moved at least once."""
    moved = [state for state in states if state.revision > 0]
    at = now()
    await publish(
        redis,
        RELEASES,
        [
            ReleaseChanged(alias=s.alias, version=s.version, revision=s.revision, at=at)
            for s in moved
        ],
    )


async def announce_or_log(redis: Redis, states: Sequence[store.AliasState]) -> None:
    """The alias has moved, whatever Redis does: the release process announces it again."""
    try:
        await announce(redis, states)
    except (RedisError, OSError) as error:
        log.warning("moved, but not announced yet: %s", error)


async def _move(
    connection: AsyncConnection,
    version: str,
    before: store.AliasState,
    actor: str,
    reason: str,
    expected_revision: int | None,
    *,
    patient: bool = False,
) -> store.AliasState:
    expected = before.revision if expected_revision is None else expected_revision
    await end_watch(connection, before.version)
    return await store.move_alias(
        connection,
        Alias.STABLE,
        version,
        expected_revision=expected,
        actor=actor,
        reason=reason,
        patient=patient,
    )


def check_servable(version: store.ModelVersion) -> None:
    """Raises Unprocessable for what can't answer people."""
    if version.kind is VersionKind.MODEL:
        raise Unprocessable(
            f"{version.name} has weights of its own and is no adapter: start an engine with them.",
            field="version",
        )
    if version.kind not in SERVABLE:
        raise Unprocessable(
            f"{version.name} is a {version.kind.replace('_', ' ')}: it scores answers and can't "
            "give any.",
            field="version",
        )


def _check_passed(version: store.ModelVersion) -> None:
    if version.state in {VersionState.PASSED, VersionState.PROMOTED}:
        return
    reasons = "; ".join((version.gate_report or {}).get("reasons", []))
    why = {
        VersionState.REGISTERED: "the gate has not judged it yet",
        VersionState.REFUSED: f"the gate refused it: {reasons or 'no reason is recorded'}",
        VersionState.ROLLED_BACK: "it was rolled back",
    }[version.state]
    raise Conflict(f"{version.name} is not promoted: {why}. `force` overrides.", field="version")


def _with_force(reason: str, force: bool) -> str:
    return f"forced: {reason}" if force else reason


async def _target(connection: AsyncConnection, before: store.AliasState, to: str | None) -> str:
    """The version to go back to: `to`, else the last stable one that nobody found fault with."""
    earlier = await store.earlier(connection, before.version)
    if to is not None:
        if to not in earlier:
            raise Conflict(
                f"{to} was not stable before {before.version}; to serve it, promote it.", field="to"
            )
        return to
    for name in earlier:
        found = await store.find(connection, name)
        if found is not None and found.state is VersionState.PROMOTED and not found.deleted:
            return name
    raise Conflict(f"There is no stable version before {before.version} to go back to.")


async def _mark_left(connection: AsyncConnection, name: str) -> None:
    """The base can't be at fault: it stays what one can always go back to."""
    left = await store.get(connection, name)
    if left.kind is not VersionKind.BASE:
        await store.set_state(connection, name, VersionState.ROLLED_BACK)
