"""The key that `learnback up` prints ends with it."""

from __future__ import annotations

from pathlib import Path

from learnback.core.settings import CommonSettings
from learnback.ledger.database import Database
from learnback.ledger.keys import ApiKey, list_keys
from learnback.local import platform
from learnback.local.home import Running
from learnback.local.platform import Plan


async def keys_of(home: Path) -> list[ApiKey]:
    database = Database(CommonSettings(home=home).ledger_url)
    try:
        async with database.read() as connection:
            return await list_keys(connection)
    finally:
        await database.close()


async def test_each_start_has_its_own_key_and_leaves_none_that_is_valid(
    tmp_path: Path, valkey_url: str
) -> None:
    plan = Plan(tmp_path, "tiny", host="0.0.0.0")  # beyond loopback, so with keys
    running = Running(pid=1, redis_url=valkey_url)
    first = await platform._prepare(plan, running)
    killed_and_started_again = await platform._prepare(plan, running)
    assert first
    assert killed_and_started_again not in {None, first}
    assert [key.revoked_at is None for key in await keys_of(tmp_path)] == [True, False]
    await platform._revoke_keys(plan)
    assert all(key.revoked_at for key in await keys_of(tmp_path))


async def test_a_platform_on_loopback_makes_no_key(tmp_path: Path, valkey_url: str) -> None:
    assert await platform._prepare(Plan(tmp_path, "tiny"), Running(1, valkey_url)) is None
    assert await keys_of(tmp_path) == []
