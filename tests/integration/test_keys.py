"""API keys: made once, hashed in the ledger, known at once, refused once revoked."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select, update
from tests.conftest import wait_until

from learnback import cli_keys
from learnback.contracts.models import Scope
from learnback.core.clock import now
from learnback.core.errors import (
    Conflict,
    Forbidden,
    NotFound,
    Unauthenticated,
    Unavailable,
    Unprocessable,
)
from learnback.ledger import keys
from learnback.ledger.tables import api_keys


async def a_key(database: Any, *scopes: Scope, **kwargs: Any) -> tuple[str, str]:
    async with database.write() as connection:
        return await keys.create_key(
            connection, "acme", "test", scopes or [Scope.FEEDBACK], **kwargs
        )


class Away:
    """A database that can be unplugged; counts the reads."""

    def __init__(self, database: Any) -> None:
        self.database = database
        self.away = False
        self.reads = 0

    @asynccontextmanager
    async def read(self) -> AsyncIterator[Any]:
        self.reads += 1
        if self.away:
            raise Unavailable("unplugged")
        async with self.database.read() as connection:
            yield connection


async def test_a_new_key_works_at_once_and_its_secret_is_not_kept(database: Any) -> None:
    ring = keys.KeyRing(database)
    for _ in range(3):
        key_id, secret = await a_key(database)
        principal = await ring.authenticate(f"Bearer {secret}", required=True)
        assert (principal.tenant, principal.key_id) == ("acme", key_id)
    assert keys.KEY_SHAPE.fullmatch(secret)
    assert secret.startswith(f"lb_{key_id}_")
    async with database.read() as connection:
        rows = (await connection.execute(select(api_keys))).all()
    assert secret not in str(rows)


async def test_a_known_key_costs_no_read(database: Any) -> None:
    _, secret = await a_key(database)
    counted = Away(database)
    ring = keys.KeyRing(counted)  # type: ignore[arg-type]
    await ring.authenticate(f"Bearer {secret}", required=True)
    before = counted.reads
    for _ in range(50):
        await ring.authenticate(f"Bearer {secret}", required=False)
    assert counted.reads == before == 1


async def test_known_keys_go_on_working_without_the_ledger(sqlite_database: Any) -> None:
    _, secret = await a_key(sqlite_database)
    _, other = await a_key(sqlite_database)
    database = Away(sqlite_database)
    ring = keys.KeyRing(database, refresh_s=0.0)  # type: ignore[arg-type]
    await ring.authenticate(f"Bearer {secret}", required=True)
    database.away = True
    principal = await ring.authenticate(f"Bearer {other}", required=True)
    assert principal.tenant == "acme"
    cold = keys.KeyRing(database)  # type: ignore[arg-type]
    with pytest.raises(Unavailable):
        await cold.authenticate(f"Bearer {secret}", required=True)


async def test_a_revoked_key_stops_working(database: Any) -> None:
    key_id, secret = await a_key(database)
    ring = keys.KeyRing(database, refresh_s=0.1)
    await ring.authenticate(f"Bearer {secret}", required=True)
    async with database.write() as connection:
        await keys.revoke_key(connection, key_id)
        await keys.revoke_key(connection, key_id)
        with pytest.raises(NotFound):
            await keys.revoke_key(connection, "nobody")

    async def refused() -> bool:
        try:
            await ring.authenticate(f"Bearer {secret}", required=True)
        except Unauthenticated:
            return True
        return False

    await wait_until(refused, "the revoked key is refused", timeout_s=5)
    async with database.read() as connection:
        (listed,) = await keys.list_keys(connection, "acme")
    assert listed.revoked_at is not None
    assert listed.scopes == (Scope.FEEDBACK,)


@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Bearer sk-local", "Basic bGI6", "Bearer lb_1_2", "\udcff"]
)
async def test_a_header_without_a_key(sqlite_database: Any, header: str | None) -> None:
    ring = keys.KeyRing(sqlite_database)
    assert await ring.authenticate(header, required=False) == keys.ANONYMOUS
    with pytest.raises(Unauthenticated):
        await ring.authenticate(header, required=True)


async def test_an_expired_key_is_refused(database: Any) -> None:
    _, secret = await a_key(database, expires_at=now() - timedelta(seconds=1))
    ring = keys.KeyRing(database)
    with pytest.raises(Unauthenticated):
        await ring.authenticate(f"Bearer {secret}", required=True)
    assert await ring.authenticate(f"Bearer {secret}", required=False) == keys.ANONYMOUS


async def test_unknown_keys_do_not_load_the_ledger(sqlite_database: Any) -> None:
    counted = Away(sqlite_database)
    ring = keys.KeyRing(counted)  # type: ignore[arg-type]
    import asyncio

    async def attack(n: int) -> None:
        with pytest.raises(Unauthenticated):
            await ring.authenticate(f"Bearer lb_{n:016x}_{'x' * 43}", required=True)

    await asyncio.gather(*(attack(n) for n in range(500)))
    assert counted.reads <= 3


async def test_scopes_are_asked_for(database: Any) -> None:
    _, secret = await a_key(database, Scope.INFER)
    principal = await keys.KeyRing(database).authenticate(f"Bearer {secret}", required=True)
    keys.require_scope(principal, Scope.INFER)
    with pytest.raises(Forbidden):
        keys.require_scope(principal, Scope.FEEDBACK)


@pytest.mark.parametrize(
    ("tenant", "name", "scopes"),
    [("", "n", ["infer"]), ("a/b", "n", ["infer"]), ("a", "", ["infer"]), ("a", "n", [])],
)
async def test_a_key_that_makes_no_sense(
    sqlite_database: Any, tenant: str, name: str, scopes: list[Scope]
) -> None:
    async with sqlite_database.write() as connection:
        with pytest.raises(Unprocessable):
            await keys.create_key(connection, tenant, name, scopes)


A_KEY = f"lb_{'0a' * 8}_{'k' * 43}"


async def imported(database: Any, secret: str = A_KEY, *scopes: Scope, tenant: str = "acme") -> str:
    async with database.write() as connection:
        return await keys.import_key(connection, secret, tenant, "given", scopes or [Scope.INFER])


async def test_a_key_that_was_made_elsewhere_works_and_importing_it_again_changes_nothing(
    database: Any,
) -> None:
    assert await imported(database) == await imported(database) == "0a" * 8
    principal = await keys.KeyRing(database).authenticate(f"Bearer {A_KEY}", required=True)
    assert (principal.tenant, principal.scopes) == ("acme", {Scope.INFER})
    async with database.read() as connection:
        assert len(await keys.list_keys(connection)) == 1


async def test_importing_a_key_with_other_scopes_gives_it_just_those(database: Any) -> None:
    await imported(database)
    await imported(database, A_KEY, Scope.FEEDBACK)
    principal = await keys.KeyRing(database).authenticate(f"Bearer {A_KEY}", required=True)
    assert principal.scopes == {Scope.FEEDBACK}


async def test_a_key_that_is_revoked_or_not_its_own_is_not_imported(database: Any) -> None:
    await imported(database)
    with pytest.raises(Conflict):
        await imported(database, f"{A_KEY[:-1]}x")
    with pytest.raises(Conflict):
        await imported(database, tenant="another")
    async with database.write() as connection:
        await keys.revoke_key(connection, "0a" * 8)
    with pytest.raises(Conflict):
        await imported(database)
    for wrong in ("", "lb_short", A_KEY.upper(), f"{A_KEY}\n"):
        with pytest.raises(Unprocessable):
            await imported(database, wrong)


async def test_admin_covers_the_two_processes_that_operators_use_and_nothing_else() -> None:
    admin = keys.Principal("acme", "k", frozenset({Scope.ADMIN}))
    train = keys.Principal("acme", "k", frozenset({Scope.TRAIN}))
    for scope in (Scope.ADMIN, Scope.RELEASE, Scope.TRAIN):
        keys.require_scope(admin, scope)
    keys.require_scope(train, Scope.TRAIN)
    for principal, scopes in (
        (admin, (Scope.INFER, Scope.FEEDBACK)),
        (train, (Scope.RELEASE, Scope.ADMIN, Scope.INFER)),
    ):
        for scope in scopes:
            with pytest.raises(Forbidden, match=f"--scope {scope.value}"):
                keys.require_scope(principal, scope)


async def test_a_scope_of_a_newer_version_is_left_out_and_locks_nobody_out(
    sqlite_database: Any,
) -> None:
    key_id, secret = await a_key(sqlite_database, Scope.FEEDBACK)
    async with sqlite_database.write() as connection:
        await connection.execute(
            update(api_keys).where(api_keys.c.id == key_id).values(scopes=["feedback", "fly"])
        )
        assert (await keys.list_keys(connection))[0].scopes == (Scope.FEEDBACK,)
    ring = keys.KeyRing(sqlite_database)
    principal = await ring.authenticate(f"Bearer {secret}", required=True)
    assert principal.scopes == {Scope.FEEDBACK}


def test_the_command_line_knows_every_scope() -> None:
    assert set(cli_keys.SCOPES) == set(Scope)
