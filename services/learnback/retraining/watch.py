"""Runs the cycle for ever, and survives whatever a step meets."""

from __future__ import annotations

import asyncio
import logging
import os
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from redis.exceptions import RedisError

from learnback.core.errors import LearnbackError, Unavailable
from learnback.retraining.cycle import Cycle
from learnback.retraining.launcher import hold

log = logging.getLogger(__name__)

IDLE_POLLS = 5
"""While nothing is under way the ledger is looked at this much less often; messages wake us."""
MAX_FAILURES = 5
"""Steps that may fail of a bug or a broken file before the run at hand is given up."""
MAX_BACKOFF_S = 30.0


@dataclass
class Watch:
    """Runs the cycle until it is cancelled; `wake` makes it look at once."""

    cycle: Cycle
    poll_s: float
    lock_file: Path
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    alone: bool = False
    failures: int = 0

    async def run_forever(self) -> None:
        """Step for ever, as the only one on this machine; what is away is waited for."""
        self.lock_file.parent.mkdir(parents=True, exist_ok=True)
        while (lock := hold(self.lock_file)) is None:
            log.warning("another retraining process is at work here; waiting for it to end")
            await asyncio.sleep(self.poll_s)
        try:
            self.alone = True
            while True:
                await self._rest(await self._step())
        finally:
            self.alone = False
            os.close(lock)

    async def _step(self) -> float:
        """One step; how long to rest after it, in seconds."""
        self.wake.clear()
        try:
            await self.cycle.step()
            self.failures = 0
            return self.poll_s * (1 if self.cycle.busy else IDLE_POLLS)
        except (Unavailable, RedisError, ConnectionError, TimeoutError) as error:
            log.warning("waiting: %s", error)
            return min(MAX_BACKOFF_S, self.poll_s * IDLE_POLLS)
        except Exception as error:  # the process's edge: one bad run must not end all training
            self.failures += 1
            log.exception("a step failed (%d of %d)", self.failures, MAX_FAILURES)
            if self.failures >= MAX_FAILURES:
                await self._give_up(error)
            return min(MAX_BACKOFF_S, self.poll_s * 2.0**self.failures)

    async def _give_up(self, error: Exception) -> None:
        with suppress(LearnbackError):  # then the next failure tries again
            await self.cycle.fail(f"{type(error).__name__}: {error}")
            self.failures = 0

    async def _rest(self, seconds: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self.wake.wait(), seconds)

    async def check(self) -> str | None:
        """A readiness check."""
        return None if self.alone else "another retraining process is at work here"
