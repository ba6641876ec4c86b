"""Of two controllers one acts, and one that was paused too long can't write any more."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from tests.factories import a_version

from learnback.ledger import leases
from learnback.ledger.leases import LeaseLost
from learnback.registry import store
from learnback.release.leadership import Leadership

LONG, NONE = timedelta(minutes=5), timedelta(0)


async def test_the_second_waits_and_takes_over_with_a_higher_token(database: Any) -> None:
    first, second = Leadership(database, LONG), Leadership(database, LONG)
    assert await first.lead()
    assert not await second.lead()
    token = first.token
    await first.give_up()
    assert await second.lead()
    assert second.token == token + 1
    assert not await first.lead()


async def test_renewing_keeps_the_token(database: Any) -> None:
    one = Leadership(database, LONG)
    await one.lead()
    token = one.token
    assert await one.lead()
    assert one.token == token


async def test_who_was_paused_over_the_end_of_its_lease_writes_nothing(database: Any) -> None:
    paused, rival = Leadership(database, NONE), Leadership(database, LONG)
    await paused.lead()
    await rival.lead()
    with pytest.raises(LeaseLost):
        async with paused.write() as connection:
            await store.register(connection, a_version("ghost"))
    async with database.read() as connection:
        assert await store.find(connection, "ghost") is None
    async with rival.write() as connection:
        await store.register(connection, a_version("real"))
    async with database.read() as connection:
        assert await store.find(connection, "real") is not None


async def test_giving_up_what_was_lost_takes_nothing_from_the_rival(database: Any) -> None:
    late, rival = Leadership(database, NONE), Leadership(database, LONG)
    await late.lead()
    await rival.lead()
    await late.give_up()
    third = Leadership(database, LONG)
    assert not await third.lead()


async def test_leases_of_other_names_are_independent(database: Any) -> None:
    async with database.write() as connection:
        one = await leases.acquire(connection, "release", "a", LONG)
        other = await leases.acquire(connection, "other", "b", LONG)
    assert one is not None
    assert other is not None
