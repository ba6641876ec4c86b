"""The connection to the ledger: SQLite (WAL) or PostgreSQL, the same queries on both."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    asynccontextmanager,
    contextmanager,
    nullcontext,
)
from pathlib import Path
from typing import Any

from sqlalchemy import Table, event, make_url, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from learnback.core.errors import Unavailable

BUSY_TIMEOUT_MS = 15_000
"""How long a writer waits for another process's transaction on SQLite."""

CHUNK = 500
"""Values in one statement: far below the limits on bound parameters of both databases."""

CONTENTION = frozenset({"40001", "40P01", "55P03"})
"""PostgreSQL's codes for a transaction that lost against another and may be tried again."""


class Database:
    """An engine with two ways in: `read()` and `write()`, one transaction each.

    Raises `Unavailable` where the database can't be reached or is locked too long.
    """

    def __init__(self, url: str) -> None:
        self.url = async_url(url)
        self.sqlite = self.url.startswith("sqlite")
        self.engine = _engine(self.url)
        self._writing = asyncio.Lock()

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """A connection for reading; nothing is committed."""
        with _unavailable():
            async with self.engine.connect() as connection:
                yield connection

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncConnection]:
        """A transaction: committed at the end of the block, rolled back on any error."""
        with _unavailable():
            async with self._turn(), self.engine.connect() as connection:
                if self.sqlite:  # take the write lock now, not half-way through
                    await connection.execute(text("BEGIN IMMEDIATE"))
                async with _committing(connection):
                    yield connection

    def _turn(self) -> AbstractAsyncContextManager[None]:
        """On SQLite, writers of this process queue up here: its own lock is polled, and unfair."""
        return self._writing if self.sqlite else nullcontext()

    async def check(self) -> str | None:
        """A readiness check."""
        try:
            async with self.read() as connection:
                await connection.execute(text("SELECT 1"))
        except Unavailable as error:
            return error.detail
        return None

    async def close(self) -> None:
        """Close all connections."""
        await self.engine.dispose()


@asynccontextmanager
async def _committing(connection: AsyncConnection) -> AsyncIterator[None]:
    try:
        yield
    except BaseException:
        await connection.rollback()
        raise
    await connection.commit()


@contextmanager
def _unavailable() -> Iterator[None]:
    """Turns a lost or locked database into `Unavailable`; constraint errors pass."""
    try:
        yield
    except (OperationalError, InterfaceError, OSError) as error:
        raise Unavailable(f"The ledger can't be reached: {error}") from error
    except DBAPIError as error:
        if getattr(error.orig, "sqlstate", None) in CONTENTION:
            raise Unavailable("The ledger is busy with the same rows; try again.") from error
        if not error.connection_invalidated:
            raise
        raise Unavailable(f"The ledger can't be reached: {error}") from error


def insert_new(connection: AsyncConnection, table: Table) -> postgresql.Insert | sqlite.Insert:
    """An INSERT that leaves rows alone that are already there."""
    if connection.dialect.name == "sqlite":
        return sqlite.insert(table).on_conflict_do_nothing()
    return postgresql.insert(table).on_conflict_do_nothing()


def chunks(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    """Ids in parts that one statement takes."""
    for start in range(0, len(ids), CHUNK):
        yield ids[start : start + CHUNK]


async def lock(connection: AsyncConnection, lock_id: int, *, shared: bool = False) -> None:
    """Hold an advisory lock until the transaction ends.

    SQLite has one writer at a time, so a transaction that writes holds every lock already.
    """
    if connection.dialect.name == "postgresql":
        function = "pg_advisory_xact_lock_shared" if shared else "pg_advisory_xact_lock"
        await connection.execute(text(f"SELECT {function}(:id)"), {"id": lock_id})


def async_url(url: str) -> str:
    """The URL with the asynchronous driver that we use filled in."""
    parsed = make_url(url)
    drivers = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg"}
    drivers["postgres"] = drivers["postgresql"]
    name = drivers.get(parsed.drivername, parsed.drivername)
    return parsed.set(drivername=name).render_as_string(hide_password=False)


def _engine(url: str) -> AsyncEngine:
    if not url.startswith("sqlite"):
        return create_async_engine(url, pool_pre_ping=True, pool_size=10, max_overflow=10)
    path = make_url(url).database
    if path and path != ":memory:":
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    engine = create_async_engine(url, connect_args={"timeout": BUSY_TIMEOUT_MS / 1000})
    event.listen(engine.sync_engine, "connect", _configure_sqlite)
    return engine


def _configure_sqlite(connection: Any, _record: Any) -> None:
    """WAL: readers do not block the writer. `synchronous=FULL`: a commit survives power loss."""
    connection.isolation_level = None  # the driver must not open transactions by itself
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")
    cursor.close()
