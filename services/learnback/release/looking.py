"""One look: what was seen of a version, and what is written of it. For canaries, and after them."""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncConnection

from learnback.core.clock import now
from learnback.ledger import releases
from learnback.ledger.database import Database
from learnback.ledger.releases import Look
from learnback.release.canary import Decision
from learnback.release.leadership import Leadership
from learnback.release.plans import Plan, Sight
from learnback.release.policy import Step
from learnback.release.watching import Watch


class Looker:
    """Looks at one version after the other, and goes on from what it has read of one."""

    def __init__(self, database: Database, leadership: Leadership, settle: timedelta) -> None:
        self.database = database
        self.leadership = leadership
        self.settle = settle
        self._watch: Watch | None = None

    async def see(
        self, version: str, plan: Plan, since: datetime, step: Step, step_since: datetime
    ) -> Sight:
        """Read on and measure what came since `since`."""
        if self._watch is None or (self._watch.version, self._watch.since) != (version, since):
            self._watch = Watch(version, plan, since, settle=self.settle)
        watch, self._watch = self._watch, None  # what broke off half-way is read anew
        sight = await watch.look(self.database, step, step_since)
        self._watch = watch
        return sight

    def forget(self) -> None:
        """Nothing is watched any more."""
        self._watch = None

    async def keep(
        self,
        connection: AsyncConnection,
        version: str,
        step: int,
        weight: float,
        sight: Sight,
        decision: Decision,
    ) -> Look:
        """Write the look into the ledger; `weight`: the share of people at `step`."""
        look = Look(
            version=version,
            number=await releases.next_look(connection, version),
            at=now(),
            step=step,
            weight=weight,
            verdict=decision.verdict,
            reason=decision.reason,
            measured=sight.as_json(),
            token=self.leadership.token,
        )
        return await releases.keep_look(connection, look)
