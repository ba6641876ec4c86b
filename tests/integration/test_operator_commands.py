"""Operators' commands: what they change, what they answer as JSON, and how they fail."""

from __future__ import annotations

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from tests.factories import a_model_trained, a_version
from tests.unit.test_release_gate import an_evaluation

from learnback.cli import main
from learnback.contracts.models import VersionState
from learnback.contracts.streams import MODELS
from learnback.core import valkey
from learnback.core.bus import publish
from learnback.core.redis import connect
from learnback.ledger.database import Database
from learnback.local.supervisor import free_port
from learnback.registry import store
from learnback.release.gate import decide
from learnback.release.policy import GatePolicy


@pytest.fixture
def platform_home(valkey_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A migrated home and an empty Valkey, named by the environment."""
    monkeypatch.setenv("LEARNBACK_REDIS_URL", valkey_url)
    monkeypatch.setenv("LEARNBACK_HOME", str(tmp_path))
    asyncio.run(_flush(valkey_url))
    assert run("migrate") == {"migrated": True}
    return tmp_path


async def _flush(url: str) -> None:
    redis = connect(url)
    await redis.flushall()
    await redis.aclose()


def run(*arguments: str, code: int = 0) -> Any:
    """A command's JSON answer, or its error text if `code` is not 0."""
    result = CliRunner().invoke(main, [*arguments, "--json"])
    assert result.exit_code == code, result.output
    return result.output if code else json.loads(result.stdout)


async def _register(home: Path, *names: str) -> None:
    database = Database(f"sqlite:///{home / 'ledger.db'}")
    async with database.write() as connection:
        for name in names:
            await store.register(connection, a_version(name, state=VersionState.PASSED))
    await database.close()


def test_a_key_in_a_file_is_imported_as_often_as_asked(platform_home: Path, tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(f"lb_{'ab' * 8}_{'k' * 43}\n")
    for _ in range(2):
        made = run("keys", "import", "release", "--file", str(file), "--scope", "infer")
        assert made == {"id": "ab" * 8, "tenant": "default", "scopes": ["infer"]}
    (listed,) = run("keys", "list")
    assert (listed["id"], listed["name"], listed["scopes"]) == ("ab" * 8, "release", ["infer"])


def test_streams_belong_to_one_ledger_until_they_are_taken(
    platform_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, valkey_url: str
) -> None:
    """A second base model's release that names the same Redis stops before anything mixes."""
    assert run("migrate") == {"migrated": True}
    monkeypatch.setenv("LEARNBACK_HOME", str(tmp_path / "second"))
    assert "two loops would mix" in run("migrate", code=1)
    monkeypatch.setenv("LEARNBACK_REDIS_URL", valkey_url.removesuffix("/0") + "/1")
    assert run("migrate") == {"migrated": True}
    monkeypatch.setenv("LEARNBACK_REDIS_URL", valkey_url)
    assert run("migrate", "--take-streams") == {"migrated": True}
    monkeypatch.setenv("LEARNBACK_HOME", str(platform_home))
    assert "two loops would mix" in run("migrate", code=1)


def test_migrate_waits_for_a_redis_that_comes_late(
    platform_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    monkeypatch.setenv("LEARNBACK_REDIS_URL", f"redis://127.0.0.1:{port}/0")
    monkeypatch.setattr("learnback.local.operations.RETRY_S", 0.2)
    assert "Redis can't be reached" in run("migrate", code=1)
    with ThreadPoolExecutor() as pool:
        migrating = pool.submit(run, "migrate", "--wait", "60")
        server = valkey.start(platform_home / "late", port)
        try:
            assert migrating.result(60) == {"migrated": True}
        finally:
            server.stop()


def test_a_key_is_shown_once_and_can_be_revoked(platform_home: Path) -> None:
    made = run("keys", "create", "phone-app", "--scope", "feedback", "--days", "30")
    assert made["key"].startswith("lb_")
    (listed,) = run("keys", "list")
    assert (listed["id"], listed["scopes"]) == (made["id"], ["feedback"])
    assert made["key"] not in json.dumps(listed)
    assert run("keys", "revoke", made["id"])["revoked"] is True
    assert run("keys", "list")[0]["revoked_at"] is not None


def test_revoking_an_unknown_key_fails_with_a_sentence(platform_home: Path) -> None:
    assert "Error: " in run("keys", "revoke", "nobody", code=1)


def test_dead_letters_are_listed_and_put_back(platform_home: Path, valkey_url: str) -> None:
    asyncio.run(_bury(valkey_url))
    (letter,) = run("streams", "dead", "models")
    assert (letter["group"], letter["error"]) == ("release", "poison")
    assert run("streams", "replay", "models")["replayed"] == [letter["id"]]
    assert run("streams", "dead", "models") == []
    lag = {(q["stream"], q["group"]): q["lag"] for q in run("streams", "lag")}
    assert lag["models", "release"] == 2  # the message, and its replay
    assert "there are: completions" in run("streams", "dead", "nothing", code=1)


async def _bury(url: str) -> None:
    redis = connect(url)
    message = a_model_trained()
    await publish(redis, MODELS, [message])
    await redis.xadd(
        MODELS.dead_key,
        {
            "type": message.type,
            "body": message.model_dump_json(),
            "group": "release",
            "error": "poison",
        },
    )
    await redis.aclose()


def test_promote_and_roll_back_are_kept_in_the_history(platform_home: Path) -> None:
    asyncio.run(_register(platform_home, "v1", "v2"))
    run("promote", "v1", "--reason", "first")
    run("promote", "v2", "--reason", "better")
    assert run("status")["stable"] == "v2"
    assert run("rollback", "--reason", "people complain")["version"] == "v1"
    assert run("status")["stable"] == "v1"
    assert "Error: " in run("promote", "nobody", "--reason", "typo", code=1)


def test_releases_are_listed_told_and_found_by_time(platform_home: Path) -> None:
    asyncio.run(_register(platform_home, "v1", "v2"))
    before = datetime.now(UTC).isoformat()
    run("promote", "v1", "--reason", "first")
    between = datetime.now(UTC).isoformat()
    run("promote", "v2", "--reason", "better")
    listed = {v["name"]: v for v in run("releases")["versions"]}
    assert (listed["v1"]["phase"], listed["v1"]["weight"]) == ("Promoted", 0.0)
    assert (listed["v2"]["track"], listed["v2"]["weight"]) == ("stable", 1.0)
    told = run("releases", "show", "v1")
    assert [m["version"] for m in told["history"]] == ["v2", "v1"]
    assert run("releases", "--at", between)["stable"]["version"] == "v1"
    assert run("releases", "--at", before)["stable"] is None
    assert "no time" in run("releases", "--at", "yesterday", code=1)
    asked = run("releases", "ask", "v1", "--reason", "once more")
    assert (asked["phase"], asked["release"]["asked_reason"]) == ("Registered", "once more")
    assert "does not wait" in run("releases", "approve", "v1", "--reason", "fine", code=1)
    for shown in (["releases"], ["releases", "show", "v1"], ["releases", "--at", between]):
        printed = CliRunner().invoke(main, shown)
        assert printed.exit_code == 0, printed.output
        assert "v1" in printed.stdout


def test_the_report_of_an_evaluation_is_shown_or_written(
    platform_home: Path, tmp_path: Path
) -> None:
    asyncio.run(_register(platform_home, "plain"))
    asyncio.run(_evaluated(platform_home, "v1"))
    assert run("releases", "report", "v1")["verdict"] == "passed"
    printed = CliRunner().invoke(main, ["releases", "report", "v1"])
    assert "# new against old: passed" in printed.stdout
    for name, mark in (("report.html", "<svg"), ("report.md", "## Win rate")):
        asked = ["releases", "report", "v1", "--out", str(tmp_path / name)]
        written = CliRunner().invoke(main, asked)
        assert written.exit_code == 0, written.output
        assert mark in (tmp_path / name).read_text()
    assert "was not evaluated" in CliRunner().invoke(main, ["releases", "report", "plain"]).output


async def _evaluated(home: Path, name: str) -> None:
    database = Database(f"sqlite:///{home / 'ledger.db'}")
    report = decide(an_evaluation(), GatePolicy(reward_hack=False)).as_json()
    async with database.write() as connection:
        await store.register(connection, a_version(name, gate_report=report))
    await database.close()


def test_what_needs_a_running_platform_says_so(platform_home: Path) -> None:
    assert "learnback up" in run("train", code=1)


def test_status_of_an_empty_platform(platform_home: Path) -> None:
    status = run("status")
    assert status["stable"] is None
    assert status["versions"] == []
    assert {q["lag"] for q in status["queues"]} == {0}
    shown = CliRunner().invoke(main, ["status"])
    assert shown.exit_code == 0
    assert "Versions: none" in shown.stdout
