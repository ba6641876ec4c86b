"""Collects garbage from time to time, in whichever release process acts."""

from __future__ import annotations

import asyncio
import logging

from learnback.core.errors import LearnbackError
from learnback.ledger.database import Database
from learnback.registry import garbage
from learnback.registry.artifacts import ArtifactStore
from learnback.registry.settings import RetentionSettings
from learnback.release import metrics
from learnback.release.leadership import Leadership

log = logging.getLogger(__name__)


class Collector:
    """One pass every `retention.every`; two at once would do no harm, and twice the work."""

    def __init__(
        self,
        database: Database,
        artifacts: ArtifactStore,
        leadership: Leadership,
        retention: RetentionSettings,
    ) -> None:
        self.database = database
        self.artifacts = artifacts
        self.leadership = leadership
        self.retention = retention

    async def run_forever(self) -> None:
        """Wait, collect, wait again. Ends by cancellation."""
        pause = self.retention.every.total_seconds()
        while pause > 0:
            await asyncio.sleep(pause)
            if self.leadership.lease is not None:
                await self.collect()
        await asyncio.Event().wait()

    async def collect(self) -> None:
        """One pass, counted; what failed is tried again by the next."""
        try:
            found = await garbage.collect(self.database, self.artifacts, self.retention)
        except (LearnbackError, OSError) as error:
            metrics.COLLECTION_FAILURES.inc()
            log.warning("collecting again later: %s", error)
            return
        metrics.COLLECTED.labels("marked").inc(len(found.marked))
        metrics.COLLECTED.labels("removed").inc(len(found.removed))
        metrics.COLLECTED.labels("abandoned").inc(len(found.abandoned))
