"""One whole platform for all end-to-end tests, started as a user would: `learnback up`.

The engine is a real vLLM (on the CPU where there is no GPU) with a tiny random Llama.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from tests.e2e.engine import Engine, running_engine

from learnback.models.tiny import make_tiny_llama

START_S = 300.0
STOP_S = 120.0

PLATFORM_ENVIRONMENT = {
    "LEARNBACK_INFERENCE_ENGINE_ARGS": "--max-model-len 512 --max-num-seqs 32",
    "LEARNBACK_RETRAINING_AUTOMATIC": "false",  # the tests ask for runs themselves
    "OMP_NUM_THREADS": "1",  # two spinning threads cost ten times the CPU of one here
}
SIGNS = {"inference": "LearnbackMiddleware", "valkey": "valkey"}
"""What the command line of a process shows, where it is not the process's name."""


@dataclass(frozen=True)
class Up:
    """A running `learnback up` and what it said of itself."""

    process: subprocess.Popen[bytes]
    home: Path
    model: Path
    urls: dict[str, str]
    redis_url: str

    def cli(self, *arguments: str, check: bool = True) -> Any:
        """The JSON answer of an operator's command on this platform."""
        command = [sys.executable, "-m", "learnback.cli", *arguments, "--json"]
        done = subprocess.run(
            [*command, "--home", str(self.home)], capture_output=True, text=True, timeout=120
        )
        if check:
            assert done.returncode == 0, done.stderr
            return json.loads(done.stdout)
        return done

    def child(self, name: str) -> psutil.Process:
        """The running process of that name."""
        for child in psutil.Process(self.process.pid).children():
            if any(SIGNS.get(name, name) in part for part in child.cmdline()):
                return child
        raise LookupError(f"no process {name}")


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random Llama of 100,000 parameters."""
    return make_tiny_llama(tmp_path_factory.mktemp("models") / "tiny-llama", seed=0)


@pytest.fixture(scope="session")
def up(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """The platform; at the end Ctrl-C must stop all of it within its time."""
    home = tmp_path_factory.mktemp("home")
    port = _five_free_ports()
    log = (home / "up.log").open("wb")
    command = [sys.executable, "-m", "learnback.cli", "up", "--model", str(tiny_llama)]
    process = subprocess.Popen(
        [*command, "--home", str(home), "--port", str(port)],
        stdout=log,
        stderr=log,
        env={**os.environ, **PLATFORM_ENVIRONMENT},
        start_new_session=True,
    )
    try:
        said = _wait_for_up(process, home)
        yield Up(process, home, tiny_llama, said["urls"], said["redis_url"])
    finally:
        family = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGINT)
        try:
            code = process.wait(STOP_S)
        finally:
            left = [p for p in psutil.wait_procs(family, timeout=5)[1] if p.is_running()]
            for leaked in left:
                leaked.kill()
    assert code == 0, (home / "up.log").read_text()
    assert not left, f"left running: {left}"


@pytest.fixture(scope="session")
def engine(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """The inference process alone, with a real vLLM."""
    with running_engine(tiny_llama, tmp_path_factory.mktemp("engine")) as running:
        yield running


@pytest.fixture
def http() -> Iterator[httpx.Client]:
    """A plain HTTP client."""
    with httpx.Client(timeout=120, trust_env=False) as client:
        yield client


def _wait_for_up(process: subprocess.Popen[bytes], home: Path) -> dict[str, Any]:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            return dict(json.loads((home / "up.json").read_text()))
        except FileNotFoundError:
            time.sleep(0.2)
    logs = "\n".join(
        f"--- {path.name}\n{path.read_text(errors='replace')[-4000:]}"
        for path in [home / "up.log", *sorted((home / "logs").glob("*.log"))]
    )
    pytest.fail(f"the platform did not start\n{logs}")


def _five_free_ports() -> int:
    """The first of five ports in a row that nobody listens on."""
    import socket

    for first in range(18000, 28000, 10):
        held = []
        try:
            for port in range(first, first + 5):
                probe = socket.socket()
                held.append(probe)
                probe.bind(("127.0.0.1", port))
            return first
        except OSError:
            continue
        finally:
            for probe in held:
                probe.close()
    pytest.fail("no five free ports in a row")
