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
from learnback.ledger.database import Database
from learnback.ledger.releases import Look, Release
from learnback.registry import store
from learnback.release import metrics
from learnback.release.canary import CanaryVerdict, Decision, decide_after
from learnback.release.leadership import Leadership
from learnback.release.looking import Looker
from learnback.release.operations import end_way, take_back, watched, withdraw_candidate
from learnback.release.plans import SETTLE, Plan
from learnback.release.policy import Step

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
        self.looker = Looker(database, leadership, settle)

    async def look(self) -> Look | None:
        """One look with its consequences; None if nothing is watched (any more)."""
        async with self.database.read() as connection:
            way = await watched(connection)
        if way is None:
            self.looker.forget()
            return None
        plan = Plan.model_validate(way.plan)
        since, step = _since(way), _everybody(plan)
        sight = await self.looker.see(way.version, plan, since, step, since)
        async with self.leadership.write() as connection:
            current = await watched(connection, lock=True)
            if current is None or current.revision != way.revision:
                return None
            if not await _still_compared(connection, plan):
                await end_way(connection, way.version)
                return None
            decision = decide_after(sight.spells, now() - since, plan.policy)
            last = len(plan.policy.steps) - 1
            look = await self.looker.keep(
                connection, way.version, last, step.traffic, sight, decision
            )
            await self._act(connection, way, decision)
        metrics.LOOKS.labels(decision.verdict).inc()
        log.info("%s: %s: %s", way.version, decision.verdict, decision.reason)
        return look

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
