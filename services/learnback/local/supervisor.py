"""Starts the processes of one machine, keeps them running, and drains them at the end."""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from learnback.core.errors import Conflict, LearnbackError

log = logging.getLogger(__name__)

STOP_S = 30.0
"""Longest wait for a process to drain before it is killed; over core.process.DRAIN_S."""
STABLE_S = 60.0
"""A process that ran this long is healthy again: its restart delay starts over."""
MAX_DELAY_S = 30.0
PR_SET_PDEATHSIG = 1


class StartFailed(LearnbackError):
    """A process ended or did not get ready; the message holds the end of its log."""

    code, title = "start_failed", "Start failed"


@dataclass
class Child:
    """One process: what to run, where it listens, and how often it had to be started."""

    name: str
    command: Sequence[str]
    url: str
    environment: Mapping[str, str]
    log_path: Path
    ready: Callable[[], Awaitable[bool]] | None = None
    """How to tell that it is ready; None: `GET <url>/readyz` answers 200."""
    process: asyncio.subprocess.Process | None = None
    starts: int = 0
    started_at: float = 0.0
    watcher: asyncio.Task[None] | None = field(default=None, repr=False)

    @property
    def pid(self) -> int | None:
        """The process id, while it runs."""
        if self.process is None or self.process.returncode is not None:
            return None
        return self.process.pid


class Supervisor:
    """A set of children. `start` each, `wait_ready`, then `stop` in the given order."""

    def __init__(self) -> None:
        self.children: dict[str, Child] = {}
        self.stopping = False

    async def start(self, child: Child) -> None:
        """Start a process and restart it whenever it ends by itself."""
        self.children[child.name] = child
        await self._spawn(child)
        child.watcher = asyncio.create_task(self._watch(child), name=f"watch-{child.name}")

    async def wait_ready(
        self,
        name: str,
        timeout_s: float,
        *,
        progress: Callable[[float], None] = lambda seconds: None,
    ) -> None:
        """Wait until `/readyz` says yes; StartFailed if it does not, or the process keeps dying."""
        child = self.children[name]
        begin = time.monotonic()
        async with httpx.AsyncClient(timeout=2.0, trust_env=False) as client:
            while True:
                seconds = time.monotonic() - begin
                progress(seconds)
                if await (child.ready() if child.ready else _ready(client, child.url)):
                    return
                if child.starts > 2:
                    raise StartFailed(f"{name} keeps ending at its start.\n{log_end(child)}")
                if seconds > timeout_s:
                    raise StartFailed(
                        f"{name} was not ready after {timeout_s:g} s.\n{log_end(child)}"
                    )
                await asyncio.sleep(0.2)

    async def stop(self, order: Sequence[str] = ()) -> None:
        """Drain and end every child, one after the other in `order`, the rest together."""
        self.stopping = True
        for child in self.children.values():
            if child.watcher is not None:
                child.watcher.cancel()
        for name in order:
            if name in self.children:
                await _end(self.children[name])
        await asyncio.gather(*(_end(child) for child in self.children.values()))

    async def _watch(self, child: Child) -> None:
        delay = 1.0
        while True:
            assert child.process is not None  # noqa: S101  # spawned before it is watched
            code = await child.process.wait()
            if self.stopping:
                return
            _kill_group(child.process.pid)  # what it left behind would hold its port or its memory
            if time.monotonic() - child.started_at > STABLE_S:
                delay = 1.0
            log.warning("%s ended with %s; it starts again in %g s", child.name, code, delay)
            await asyncio.sleep(delay)
            delay = min(delay * 2, MAX_DELAY_S)
            await self._spawn(child)

    async def _spawn(self, child: Child) -> None:
        child.log_path.parent.mkdir(parents=True, exist_ok=True)
        with child.log_path.open("ab") as output:
            child.process = await asyncio.create_subprocess_exec(
                *child.command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, **child.environment},
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )
        child.starts += 1
        child.started_at = time.monotonic()


def own_command(process: str) -> list[str]:
    """The command line of one of our processes, in this interpreter."""
    return [sys.executable, "-m", "learnback.cli", process]


def log_end(child: Child, lines: int = 15) -> str:
    """The last lines of a child's log, for an error message."""
    try:
        text = child.log_path.read_text(errors="replace")
    except FileNotFoundError:
        text = ""
    return "\n".join([f"The end of {child.log_path}:", *text.splitlines()[-lines:]])


def free_port(host: str = "127.0.0.1") -> int:
    """A port that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def check_port(host: str, port: int) -> None:
    """Conflict if somebody listens on `port` already."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            raise Conflict(
                f"Port {port} on {host} is taken. Name another first port with --port.",
                field="--port",
            ) from None


async def _ready(client: httpx.AsyncClient, url: str) -> bool:
    try:
        return (await client.get(f"{url}/readyz")).status_code == 200
    except httpx.HTTPError:
        return False


async def _end(child: Child) -> None:
    process = child.process
    if process is None or process.returncode is not None:
        return
    process.terminate()
    try:
        await asyncio.wait_for(process.wait(), STOP_S)
    except TimeoutError:
        log.warning("%s did not drain in %g s; it is killed", child.name, STOP_S)
    _kill_group(process.pid)  # whatever it left behind in its session
    await process.wait()


def _kill_group(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _die_with_parent() -> None:
    """In the child, before exec: get SIGTERM when the supervisor dies, however it dies."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
