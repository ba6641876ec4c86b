"""A release controller in a process of its own: `python -m tests.mortal_controller JSON`.

It may die by SIGKILL where a test says: when a step of the canary was written and not committed, or
right after its commit. The product knows nothing of this.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from tests.release_world import FakeEngine, World

from learnback.core.redis import connect
from learnback.ledger.database import Database
from learnback.release import loading, rollout
from learnback.release.leadership import Leadership
from learnback.release.rollout import Rollout

STEPS: dict[str, tuple[Any, str]] = {
    "load": (loading, "begin"),
    "first step": (Rollout, "_start"),
    "next step": (Rollout, "_advance"),
    "ask a person": (Rollout, "_await"),
    "deadline": (Rollout, "_conclude"),
    "promote": (rollout, "promote_in"),
    "roll back": (rollout, "roll_back"),
}


def arm(step: str, committed: bool) -> None:
    """Die at the first time that this step is taken."""
    owner, name = STEPS[step]
    real, write = getattr(owner, name), Leadership.write
    due: list[bool] = []

    async def last(*given: Any, **named: Any) -> Any:
        result = await real(*given, **named)
        due.append(True)
        if not committed:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    @asynccontextmanager
    async def writing(self: Leadership) -> AsyncIterator[Any]:
        async with write(self) as connection:
            yield connection
        if due:
            os.kill(os.getpid(), signal.SIGKILL)

    setattr(owner, name, last)
    Leadership.write = writing  # type: ignore[method-assign]


async def run(given: dict[str, Any]) -> None:
    """Look for ever, as the release process does."""
    database, redis = Database(given["ledger"]), connect(given["redis"])
    world = World(database, redis, Path(given["folder"]), FakeEngine({}))
    controller = world.controller(
        canary=given["canary"],
        lease=timedelta(seconds=given["lease_s"]),
        look_every=timedelta(seconds=0.1),
    )
    await asyncio.gather(controller.run_forever(), controller.leadership.keep())


if __name__ == "__main__":
    told = json.loads(sys.argv[1])
    if told["dies_at"]:
        arm(told["dies_at"], told["committed"])
    asyncio.run(run(told))
