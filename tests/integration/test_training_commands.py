"""What `learnback train` and `learnback runs` say, against a live retraining process."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from click.testing import CliRunner
from tests.learning import JOB, statuses, tell

from learnback.cli import main
from learnback.core.redis import connect
from learnback.core.settings import CommonSettings
from learnback.ledger.database import Database
from learnback.retraining.app import create_app, prepare
from learnback.retraining.settings import RetrainingSettings

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def url(valkey_url: str, redis: Any, tmp_path: Path) -> Iterator[str]:
    """A retraining process with ten preferences, served from a thread of its own."""
    common = CommonSettings(home=tmp_path, model="tiny")
    settings = RetrainingSettings(job_command=JOB, poll=timedelta(milliseconds=20), automatic=False)

    async def fill() -> Any:
        database = Database(common.ledger_url)
        base = await prepare(common, database)
        await tell(database, 10)
        await database.close()
        return base

    database, redis_client = Database(common.ledger_url), connect(valkey_url)
    app = create_app(
        settings,
        common,
        database=database,
        redis=redis_client,
        base=asyncio.run(fill()),
        close=[redis_client.aclose, database.close],
    )
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, timeout_graceful_shutdown=5))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    deadline = time.monotonic() + 30
    while not server.started and time.monotonic() < deadline and thread.is_alive():
        time.sleep(0.01)
    assert server.started
    yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    server.should_exit = True
    thread.join()


def run(*arguments: str, code: int = 0) -> str:
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == code, done.output
    return done.output


def ended(url: str) -> dict[str, Any]:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        newest: dict[str, Any] = json.loads(run("runs", "list", "--json", "--url", url))["runs"][0]
        if newest["finished_at"]:
            return newest
        time.sleep(0.05)
    pytest.fail("the run never ended")


def test_a_run_is_seen_before_it_starts_then_asked_for_and_its_report_read(
    url: str, tmp_path: Path
) -> None:
    shown = run("train", "--dry-run", "--url", url)
    assert "The next run: dpo, since 9 pairs" in shown
    assert "9 new signals; 2 steps; time unknown yet." in shown
    plan = json.loads(run("train", "--dry-run", "--method", "sft", "--json", "--url", url))
    assert plan["method"] == "sft"
    assert "no correction" in plan["refused"]
    assert "No run would start" in run("train", "--dry-run", "--method", "sft", "--url", url)
    assert json.loads(run("runs", "list", "--json", "--url", url))["runs"] == []
    asked = json.loads(run("train", "--method", "kto", "--seed", "3", "--json", "--url", url))
    done = ended(url)
    assert (done["id"], done["method"], done["state"]) == (asked["id"], "kto", "done")
    assert "kto" in run("runs", "list", "--url", url)
    assert run("runs", "report", done["id"], "--url", url) == f"# {done['id']}\n"
    page = tmp_path / "report.html"
    assert str(page) in run("runs", "report", done["id"], "--out", str(page), "--url", url)
    assert page.read_text() == f"<h1>{done['id']}</h1>"
    assert "no run 'run_none'" in run("runs", "report", "run_none", "--url", url, code=1)


def test_a_wrong_method_is_refused_at_once(url: str) -> None:
    assert "magic" in run("train", "--method", "magic", "--url", url, code=2)


async def test_a_dry_run_leaves_all_signals_waiting(url: str, tmp_path: Path) -> None:
    await asyncio.to_thread(run, "train", "--dry-run", "--url", url)
    database = Database(CommonSettings(home=tmp_path).ledger_url)
    async with database.read() as c:
        assert await statuses(c) == {"accepted": 10}
    await database.close()
