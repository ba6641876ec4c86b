"""The migrations and the tables say the same, on both databases."""

from __future__ import annotations

from typing import Any

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from learnback.ledger.migrate import check_schema, migrate
from learnback.ledger.tables import metadata


async def test_migrated_schema_equals_the_tables(database: Any) -> None:
    async with database.read() as connection:
        differences = await connection.run_sync(
            lambda c: compare_metadata(
                MigrationContext.configure(c, opts={"compare_type": True}), metadata
            )
        )
    assert differences == []


async def test_migrating_twice_changes_nothing(database: Any) -> None:
    await migrate(database)
    assert await check_schema(database) is None
