"""After a promotion a few people keep the version before for a while, to compare with.

The alias `candidate` names that version, with the policy's `holdback` as its share, so people are
drawn anew. What goes bad only now, by some span of time (`spans`), is taken back by itself. The
watch ends after `watch_after`, as the next canary begins, or when somebody moves an alias.
"""

from __future__ import annotations

import logging
from datetime import datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncConnection

from learnback.core.clock import now
from learnback.ledger import releases
from learnback.ledger.database import Database
from learnback.ledger.releases import Look, Release
from learnback.registry import store
from learnback.release import metrics
from learnback.release.canary import CanaryVerdict, Decision, decide_after
from learnback.release.leadership import Leadership
from learnback.release.operations import end_way, take_back, watched, withdraw_candidate
from learnback.release.plans import SETTLE, Plan, Sight
from learnback.release.policy import Step
from learnback.release.watching import Watch

log = logging.getLogger(__name__)

AFTER = "aftercare"
"""Actor of moves after a promotion."""


class Aftercare:
    """Watches the version that was promoted last."""

    def __init__(
        self, database: Database, leadership: Leadership, *, settle: timedelta = SETTLE
    ) -> None:
        self.database = database
        self.leadership = leadership
        self.settle = settle
        self._watch: Watch | None = None

    async def look(self) -> Look | None:
        """One look with its consequences; None if nothing is watched (any more)."""
        async with self.database.read() as connection:
            way = await watched(connection)
        if way is None:
            self._watch = None
            return None
        plan = Plan.model_validate(way.plan)
        sight = await self._see(way, plan)
        async with self.leadership.write() as connection:
            current = await watched(connection, lock=True)
            if current is None or current.revision != way.revision:
                return None
            if not await _still_compared(connection, plan):
                await end_way(connection, way.version)
                return None
            decision = decide_after(sight.spells, now() - _since(way), plan.policy)
            look = await self._keep(connection, way, plan, sight, decision)
            await self._act(connection, way, decision)
        metrics.LOOKS.labels(decision.verdict).inc()
        log.info("%s: %s: %s", way.version, decision.verdict, decision.reason)
        return look

    async def _see(self, way: Release, plan: Plan) -> Sight:
        since = _since(way)
        if self._watch is None or (self._watch.version, self._watch.since) != (way.version, since):
            self._watch = Watch(way.version, plan, since, settle=self.settle)
        watch, self._watch = self._watch, None  # what broke off half-way is read anew
        sight = await watch.look(self.database, _everybody(plan), since)
        self._watch = watch
        return sight

    async def _keep(
        self,
        connection: AsyncConnection,
        way: Release,
        plan: Plan,
        sight: Sight,
        decision: Decision,
    ) -> Look:
        look = Look(
            version=way.version,
            number=await releases.next_look(connection, way.version),
            at=now(),
            step=len(plan.policy.steps) - 1,
            weight=_everybody(plan).traffic,
            verdict=decision.verdict,
            reason=decision.reason,
            measured=sight.as_json(),
            token=self.leadership.token,
        )
        return await releases.keep_look(connection, look)

    async def _act(self, connection: AsyncConnection, way: Release, decision: Decision) -> None:
        if decision.verdict is CanaryVerdict.ROLL_BACK:
            await take_back(connection, AFTER, decision.reason)
        elif decision.verdict is CanaryVerdict.PROMOTE:
            await withdraw_candidate(connection, AFTER, decision.reason)
            await end_way(connection, way.version)


def _since(way: Release) -> datetime:
    assert way.watched_since is not None  # noqa: S101  # it is watched
    return way.watched_since


def _everybody(plan: Plan) -> Step:
    return Step(traffic=1 - plan.policy.holdback)


async def _still_compared(connection: AsyncConnection, plan: Plan) -> bool:
    """Whether nobody gave the few people another version by hand."""
    candidate = (await store.release(connection)).candidate
    return candidate.version == plan.stable
