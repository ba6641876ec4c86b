"""Starts training jobs and tells how they fare: what every place for jobs does, and one machine.

The job holds a lock on its run folder as long as it lives, given to it as an open file. So whoever
comes after a crash of this process knows for certain whether the job still runs (no stale process
id is ever believed), and two jobs never train in one folder.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Protocol

from pydantic import ValidationError

from learnback.retraining.plan import PROGRESS_FILE, RESULT_FILE, ExitCode, Progress

log = logging.getLogger(__name__)

LOCK_FILE, PID_FILE, LOG_FILE = "job.lock", "job.pid", "job.log"
LAUNCHERS_FAILURE = 1
"""What `accelerate launch` and `torchrun` end with, whatever their processes said."""
KILL_WAIT_S = 10.0
"""How long SIGKILL may take to show; a process stuck in the disk is given up on."""
SHELL = ("/bin/sh", "-c", 'echo $$ > "$0"; exec nice -n "$NICENESS" "$@"')
"""The job's shell writes its own id before it becomes the job: no crash of ours can lose it."""


class Vital(Enum):
    """Whether a job runs."""

    ABSENT = "absent"
    """Nothing runs and nothing is known of how it ended."""
    ALIVE = "alive"
    ENDED = "ended"


@dataclass(frozen=True)
class JobStatus:
    """How a job fares; `exit_code` only for ENDED."""

    vital: Vital
    exit_code: int | None = None
    progress: Progress | None = None
    note: str | None = None
    """What the place says of it, for people: why it waits, or how it ended."""
    final: bool = False
    """The place has tried as often as it may: starting it again is of no use."""


class Launcher(Protocol):
    """What the retraining process needs of a place where jobs run."""

    async def start(self, folder: Path) -> None:
        """Run the job of that folder, unless it runs."""

    async def status(self, folder: Path) -> JobStatus:
        """How the job of that folder fares, whoever started it."""

    async def stop(self, folder: Path, *, grace_s: float) -> None:
        """Ask the job to save and stop; kill it after `grace_s` seconds. Idempotent."""

    async def leave(self, folder: Path, *, grace_s: float) -> None:
        """This process ends: stop the job, or let it go on where it can without us."""


class SubprocessLauncher:
    """Jobs as processes of this machine, in their own process groups and at low priority."""

    def __init__(self, command: list[str], *, threads: int, niceness: int) -> None:
        self.command = command or [sys.executable, "-m", "learnback.retraining.job"]
        self.threads = threads
        self.niceness = niceness
        self._children: dict[Path, subprocess.Popen[bytes]] = {}

    async def start(self, folder: Path) -> None:
        """Run the job of that folder, unless it runs."""
        self._spawn(folder)

    def _spawn(self, folder: Path) -> None:
        lock = hold(folder / LOCK_FILE)
        if lock is None:
            return
        try:
            (folder / PID_FILE).unlink(missing_ok=True)
            with (folder / LOG_FILE).open("ab") as output:
                self._children[folder] = subprocess.Popen(
                    [*SHELL, str(folder / PID_FILE), *self.command, str(folder)],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env=self._environment(),
                    start_new_session=True,
                    pass_fds=(lock,),
                )
        finally:
            os.close(lock)  # the child holds its own copy

    async def status(self, folder: Path) -> JobStatus:
        """How the job of that folder fares, whoever started it."""
        progress = read_progress(folder)
        child = self._children.get(folder)
        code = child.poll() if child is not None else None
        held = code is None and _held(folder)
        if child is not None and code is None and not held:
            with suppress(subprocess.TimeoutExpired):
                code = child.wait(KILL_WAIT_S)  # it let go of its lock since: it is just ending
        done = (folder / RESULT_FILE).is_file()
        if code is not None:
            broken = code == ExitCode.DONE and not done
            return JobStatus(
                Vital.ENDED, ExitCode.INTERNAL if broken else meant(code, progress), progress
            )
        if held:
            return JobStatus(Vital.ALIVE, progress=progress)
        if done:
            return JobStatus(Vital.ENDED, ExitCode.DONE, progress)
        return JobStatus(Vital.ABSENT, progress=progress)

    async def stop(self, folder: Path, *, grace_s: float) -> None:
        """Ask the job to save and stop; kill it after `grace_s` seconds. Idempotent."""
        if not await self._gone(folder, signal.SIGTERM, grace_s):
            log.warning("%s did not stop within %g s: killed", folder.name, grace_s)
            await self._gone(folder, signal.SIGKILL, KILL_WAIT_S)

    async def leave(self, folder: Path, *, grace_s: float) -> None:
        """Let the job save and stop; the next start of this process goes on with it."""
        await self.stop(folder, grace_s=grace_s)

    async def _gone(self, folder: Path, number: signal.Signals, wait_s: float) -> bool:
        """Send a signal and wait; the signal goes out again if the job had no id yet."""
        deadline = time.monotonic() + wait_s
        sent = False
        while (await self.status(folder)).vital is Vital.ALIVE:
            sent = sent or _signal(folder, number)
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(0.05)
        return True

    def _environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "OMP_NUM_THREADS": str(self.threads),
            "MKL_NUM_THREADS": str(self.threads),
            "TOKENIZERS_PARALLELISM": "false",
            "NICENESS": str(self.niceness),
        }


def hold(path: Path) -> int | None:
    """Lock a file until the descriptor that is returned is closed; None if somebody holds it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def _held(folder: Path) -> bool:
    if not (folder / LOCK_FILE).exists():
        return False
    lock = hold(folder / LOCK_FILE)
    if lock is None:
        return True
    os.close(lock)
    return False


def _signal(folder: Path, number: signal.Signals) -> bool:
    """Signal the whole process group of the job that holds the lock; False if it has no id yet."""
    try:
        group = int((folder / PID_FILE).read_text())
    except (OSError, ValueError):
        return False
    with suppress(ProcessLookupError):
        os.killpg(group, number)
    return True


def read_progress(folder: Path) -> Progress | None:
    """What the job last said of itself; None if it has not, or not readably."""
    try:
        return Progress.model_validate_json((folder / PROGRESS_FILE).read_bytes())
    except (OSError, ValidationError):
        return None


def meant(code: int, progress: Progress | None) -> int:
    """The job's own exit code, where `accelerate launch` or `torchrun` said 1 for it."""
    said = progress.exit_code if progress is not None else None
    return said if code == LAUNCHERS_FAILURE and said is not None else code
