"""The canary's state machine: load, look, advance, promote, roll back, wait for a person.

Where a canary stands is one row of `releases` and the alias `candidate`. Each transition is one
transaction that checks the lease, the row's revision and both aliases, and writes the look, the
row, the aliases and the version's state together. So whoever is killed leaves a whole state, and a
successor goes on from it.
"""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from learnback.contracts.models import Alias, VersionState
from learnback.core.clock import now
from learnback.ledger import releases
from learnback.ledger.database import Database
from learnback.ledger.releases import Look, Release
from learnback.ledger.replicas import Loaded
from learnback.registry import store
from learnback.release import loading, metrics
from learnback.release.canary import (
    CanaryVerdict,
    Decision,
    Standing,
    decide,
    safe_at_deadline,
)
from learnback.release.leadership import Leadership
from learnback.release.looking import Looker
from learnback.release.operations import (
    GATE,
    compared_with,
    end_watch,
    end_way,
    passed_reason,
    promote_in,
    withdraw_candidate,
)
from learnback.release.plans import SETTLE, Plan, Sight
from learnback.release.policy import CanaryPolicy, OnDeadline, OnNotLoaded, Step

log = logging.getLogger(__name__)

CANARY = "canary"
"""Actor of the canary's moves."""


class Rollout:
    """Runs one canary at a time."""

    def __init__(
        self, database: Database, leadership: Leadership, *, settle: timedelta = SETTLE
    ) -> None:
        self.database = database
        self.leadership = leadership
        self.looker = Looker(database, leadership, settle)

    async def begin(self, version: str, policy: CanaryPolicy) -> bool:
        """Have the replicas load a version that passed; False if that is not due (any more)."""
        async with self.leadership.write() as connection:
            wanted = await store.get(connection, version)
            way = await releases.find(connection, version, lock=True)
            serving = await store.release(connection)
            if wanted.state is not VersionState.PASSED or way.awaiting_step is not None:
                return False
            if compared_with(wanted) != serving.stable.version:
                await store.set_state(connection, version, VersionState.REGISTERED)
                log.info("%s is judged again: stable is %s", version, serving.stable.version)
                return False
            plan = Plan(
                policy=policy,
                stable=serving.stable.version or "",
                stable_revision=serving.stable.revision,
            )
            await end_watch(connection, serving.stable.version)
            await loading.begin(connection, version, plan, serving, CANARY)
        log.info("%s: replicas load it", version)
        return True

    async def load(self, version: str) -> Loaded | None:
        """Give a version its first people once all replicas have it; None if that is not due."""
        async with self.leadership.write() as connection:
            way = await releases.find(connection, version, lock=True)
            if not way.loading:
                return None
            plan = Plan.model_validate(way.plan)
            serving = await store.release(connection)
            broken = _interfered(version, plan, serving)
            if broken:
                await self._stop(connection, version, broken)
                return None
            found = await loading.loaded(connection, version)
            if found.everywhere:
                await self._start(connection, way, plan.policy, serving)
            elif loading.overdue(way, plan.policy):
                await self._give_up(connection, version, plan.policy, found)
        metrics.WAITING_REPLICAS.set(len(found.missing))
        log.info("%s: %s", version, found)
        return found

    async def _start(
        self,
        connection: AsyncConnection,
        way: Release,
        policy: CanaryPolicy,
        serving: store.Release,
    ) -> None:
        """The first step, which may be everybody."""
        first = policy.steps[0]
        if first.traffic >= 1:
            wanted = await store.get(connection, way.version)
            await promote_in(connection, way.version, GATE, passed_reason(wanted))
            return
        at = now()
        await releases.change(connection, way.version, step=0, step_since=at, canary_since=at)
        await store.move_alias(
            connection,
            Alias.CANDIDATE,
            way.version,
            expected_revision=serving.candidate.revision,
            actor=CANARY,
            reason=f"canary at {first.shown}",
            weight=first.traffic,
            mirror=first.mirror,
        )

    async def _give_up(
        self, connection: AsyncConnection, version: str, policy: CanaryPolicy, found: Loaded
    ) -> None:
        if policy.on_not_loaded is OnNotLoaded.ROLL_BACK:
            log.warning("%s: nobody got it: %s after %s", version, found, policy.load_within)
            await roll_back(connection, version, f"{found} after {policy.load_within}")

    async def look(self, version: str, way: Release) -> Look | None:
        """One look with its consequences; None if the canary changed meanwhile."""
        plan = Plan.model_validate(way.plan)
        since, step_since = way.canary_since, way.step_since
        assert since is not None and step_since is not None  # noqa: S101, PT018  # a canary runs
        number = way.step or 0
        step = plan.policy.steps[number]
        sight = await self.looker.see(version, plan, since, step, step_since)
        decision = decide(sight.measured, _standing(way, sight), plan.policy, sight.spells)
        async with self.leadership.write() as connection:
            current = await releases.find(connection, version, lock=True)
            if current.revision != way.revision and not _only_approved(way, current):
                return None
            serving = await store.release(connection)
            broken = _interfered(version, plan, serving)
            if broken:
                await self._stop(connection, version, broken)
                return None
            decision = loading.held_back(decision, await loading.loaded(connection, version))
            look = await self.looker.keep(
                connection, version, number, step.traffic, sight, decision
            )
            await self._act(connection, current, plan, sight, decision)
        metrics.LOOKS.labels(decision.verdict).inc()
        log.info("%s: %s: %s", version, decision.verdict, decision.reason)
        return look

    async def _act(
        self,
        connection: AsyncConnection,
        way: Release,
        plan: Plan,
        sight: Sight,
        decision: Decision,
    ) -> None:
        if decision.verdict is CanaryVerdict.ROLL_BACK:
            seen = f"{decision.reason}; {sight.exposed} people had got it"
            await roll_back(connection, way.version, seen)
        elif decision.verdict in (CanaryVerdict.ADVANCE, CanaryVerdict.PROMOTE):
            await self._onward(connection, way, plan, decision)
        elif decision.verdict is CanaryVerdict.INCONCLUSIVE:
            await self._conclude(connection, way, plan, sight, decision)

    async def _onward(
        self, connection: AsyncConnection, way: Release, plan: Plan, decision: Decision
    ) -> None:
        """To the next step, if nobody has to approve it first."""
        following = (way.step or 0) + 1
        promotes = decision.verdict is CanaryVerdict.PROMOTE
        last = len(plan.policy.steps) - 1 if promotes else following
        asks = _unapproved(way, plan.policy, last)
        if asks is not None:
            await self._await(connection, way, asks)
        elif promotes:
            kept = plan.policy.holdback if plan.policy.watches_after else 0.0
            await promote_in(connection, way.version, CANARY, decision.reason, kept)
        else:
            step = plan.policy.steps[following]
            await self._advance(connection, way, following, step, decision.reason)

    async def _advance(
        self, connection: AsyncConnection, way: Release, number: int, step: Step, reason: str
    ) -> None:
        candidate = await store.alias_state(connection, Alias.CANDIDATE)
        await releases.change(
            connection, way.version, step=number, step_since=now(), awaiting_step=None
        )
        await store.move_alias(
            connection,
            Alias.CANDIDATE,
            way.version,
            expected_revision=candidate.revision,
            actor=CANARY,
            reason=reason,
            weight=step.traffic,
            mirror=step.mirror,
        )

    async def _conclude(
        self,
        connection: AsyncConnection,
        way: Release,
        plan: Plan,
        sight: Sight,
        decision: Decision,
    ) -> None:
        """The deadline is over and nothing is proven. A yes from before is one to what was proven
        then, so it counts only where people decide."""
        last = len(plan.policy.steps) - 1
        onward = Decision(CanaryVerdict.PROMOTE, decision.reason)
        if plan.policy.on_deadline is OnDeadline.HOLD:
            asks = _unapproved(way, plan.policy, last, always=True)
            if asks is not None:
                await self._await(connection, way, asks)
                return
        elif not safe_at_deadline(sight.measured, _standing(way, sight), plan.policy):
            await roll_back(connection, way.version, decision.reason)
            return
        if (await loading.loaded(connection, way.version)).everywhere:
            await self._onward(connection, way, plan, onward)

    async def _await(self, connection: AsyncConnection, way: Release, step: int) -> None:
        if way.awaiting_step != step:
            await releases.change(connection, way.version, awaiting_step=step)

    async def _stop(self, connection: AsyncConnection, version: str, why: str) -> None:
        """Somebody moved an alias by hand: what is measured no longer compares these two."""
        await withdraw_candidate(connection, CANARY, why)
        await store.set_state(
            connection, version, VersionState.REGISTERED, expected=VersionState.PASSED
        )
        await end_way(connection, version)
        log.warning("%s: the canary ends and it is judged again: %s", version, why)


def running(versions: list[store.ModelVersion], ways: dict[str, Release]) -> Release | None:
    """The canary that runs, if one does."""
    for version in versions:
        way = ways.get(version.name)
        if way is None or way.ended_at is not None or version.state is not VersionState.PASSED:
            continue
        if way.canary_since is not None or way.loading:
            return way
    return None


async def roll_back(connection: AsyncConnection, version: str, reason: str) -> None:
    """Nobody gets the candidate any more, and it is marked."""
    await withdraw_candidate(connection, CANARY, f"rolled back: {reason}")
    await store.set_state(connection, version, VersionState.ROLLED_BACK)
    await end_way(connection, version)
    metrics.PROMOTIONS.labels("rollback").inc()


def _standing(way: Release, sight: Sight) -> Standing:
    at = now()
    return Standing(
        step=way.step or 0,
        at_step=at - (way.step_since or at),
        in_canary=at - (way.canary_since or at),
        people_at_step=sight.people_at_step,
    )


def _only_approved(before: Release, after: Release) -> bool:
    """An approval that came while we looked changes nothing of what we saw."""
    ignored = {"revision", "approvals", "awaiting_step"}
    one: dict[str, Any] = before.model_dump(exclude=ignored)
    return one == after.model_dump(exclude=ignored)


def _unapproved(
    way: Release, policy: CanaryPolicy, last: int, *, always: bool = False
) -> int | None:
    """The first step up to `last` that waits for a person's yes; `always`: the last one does."""
    for number in range((way.step or 0) + 1, last + 1):
        asks = policy.steps[number].approval == "manual" or (always and number == last)
        if asks and not _approved(way, number):
            return number
    return None


def _approved(way: Release, step: int) -> bool:
    since = way.canary_since
    return any(
        one.approved and one.step == step and (since is None or one.at >= since)
        for one in way.approvals
    )


def _interfered(version: str, plan: Plan, serving: store.Release) -> str | None:
    if serving.candidate.version != version:
        return f"the candidate is {serving.candidate.version} by now"
    if (serving.stable.version, serving.stable.revision) != (plan.stable, plan.stable_revision):
        return f"stable is {serving.stable.version} by now"
    return None
