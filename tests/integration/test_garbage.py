"""Garbage collection on a real ledger and real files: what goes, what stays, who may race it."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from tests.conftest import wait_until
from tests.factories import a_version

from learnback.cli import main
from learnback.contracts.models import Alias, VersionState
from learnback.core import clock
from learnback.core.errors import Conflict, Unavailable
from learnback.ledger import releases, replicas
from learnback.ledger.database import Database
from learnback.ledger.migrate import migrate
from learnback.ledger.runs import Run, RunState, create_run, report_name
from learnback.registry import garbage, store
from learnback.registry.artifacts import ArtifactStore
from learnback.registry.settings import RetentionSettings
from learnback.release import asking, metrics, operations
from learnback.release.collecting import Collector
from learnback.release.leadership import Leadership

RETENTION, LONG = RetentionSettings(), timedelta(minutes=5)
Later = Callable[..., None]


@pytest.fixture
def artifacts(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(f"file://{tmp_path / 'artifacts'}")


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Later:
    """Lets the collector's clock go ahead."""
    passed = timedelta(0)

    def ahead() -> datetime:
        return clock.now() + passed

    def go(**span: float) -> None:
        nonlocal passed
        passed += timedelta(**span)

    monkeypatch.setattr(garbage, "now", ahead)
    return go


@pytest.fixture
def files(tmp_path: Path) -> Path:
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "adapter_model.safetensors").write_bytes(b"weights")
    return folder


async def add(
    database: Database, artifacts: ArtifactStore, files: Path, *names: str, **changes: Any
) -> None:
    """Versions with files, refused unless said otherwise."""
    async with database.write() as connection:
        for name in names:
            digest = artifacts.put(files, name)
            values = {"state": VersionState.REFUSED, "artifact": name, "artifact_digest": digest}
            await garbage.register(
                connection, artifacts, a_version(name, **values | changes), files
            )


def a_run(**values: Any) -> Run:
    given = {"id": "run_1", "method": "dpo", "base_version": "base", "created_at": clock.now()}
    return Run(**given | values)


async def served(database: Database, *names: str, alias: Alias = Alias.STABLE) -> None:
    for name in names:
        async with database.write() as connection:
            revision = (await store.alias_state(connection, alias)).revision
            await store.move_alias(
                connection, alias, name, expected_revision=revision, actor="test", reason="test"
            )


async def version(database: Database, name: str) -> store.ModelVersion:
    async with database.read() as connection:
        return await store.get(connection, name)


async def test_files_go_in_two_steps_and_the_story_stays(
    database: Any, artifacts: ArtifactStore, files: Path, later: Later
) -> None:
    await add(database, artifacts, files, "refused")
    assert (await garbage.collect(database, artifacts, RETENTION)).marked == []
    later(days=8)
    foreseen = await garbage.collect(database, artifacts, RETENTION, dry_run=True)
    first = await garbage.collect(database, artifacts, RETENTION)
    assert foreseen.marked == first.marked == ["refused"]
    assert first.removed == []
    assert list(first.waiting) == ["refused"]
    assert artifacts.names() == ["refused"]
    later(minutes=11)
    assert (await garbage.collect(database, artifacts, RETENTION, dry_run=True)).removed
    assert artifacts.names() == ["refused"]
    second = await garbage.collect(database, artifacts, RETENTION)
    assert second.removed == ["refused"]
    assert artifacts.names() == []
    told = await version(database, "refused")
    assert told.deleted
    assert told.artifact_digest
    assert (await garbage.collect(database, artifacts, RETENTION)).removed == []


async def test_what_people_could_be_sent_back_to_stays(
    database: Any, artifacts: ArtifactStore, files: Path, later: Later
) -> None:
    names = [f"v{i}" for i in range(8)]
    await add(database, artifacts, files, *names, state=VersionState.PROMOTED)
    await served(database, *names)
    later(days=29)
    assert (await garbage.collect(database, artifacts, RETENTION)).marked == []
    later(days=2)
    assert (await garbage.collect(database, artifacts, RETENTION)).marked == ["v0", "v1", "v2"]
    moved = await operations.rollback(database, _no_redis(), actor="test", reason="bad")
    assert moved.version == "v6"


async def test_an_alias_never_comes_to_name_what_was_collected(
    database: Any, artifacts: ArtifactStore, files: Path, later: Later
) -> None:
    await add(database, artifacts, files, "good", "old", state=VersionState.PROMOTED)
    await served(database, "old", "good")
    later(days=31)
    one = RetentionSettings(versions=1)
    assert (await garbage.collect(database, artifacts, one)).marked == ["old"]
    with pytest.raises(Conflict, match="removed by garbage collection"):
        await served(database, "old")
    with pytest.raises(Conflict, match="removed by garbage collection"):
        await operations.rollback(database, _no_redis(), actor="test", reason="bad", to="old")
    with pytest.raises(Conflict, match="no stable version before"):
        await operations.rollback(database, _no_redis(), actor="test", reason="bad")
    with pytest.raises(Conflict, match="removed by garbage collection"):
        await asking.ask(database, "old", "test", "again")


async def test_a_version_that_somebody_is_about_to_use_is_not_marked(
    database: Any, artifacts: ArtifactStore, files: Path, later: Later
) -> None:
    """The collector waits for the one who looked first, and reads again."""
    await add(database, artifacts, files, "old")
    later(days=31)
    async with database.write() as connection:
        await store.hold(connection, "old")
        collecting = asyncio.create_task(garbage.collect(database, artifacts, RETENTION))
        done, _ = await asyncio.wait({collecting}, timeout=0.5)
        assert not done
        await store.move_alias(
            connection, Alias.STABLE, "old", expected_revision=0, actor="test", reason="test"
        )
    assert (await collecting).marked == []


async def test_a_run_a_canary_and_a_replica_keep_their_versions(
    database: Any, artifacts: ArtifactStore, files: Path, later: Later
) -> None:
    await add(database, artifacts, files, "parent", "tried", "pinned", "nobody's")
    run = a_run(state=RunState.ASKED, parent="parent")
    async with database.write() as connection:
        await create_run(connection, run)
        await releases.change(connection, "tried", evaluating_since=clock.now())
        await replicas.announce(
            connection, "replica-0", "0" * 64, serving=True, versions=["pinned"]
        )
    later(days=90)
    found = await garbage.collect(database, artifacts, RETENTION)
    assert found.marked == ["nobody's"]
    assert found.kept == {
        "parent": "run run_1 uses it",
        "tried": "it is on its way to people",
        "pinned": "loaded by replica-0",
    }


async def test_files_stay_while_a_replica_that_began_to_load_them_has_them(
    database: Any, artifacts: ArtifactStore, files: Path, later: Later
) -> None:
    """It had read the registry before the version was marked."""
    await add(database, artifacts, files, "late")
    later(days=8)
    assert (await garbage.collect(database, artifacts, RETENTION)).marked == ["late"]
    async with database.write() as connection:
        await replicas.announce(connection, "replica-0", "0" * 64, serving=True, versions=["late"])
    later(minutes=11)
    found = await garbage.collect(database, artifacts, RETENTION)
    assert found.waiting == {"late": "loaded by replica-0"}
    assert artifacts.names() == ["late"]
    async with database.write() as connection:
        await replicas.leave(connection, "replica-0")
    assert (await garbage.collect(database, artifacts, RETENTION)).removed == ["late"]


async def test_the_same_content_trained_again_comes_back_with_its_files(
    database: Any, artifacts: ArtifactStore, files: Path, later: Later
) -> None:
    await add(database, artifacts, files, "again")
    later(days=8)
    await garbage.collect(database, artifacts, RETENTION)
    later(minutes=11)
    assert (await garbage.collect(database, artifacts, RETENTION)).removed == ["again"]
    async with database.write() as connection:
        found = await garbage.register(connection, artifacts, a_version("again"), files)
    assert not found.deleted
    assert artifacts.names() == ["again"]
    assert (await garbage.collect(database, artifacts, RETENTION)).removed == []


async def test_what_died_half_way_goes_and_what_is_others_stays(
    sqlite_database: Any,
    artifacts: ArtifactStore,
    files: Path,
    later: Later,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    artifacts.put(files, "of another ledger")
    monkeypatch.setattr(ArtifactStore, "_settle", _dies)
    with pytest.raises(RuntimeError):
        artifacts.put(files, "torn")
    assert (await garbage.collect(sqlite_database, artifacts, RETENTION)).abandoned == []
    later(days=2)
    found = await garbage.collect(sqlite_database, artifacts, RETENTION)
    assert found.abandoned == ["torn"]
    assert found.unknown == artifacts.names() == ["of another ledger"]


async def test_a_runs_report_goes_after_its_version_and_is_known_until_then(
    database: Any, artifacts: ArtifactStore, files: Path, later: Later
) -> None:
    await add(database, artifacts, files, "made")
    run = a_run(state=RunState.DONE, version="made", finished_at=clock.now())
    async with database.write() as connection:
        await create_run(connection, run)
    report = report_name(run.id)
    artifacts.put(files, report)
    young = await garbage.collect(database, artifacts, RETENTION)
    assert (young.kept[report], young.unknown) == ("made came of this run", [])
    later(days=8)
    assert (await garbage.collect(database, artifacts, RETENTION)).marked == ["made"]
    later(minutes=11)
    after = await garbage.collect(database, artifacts, RETENTION)
    assert (after.removed, list(after.kept)) == (["made"], [report])
    later(days=8)
    assert (await garbage.collect(database, artifacts, RETENTION, dry_run=True)).removed == [report]
    assert artifacts.names() == [report]
    last = await garbage.collect(database, artifacts, RETENTION)
    assert (last.removed, last.unknown, artifacts.names()) == ([report], [], [])


def _dies(*_: Any) -> None:
    raise RuntimeError("killed")


async def test_collectors_and_movers_at_once_leave_no_alias_without_files(
    database: Any, artifacts: ArtifactStore, files: Path, later: Later
) -> None:
    """In any order: what an alias names, and all that is not marked, has its files."""
    names = [f"v{i}" for i in range(12)]
    await add(database, artifacts, files, *names)
    later(days=90)
    impatient = RetentionSettings(versions=1)
    dice = random.Random(7)

    async def move() -> None:
        for _ in range(6):
            with suppress(Conflict):
                await served(database, dice.choice(names))

    async def retrain() -> None:
        for _ in range(6):
            name = dice.choice(names)
            with suppress(Unavailable):  # its files were being removed: tried again by a real run
                await asyncio.to_thread(artifacts.put, files, name)
                async with database.write() as connection:
                    await garbage.register(connection, artifacts, a_version(name), files)

    async def gather() -> None:
        for _ in range(4):
            await garbage.collect(database, artifacts, impatient)
            later(minutes=11)

    await asyncio.gather(move(), retrain(), gather(), move(), gather())
    async with database.read() as connection:
        stable = (await store.release(connection)).stable.version
        alive = {v.name for v in await store.list_versions(connection) if not v.deleted}
    assert stable in alive
    assert alive <= set(artifacts.names())
    assert len(alive) < len(names)


async def test_the_process_that_acts_collects_from_time_to_time(
    sqlite_database: Any, artifacts: ArtifactStore, files: Path, later: Later
) -> None:
    await add(sqlite_database, artifacts, files, "old")
    later(days=8)
    often = RETENTION.model_copy(update={"every": timedelta(milliseconds=10)})
    leadership = Leadership(sqlite_database, LONG)
    loop = asyncio.create_task(
        Collector(sqlite_database, artifacts, leadership, often).run_forever()
    )
    await asyncio.wait({loop}, timeout=0.2)
    assert not (await version(sqlite_database, "old")).deleted, "another one acts"
    assert await leadership.lead()

    async def marked() -> bool:
        return (await version(sqlite_database, "old")).deleted

    await wait_until(marked, "the old version is marked")
    loop.cancel()


async def test_a_store_that_is_away_is_counted_and_tried_again(
    sqlite_database: Any, artifacts: ArtifactStore, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    collector = Collector(sqlite_database, artifacts, Leadership(sqlite_database, LONG), RETENTION)
    monkeypatch.setattr(ArtifactStore, "names", _away)
    before = metrics.COLLECTION_FAILURES._value.get()
    await collector.collect()
    assert metrics.COLLECTION_FAILURES._value.get() == before + 1


def test_the_command_says_what_it_would_take_and_why_the_rest_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: Path
) -> None:
    monkeypatch.setenv("LEARNBACK_HOME", str(tmp_path))
    monkeypatch.setattr(garbage, "now", lambda: clock.now() + timedelta(days=8))
    asyncio.run(_old_home(tmp_path, files))
    said = CliRunner().invoke(main, ["gc", "--dry-run"])
    assert "nobody needs it" in said.output, said.output
    assert "Nothing was changed" in said.output
    found = json.loads(CliRunner().invoke(main, ["gc", "--json"]).stdout)
    assert (found["marked"], found["kept"]) == (["old"], {"young": "it is stable"})
    told = CliRunner().invoke(main, ["releases", "show", "old"]).output
    assert "removed by garbage collection" in told


async def _old_home(home: Path, files: Path) -> None:
    database = Database(f"sqlite:///{home / 'ledger.db'}")
    await migrate(database)
    await add(database, ArtifactStore(f"file://{home / 'artifacts'}"), files, "old", "young")
    await served(database, "young")
    await database.close()


def _away(*_: Any) -> None:
    raise Unavailable("no S3")


def _no_redis() -> Any:
    from learnback.core.redis import connect

    return connect("redis://127.0.0.1:1/0")
