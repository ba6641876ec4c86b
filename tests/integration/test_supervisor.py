"""The supervisor keeps processes running, drains them, and leaves none behind."""

from __future__ import annotations

import os
import signal
import socket
import sys
from pathlib import Path

import psutil
import pytest
from tests.conftest import wait_until

from learnback.core.errors import Conflict
from learnback.local.home import Running, lock, read_running, write_running
from learnback.local.supervisor import Child, StartFailed, Supervisor, check_port, free_port

SERVER = """
import http.server, sys
class Ready(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
    def log_message(self, *a): pass
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Ready).serve_forever()
"""


def a_server(tmp_path: Path) -> Child:
    port = free_port()
    command = [sys.executable, "-c", SERVER, str(port)]
    return Child("server", command, f"http://127.0.0.1:{port}", {}, tmp_path / "server.log")


async def test_a_killed_process_is_started_again(tmp_path: Path) -> None:
    supervisor, child = Supervisor(), a_server(tmp_path)
    await supervisor.start(child)
    try:
        await supervisor.wait_ready("server", 20)
        first = child.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        await wait_until(lambda: child.pid not in (None, first), "another process")
        await supervisor.wait_ready("server", 20)
        last = child.pid
    finally:
        await supervisor.stop()
    assert not psutil.pid_exists(last or 0)


async def test_a_process_that_keeps_ending_fails_with_its_log(tmp_path: Path) -> None:
    supervisor = Supervisor()
    command = [sys.executable, "-c", "raise SystemExit('no such model')"]
    await supervisor.start(
        Child("server", command, "http://127.0.0.1:9", {}, tmp_path / "server.log")
    )
    try:
        with pytest.raises(StartFailed, match="no such model"):
            await supervisor.wait_ready("server", 30)
    finally:
        await supervisor.stop()


def test_a_taken_port_names_the_option() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(Conflict, match="--port"):
            check_port("127.0.0.1", taken.getsockname()[1])


def test_a_home_is_for_one_platform(tmp_path: Path) -> None:
    held = lock(tmp_path)
    with pytest.raises(Conflict, match="--home"):
        lock(tmp_path)
    held.close()
    lock(tmp_path).close()


def test_a_platform_that_died_is_not_running(tmp_path: Path) -> None:
    write_running(tmp_path, Running(pid=os.getpid(), redis_url="redis://x"))
    assert read_running(tmp_path) is not None
    write_running(tmp_path, Running(pid=2**22 - 1, redis_url="redis://x"))
    assert read_running(tmp_path) is None
