"""Operators promote and roll back, and what can't serve is refused."""

from __future__ import annotations

import asyncio

import pytest
from tests.release_world import (
    BASE,
    JUDGE,
    SHORT,
    World,
    always,
)

from learnback.contracts.models import VersionKind, VersionState
from learnback.core.errors import Conflict, NotFound, Unprocessable
from learnback.release import operations

GOOD, BETTER = "tiny-dpo-000000000001", "tiny-dpo-000000000002"


async def test_a_refused_version_is_promoted_by_force_only(world: World) -> None:
    await world.prepare()
    await world.candidate(GOOD, always(SHORT), metrics={})
    await world.controller().look()
    with pytest.raises(Conflict, match="distance_from_reference"):
        await operations.promote(world.database, world.redis, GOOD, "operator:ada", "please")
    moved = await operations.promote(
        world.database, world.redis, GOOD, "operator:ada", "please", force=True
    )
    assert (moved.version, moved.revision) == (GOOD, 2)
    latest = (await operations.history(world.database))[0]
    assert (latest.actor, latest.reason) == ("operator:ada", "forced: please")


async def test_promote_refuses_what_can_not_serve(lite: World) -> None:
    await lite.prepare()
    await lite.candidate(GOOD, always(SHORT))
    with pytest.raises(NotFound):
        await operations.promote(lite.database, lite.redis, "nobody", "o", "r")
    with pytest.raises(Unprocessable):
        await operations.promote(lite.database, lite.redis, JUDGE, "o", "r", force=True)
    with pytest.raises(Conflict, match="not judged it yet"):
        await operations.promote(lite.database, lite.redis, GOOD, "o", "r")
    with pytest.raises(Conflict, match="moved meanwhile"):
        await operations.promote(
            lite.database, lite.redis, GOOD, "o", "r", force=True, expected_revision=7
        )
    again = await operations.promote(lite.database, lite.redis, BASE, "o", "r")
    assert again.revision == 1


async def test_rollback_goes_to_the_last_good_version(world: World) -> None:
    await world.prepare()
    await world.candidate(GOOD, kind=VersionKind.ADAPTER)
    await world.candidate(BETTER, kind=VersionKind.ADAPTER)
    for name in (GOOD, BETTER):
        await operations.promote(world.database, world.redis, name, "o", "r", force=True)

    first = await operations.rollback(world.database, world.redis, "operator:ada", "it swears")
    assert first.version == GOOD
    assert (await world.version(BETTER)).state is VersionState.ROLLED_BACK
    second = await operations.rollback(world.database, world.redis, "operator:ada", "it too")
    assert second.version == BASE
    with pytest.raises(Conflict, match="no stable version"):
        await operations.rollback(world.database, world.redis, "operator:ada", "and this")
    with pytest.raises(Conflict, match="rolled back"):
        await operations.promote(world.database, world.redis, BETTER, "o", "r")
    assert [m.reason for m in await operations.history(world.database)][:2] == [
        "rollback: it too",
        "rollback: it swears",
    ]
    await world.controller().look()  # what was rolled back stays so
    assert (await world.stable()).version == BASE


async def test_rollback_to_a_named_version(lite: World) -> None:
    await lite.prepare()
    for name in (GOOD, BETTER):
        await lite.candidate(name)
        await operations.promote(lite.database, lite.redis, name, "o", "r", force=True)
    with pytest.raises(Conflict, match="was not stable"):
        await operations.rollback(lite.database, lite.redis, "o", "r", to="nobody")
    moved = await operations.rollback(lite.database, lite.redis, "o", "r", to=BASE)
    assert moved.version == BASE


async def test_two_rollbacks_at_once_roll_back_once(world: World) -> None:
    await world.prepare()
    for name in (GOOD, BETTER):
        await world.candidate(name)
        await operations.promote(world.database, world.redis, name, "o", "r", force=True)
    results = await asyncio.gather(
        *(
            operations.rollback(world.database, world.redis, who, "r", expected_revision=3)
            for who in ("ada", "bob")
        ),
        return_exceptions=True,
    )
    assert sum(isinstance(r, Conflict) for r in results) == 1
    assert (await world.stable()).version == GOOD
