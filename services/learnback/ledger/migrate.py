"""Bring a ledger to the newest schema. Safe to run at every start and from several processes."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from learnback.ledger.database import Database

LOCK_ID = 7_236_118_401
"""PostgreSQL advisory lock, so that several replicas that start together migrate once."""


def config(connection: Connection | None = None) -> Config:
    """Alembic's configuration, without an ini file."""
    settings = Config()
    settings.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    settings.attributes["connection"] = connection
    return settings


async def migrate(database: Database) -> None:
    """Apply all migrations that are missing."""
    async with database.write() as connection:
        if not database.sqlite:
            await connection.execute(text("SELECT pg_advisory_xact_lock(:id)"), {"id": LOCK_ID})
        await connection.run_sync(_upgrade)


def _upgrade(connection: Connection) -> None:
    command.upgrade(config(connection), "head")


async def check_schema(database: Database) -> str | None:
    """A readiness check: None if the schema is this version's."""
    async with database.read() as connection:
        found = await connection.run_sync(
            lambda c: MigrationContext.configure(c).get_current_revision()
        )
    expected = ScriptDirectory.from_config(config()).get_current_head()
    if found == expected:
        return None
    return f"the ledger's schema is {found}, not {expected}: run `learnback migrate`"
