"""Aliases move by compare-and-set, and the history keeps every move."""

from __future__ import annotations

from typing import Any

import pytest

from learnback.contracts.models import Alias, VersionKind
from learnback.core.clock import now
from learnback.core.errors import Conflict, NotFound
from learnback.registry import store


def a_version(name: str) -> store.ModelVersion:
    return store.ModelVersion(
        name=name,
        kind=VersionKind.BASE,
        base="tiny",
        base_digest="0" * 64,
        code_version="0.1.0",
        created_at=now(),
        changed_at=now(),
    )


async def test_alias_moves_once_per_revision(database: Any) -> None:
    async with database.write() as c:
        await store.register(c, a_version("v1"))
        await store.register(c, a_version("v2"))
        moved = await store.move_alias(
            c, Alias.STABLE, "v1", expected_revision=0, actor="test", reason="first"
        )
    assert moved.revision == 1
    with pytest.raises(Conflict):
        async with database.write() as c:
            await store.move_alias(
                c, Alias.STABLE, "v2", expected_revision=0, actor="rival", reason="late"
            )
    async with database.write() as c:
        await store.move_alias(
            c, Alias.STABLE, "v2", expected_revision=1, actor="test", reason="second"
        )
    async with database.read() as c:
        assert (await store.release(c)).stable.version == "v2"
        moves = await store.history(c)
    assert [(m.version, m.previous, m.actor) for m in moves] == [
        ("v2", "v1", "test"),
        ("v1", None, "test"),
    ]


async def test_alias_never_names_an_unknown_version(database: Any) -> None:
    with pytest.raises(NotFound):
        async with database.write() as c:
            await store.move_alias(
                c, Alias.STABLE, "nobody", expected_revision=0, actor="test", reason="typo"
            )


async def test_registering_a_name_again_keeps_the_first(database: Any) -> None:
    async with database.write() as c:
        first = await store.register(c, a_version("v1"))
        again = await store.register(c, a_version("v1"))
    assert again.created_at == first.created_at
