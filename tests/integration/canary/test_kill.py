"""`kill -9` of the release controller, on PostgreSQL, with a lease that its successor waits for."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from tests.canary_world import CANARY, GOOD, LIKED, Habits, Town, decided, looks_at, shares
from tests.conftest import wait_until
from tests.release_world import BASE, World

from learnback.contracts.models import VersionState
from learnback.core.clock import now
from learnback.ledger import releases
from learnback.ledger.tables import leases
from learnback.registry import store
from learnback.release import asking

LEASE_S = 2.0
MANUAL = CANARY | {"steps": [*CANARY["steps"][:2], {"traffic": "100%", "approval": "manual"}]}
HELD = MANUAL | {"deadline": "PT1S", "on_deadline": "hold", "steps": MANUAL["steps"][1:]}
BAD = {GOOD: Habits(likes=0.0, fails=0.95), BASE: Habits(likes=0.9)}


@asynccontextmanager
async def a_controller(
    world: World, urls: tuple[str, str], canary: Any, dies_at: str = "", committed: bool = False
) -> AsyncIterator[asyncio.subprocess.Process]:
    told = {"ledger": urls[0], "redis": urls[1], "folder": str(world.folder), "canary": canary}
    told |= {"lease_s": LEASE_S, "dies_at": dies_at, "committed": committed}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.mortal_controller",
        json.dumps(told),
        cwd=Path(__file__).parents[3],
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def lease(world: World) -> tuple[int, datetime] | None:
    """Its token, and when it ends."""
    async with world.database.read() as c:
        row = (await c.execute(select(leases.c.token, leases.c.expires_at))).first()
    return (row.token, row.expires_at) if row else None


async def a_day_goes_on(world: World, town: Town) -> None:
    """People come, and somebody says yes where they are asked."""
    await town.come(20)
    async with world.database.read() as c:
        asked = (await releases.find(c, GOOD)).awaiting_step
    if asked is not None:
        await asking.approve(world.database, GOOD, "ada", "fine", approved=True)


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
@pytest.mark.parametrize(
    ("step", "committed", "canary", "habits", "state"),
    [
        ("load", False, MANUAL, LIKED, VersionState.PROMOTED),
        ("first step", False, MANUAL, LIKED, VersionState.PROMOTED),
        ("next step", False, MANUAL, LIKED, VersionState.PROMOTED),
        ("next step", True, MANUAL, LIKED, VersionState.PROMOTED),
        ("ask a person", False, MANUAL, LIKED, VersionState.PROMOTED),
        ("ask a person", True, MANUAL, LIKED, VersionState.PROMOTED),
        ("promote", False, MANUAL, LIKED, VersionState.PROMOTED),
        ("deadline", False, HELD, {}, VersionState.PROMOTED),
        ("deadline", True, HELD, {}, VersionState.PROMOTED),
        ("roll back", False, MANUAL, BAD, VersionState.ROLLED_BACK),
        ("roll back", True, MANUAL, BAD, VersionState.ROLLED_BACK),
    ],
)
async def test_killed_by_the_kernel_another_one_goes_on(
    world: World,
    postgres_url: str,
    valkey_url: str,
    step: str,
    committed: bool,
    canary: Any,
    habits: dict[str, Habits],
    state: VersionState,
) -> None:
    passed = {"verdict": "passed", "evaluation": {"stable": BASE}}
    async with world.database.write() as c:
        await store.set_state(c, GOOD, VersionState.PASSED, gate_report=passed)
    town, urls = Town(world, habits), (postgres_url, valkey_url)
    async with a_controller(world, urls, canary, step, committed) as mortal:
        await wait_until(lambda: lease(world), "the first one acts", 30)
        async with a_controller(world, urls, canary) as successor:

            async def died() -> bool:
                await a_day_goes_on(world, town)
                return mortal.returncode is not None

            await wait_until(died, f"it dies at {step}", 60)
            assert mortal.returncode == -signal.SIGKILL
            left = await lease(world)
            assert left is not None

            async def ended() -> bool:
                await a_day_goes_on(world, town)
                return bool(await decided(world)())

            await wait_until(ended, "its successor decides", 60)
            after = await lease(world)
            assert successor.returncode is None
    assert (await world.version(GOOD)).state is state
    assert (await world.stable()).version == (GOOD if state is VersionState.PROMOTED else BASE)
    assert town.unverified == []
    assert (await shares(world))[-1] == (None, 0.0)
    looks = await looks_at(world)
    assert [look.number for look in looks] == list(range(1, len(looks) + 1))
    assert [look.token for look in looks] == sorted(look.token for look in looks)
    if not committed or step != "roll back":  # else nothing was left to do
        assert after is not None
        assert after[0] == left[0] + 1
        theirs = [look.at for look in looks if look.token == after[0]]
        assert min(theirs, default=now()) >= left[1], "it waits for the lease of the dead one"
