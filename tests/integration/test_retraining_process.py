"""The retraining process as a whole: its API, and a kill -9 in the middle of real training."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.conftest import wait_until
from tests.learning import JOB, held_out, signal_rows, statuses, tell
from tests.tiny_model import small, tiny_model

from learnback.contracts.models import Alias, Scope
from learnback.core.settings import CommonSettings
from learnback.ledger.database import Database
from learnback.ledger.keys import create_key
from learnback.ledger.runs import RunState, list_runs
from learnback.registry import store
from learnback.registry.artifacts import ArtifactStore
from learnback.retraining.app import create_app
from learnback.retraining.settings import RetrainingSettings

__all__ = ["tiny_model"]

pytestmark = pytest.mark.timeout(240)


@pytest.fixture
async def http(
    sqlite_database: Database, redis: Any, tmp_path: Path, request: pytest.FixtureRequest
) -> AsyncIterator[httpx.AsyncClient]:
    """The API with its workers; `indirect` parameters say whether it asks for keys."""
    async with sqlite_database.write() as c:
        base = await store.ensure_base(c, "tiny", "b" * 64, actor="test")
    app = create_app(
        RetrainingSettings(job_command=JOB, poll=timedelta(milliseconds=20), automatic=False),
        CommonSettings(home=tmp_path, require_keys=getattr(request, "param", False)),
        database=sqlite_database,
        redis=redis,
        base=base,
    )
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://test") as client,
    ):
        yield client


async def ended(http: httpx.AsyncClient, run_id: str) -> dict[str, Any]:
    async def look() -> dict[str, Any] | None:
        found = (await http.get(f"/admin/v1/runs/{run_id}")).json()
        return found if found["finished_at"] else None

    run: dict[str, Any] = await wait_until(look, f"{run_id} ends")
    return run


async def test_a_run_is_asked_for_and_followed(
    http: httpx.AsyncClient, sqlite_database: Database
) -> None:
    await tell(sqlite_database, 10)
    body = {"reason": "curious", "seed": 3, "hyperparameters": {"beta": 0.7}}
    asked = await http.post("/admin/v1/runs", json=body)
    assert asked.status_code == 202
    run = await ended(http, asked.json()["id"])
    assert (run["state"], run["seed"], run["reason"]) == ("done", 3, "curious")
    assert (run["config"]["beta"], run["config"]["lora_rank"]) == (0.7, 16)
    assert (run["progress"]["step"], run["progress"]["max_steps"]) == (3, 3)
    listed = (await http.get("/admin/v1/runs")).json()
    assert [r["id"] for r in listed["runs"]] == [run["id"]]


async def test_a_plain_wish_gets_the_method_that_fits(
    http: httpx.AsyncClient, sqlite_database: Database
) -> None:
    await tell(sqlite_database, 10)
    plan = (await http.get("/admin/v1/runs/plan")).json()
    assert (plan["method"], plan["refused"], plan["waiting"]) == ("dpo", None, {"preference": 10})
    asked = (await http.post("/admin/v1/runs", json={})).json()
    assert asked["method"] == "auto"
    run = await ended(http, asked["id"])
    assert (run["method"], run["state"]) == ("dpo", "done")
    assert run["config"]["beta"] == 0.2
    assert run["progress"]["why"].startswith("9 pairs")


async def test_a_method_is_asked_for_by_name_with_its_settings(
    http: httpx.AsyncClient, sqlite_database: Database
) -> None:
    await tell(sqlite_database, 10)
    body = {"method": "kto", "hyperparameters": {"desirable_weight": 2}}
    run = await ended(http, (await http.post("/admin/v1/runs", json=body)).json()["id"])
    assert (run["method"], run["state"]) == ("kto", "done")
    assert run["config"]["desirable_weight"] == 2.0
    refused = await http.get("/admin/v1/runs/plan", params={"method": "sft"})
    assert "no correction" in refused.json()["refused"]


async def test_the_report_of_a_run_is_a_page(
    http: httpx.AsyncClient, sqlite_database: Database
) -> None:
    await tell(sqlite_database, 10)
    run = await ended(http, (await http.post("/admin/v1/runs", json={})).json()["id"])
    page = await http.get(f"/admin/v1/runs/{run['id']}/report")
    assert page.headers["content-type"].startswith("text/html")
    assert page.text == f"<h1>{run['id']}</h1>"
    plain = await http.get(f"/admin/v1/runs/{run['id']}/report", params={"format": "md"})
    assert plain.text == f"# {run['id']}"
    failed = (await http.post("/admin/v1/runs", json={"method": "sft"})).json()["id"]
    await ended(http, failed)
    missing = await http.get(f"/admin/v1/runs/{failed}/report")
    assert missing.status_code == 404
    assert "has no report" in missing.json()["detail"]


async def test_a_run_without_data_says_what_is_missing(http: httpx.AsyncClient) -> None:
    asked = await http.post("/admin/v1/runs", json={})
    run = await ended(http, asked.json()["id"])
    assert run["state"] == "failed"
    assert "nothing to train on" in run["reason"]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"method": "magic"}, "method"),
        ({"seed": -1}, "seed"),
        ({"seed": "x"}, "seed"),
        ({"hyperparameters": {"beta": 0}}, "hyperparameters.beta"),
        ({"hyperparameters": {"unknown": 1}}, "hyperparameters.unknown"),
        ({"method": "sft", "hyperparameters": {"beta": 1}}, "hyperparameters.beta"),
        ({"method": "kto", "hyperparameters": {"batch_size": 1}}, "hyperparameters.batch_size"),
        ({"reason": ""}, "reason"),
        ({"surprise": 1}, "surprise"),
        ([], ""),
    ],
)
async def test_a_wrong_wish_is_refused_and_leaves_no_run(
    http: httpx.AsyncClient, body: Any, field: str
) -> None:
    answer = await http.post("/admin/v1/runs", json=body)
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert field in [error["field"] for error in answer.json()["errors"]]
    assert (await http.get("/admin/v1/runs")).json()["runs"] == []


async def test_unknown_and_ended_runs_cannot_be_cancelled(
    http: httpx.AsyncClient, sqlite_database: Database
) -> None:
    assert (await http.delete("/admin/v1/runs/run_none")).status_code == 404
    assert (await http.get("/admin/v1/runs/run_none")).status_code == 404
    asked = await http.post("/admin/v1/runs", json={})
    run = await ended(http, asked.json()["id"])
    again = await http.delete(f"/admin/v1/runs/{run['id']}")
    assert again.status_code == 409
    assert "is failed" in again.json()["detail"]


async def test_cancelling_frees_the_signals(
    http: httpx.AsyncClient, sqlite_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUICK_JOB", "wait")
    await tell(sqlite_database, 10)
    run_id = (await http.post("/admin/v1/runs", json={})).json()["id"]

    async def training() -> bool:
        run = (await http.get(f"/admin/v1/runs/{run_id}")).json()
        return bool(run["progress"].get("step"))

    await wait_until(training, "the job trains")
    assert (await http.delete(f"/admin/v1/runs/{run_id}")).json()["state"] == "cancelled"
    async with sqlite_database.read() as c:
        assert await statuses(c) == {"accepted": 10}


@pytest.mark.parametrize("http", [True], indirect=True)
async def test_only_an_admin_may_ask(http: httpx.AsyncClient, sqlite_database: Database) -> None:
    async with sqlite_database.write() as c:
        _, low = await create_key(c, "default", "low", [Scope.INFER])
        _, high = await create_key(c, "default", "high", [Scope.ADMIN])
    assert (await http.get("/admin/v1/runs")).status_code == 401
    for key, status in ((low, 403), (high, 200)):
        answer = await http.get("/admin/v1/runs", headers={"Authorization": f"Bearer {key}"})
        assert answer.status_code == status


async def test_it_is_ready_and_shows_its_metrics(http: httpx.AsyncClient) -> None:
    async def ready() -> bool:
        return (await http.get("/readyz")).status_code == 200

    await wait_until(ready, "the process is ready")
    assert "learnback_retraining_active_runs" in (await http.get("/metrics")).text


class Process:
    """`learnback retraining` on a real ledger, Valkey and training job."""

    def __init__(self, home: Path, database: Database, valkey_url: str, model: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.home = home
        self.environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("LEARNBACK_")},
            "LEARNBACK_HOME": str(home),
            "LEARNBACK_REDIS_URL": valkey_url,
            "LEARNBACK_DATABASE_URL": database.engine.url.render_as_string(hide_password=False),
            "LEARNBACK_MODEL": str(model),
            "LEARNBACK_RETRAINING_PORT": str(self.port),
            "LEARNBACK_RETRAINING_MIN_NEW_SIGNALS": "20",
            "LEARNBACK_RETRAINING_POLL": "PT0.1S",
            "LEARNBACK_RETRAINING_HYPERPARAMETERS": HYPERPARAMETERS.model_dump_json(),
            "HF_HUB_OFFLINE": "1",
        }
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        code = "from learnback.retraining.app import main; main()"
        with (self.home / "process.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", code], env=self.environment, stdout=log, stderr=log
            )

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def end_jobs(self) -> None:
        for pid_file in self.home.glob("runs/*/job.pid"):
            with suppress(ProcessLookupError, ValueError):
                os.killpg(int(pid_file.read_text()), signal.SIGKILL)

    def logs(self) -> str:
        files = [self.home / "process.log", *self.home.glob("runs/*/job.log")]
        return "\n".join(f.read_text()[-3000:] for f in files if f.exists())


HYPERPARAMETERS = small(max_steps=40, checkpoint_every=5)


@pytest.fixture
def process(
    sqlite_database: Database, valkey_url: str, redis: Any, tmp_path: Path, tiny_model: Path
) -> Iterator[Process]:
    found = Process(tmp_path, sqlite_database, valkey_url, tiny_model)
    yield found
    found.kill()
    found.end_jobs()


@pytest.mark.parametrize("victim", ["process", "process and job"])
async def test_a_kill_in_mid_training_costs_nothing(
    process: Process, sqlite_database: Database, victim: str
) -> None:
    ids = await tell(sqlite_database, 40)
    process.start()

    def trained_a_while() -> bool:
        return bool(list(process.home.glob("runs/*/checkpoints/checkpoint-*/whole")))

    try:
        await wait_until(trained_a_while, "a checkpoint is there", 120)
        process.kill()
        if victim == "process and job":
            process.end_jobs()
        process.start()

        async def done() -> Any:
            async with sqlite_database.read() as c:
                found = await list_runs(c)
            assert len(found) == 1
            assert found[0].state is not RunState.FAILED, found[0].reason
            return found[0] if found[0].state is RunState.DONE else None

        run = await wait_until(done, "the run is done", 150)
    except BaseException:
        print(process.logs())
        raise
    kept = held_out(ids)
    async with sqlite_database.read() as c:
        assert await statuses(c) == {"trained": len(ids) - len(kept), "held_out": len(kept)}
        adapter = await store.get(c, run.version)
        assert (await store.alias_state(c, Alias.REWARD)).revision == 1
    assert {row.revision for row in (await signal_rows(sqlite_database)).values()} == {2}
    assert adapter.metrics["steps"] == 40
    fetched = ArtifactStore(f"file://{process.home}/artifacts").fetch(
        str(adapter.artifact), str(adapter.artifact_digest), process.home / "fetched"
    )
    assert (fetched / "adapter_model.safetensors").stat().st_size > 1000


async def test_without_a_model_it_says_what_to_set(process: Process) -> None:
    process.environment["LEARNBACK_MODEL"] = ""
    process.start()
    assert process.process is not None
    assert process.process.wait(30) == 1
    assert "LEARNBACK_MODEL is not set" in process.logs()
