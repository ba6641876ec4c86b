"""Scores old completions for whoever asked in the ledger, beside the scoring of new ones."""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta

from learnback.core.errors import LearnbackError, Unavailable
from learnback.core.ids import new_id
from learnback.ledger import leases, rescoring
from learnback.ledger.database import Database
from learnback.ledger.rescoring import Page, Rescoring
from learnback.reward import metrics
from learnback.reward.scorers.model import CurrentModel, ModelScorer
from learnback.reward.worker import Worker, candidates_of, score

log = logging.getLogger(__name__)

LEASE = "rescoring"
LEASE_TTL = timedelta(seconds=60)
"""Over the time that one page takes; a process that was killed is followed after it."""
PAGE = 64
"""Completions between two notes of how far we are: what a kill repeats."""


class Rescorer:
    """Works wishes off, the oldest first, a page at a step. Of several processes one does."""

    def __init__(self, database: Database, worker: Worker, current: CurrentModel) -> None:
        self.database = database
        self.worker = worker
        self.current = current
        self.holder = new_id("rescorer")
        self._scorer: ModelScorer | None = None

    async def run_forever(self, every: timedelta) -> None:
        """Look for wishes and fulfil them; ends by cancellation."""
        while True:
            try:
                await self.run_until_done()
            except (Unavailable, leases.LeaseLost) as error:
                log.warning("rescoring waits: %s", error)
            await asyncio.sleep(every.total_seconds())

    async def run_until_done(self) -> None:
        """Fulfil every wish there is."""
        while await self.step():
            pass

    async def step(self) -> bool:
        """One page of one wish; False if there is nothing to do here. Raises Unavailable."""
        async with self.database.read() as connection:
            wish = await rescoring.oldest_open(connection)
        if wish is None:
            self._scorer = None  # it need not stay in memory
            return False
        async with self.database.write() as connection:
            lease = await leases.acquire(connection, LEASE, self.holder, LEASE_TTL)
        if lease is None:
            return False
        scorer = await self._open(lease, wish)
        if scorer is not None:
            await self._score(lease, wish, scorer)
        return True

    async def _score(self, lease: leases.Lease, wish: Rescoring, scorer: ModelScorer) -> None:
        async with self.database.read() as connection:
            page = await rescoring.page(connection, wish, PAGE)
        if page is None:
            await self._note(lease, wish, state="done")
            log.info("%s: %d scored, %d could not be", wish.id, wish.scored, wish.failed)
            return
        scored, failed = await self._publish(page, scorer)
        done = {"scored": wish.scored + scored, "failed": wish.failed + failed}
        await self._note(lease, wish, state="running", position=page.position, **done)

    async def _publish(self, page: Page, scorer: ModelScorer) -> tuple[int, int]:
        candidates = [c for served in page.served for c in candidates_of(served)]
        scores = await score(scorer, candidates, live=False)
        await self.worker.publish(scores)
        scored = sum(s.score is not None for s in scores)
        metrics.RESCORED.inc(len(scores))
        return scored, len(scores) - scored

    async def _open(self, lease: leases.Lease, wish: Rescoring) -> ModelScorer | None:
        """The model asked for; None, and the wish has failed, if it can't be used."""
        if self._scorer is None or self._scorer.version != wish.reward_model:
            try:
                self._scorer = await self.current.open_named(wish.reward_model)
            except Unavailable:
                raise
            except (LearnbackError, ValueError, OSError) as error:
                log.error("%s: %s", wish.id, error)
                await self._note(lease, wish, state="failed", error=str(error))
                return None
        return self._scorer

    async def _note(self, lease: leases.Lease, wish: Rescoring, **values: object) -> None:
        async with self.database.write() as connection:
            await leases.check(connection, lease)
            await rescoring.change(connection, wish.id, **values)
