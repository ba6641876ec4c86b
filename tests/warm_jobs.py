"""Training jobs as processes of their own that start in a moment: see job_server.py."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from learnback.retraining.launcher import JobStatus, Vital, read_progress
from learnback.retraining.plan import ExitCode, Progress, RunResult

WAIT_S = 120.0


class Job:
    """One process that runs, or ran, the job of a folder."""

    def __init__(self, jobs: Jobs, run: Path, process: int) -> None:
        self.jobs, self.run, self.process = jobs, run, process
        self.status: int | None = None

    @property
    def output(self) -> str:
        path = self.run / f"output-{self.process}"
        return path.read_text(errors="replace") if path.exists() else ""

    def poll(self) -> int | None:
        if self.status is None:
            said = self.jobs.ask(f"poll {self.process}")
            self.status = None if said == "-" else int(said)
        return self.status

    def send(self, number: signal.Signals) -> None:
        os.kill(self.process, number)

    def finish(self) -> int:
        """The exit status, once there is one."""
        self.wait_until("the end of the job", lambda: self.poll() is not None)
        assert self.status is not None
        return self.status

    def wait_until(self, what: str, predicate: Callable[[], bool]) -> None:
        deadline = time.monotonic() + WAIT_S
        while True:
            over = self.poll() is not None or time.monotonic() > deadline
            if predicate():
                return
            if over:
                raise AssertionError(
                    f"never happened: {what} (status {self.status})\n{self.output}"
                )
            time.sleep(0.005)


class Jobs:
    """The server, and the jobs that it starts."""

    def __init__(self) -> None:
        self.started: list[Job] = []
        self.server = subprocess.Popen(
            [sys.executable, str(Path(__file__).parent / "job_server.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={
                **os.environ,
                "OMP_NUM_THREADS": "1",
                "HF_HUB_OFFLINE": "1",
                "TOKENIZERS_PARALLELISM": "false",
            },
        )

    def ask(self, command: str) -> str:
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        self.server.stdin.write(command + "\n")
        self.server.stdin.flush()
        return self.server.stdout.readline().strip()

    def start(self, run: Path, **environment: object) -> Job:
        changes = " ".join(f"{name}={value}" for name, value in environment.items())
        job = Job(self, run, int(self.ask(f"start {run} {changes}")))
        self.started.append(job)
        return job

    def together(self, run: Path, count: int = 2) -> list[Job]:
        """So many processes that train together, as torchrun starts them."""
        shared = {"WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
        return [self.start(run, RANK=rank, LOCAL_RANK=rank, **shared) for rank in range(count)]

    def run(self, run: Path, **environment: object) -> tuple[int, str]:
        """Exit status and output of a job."""
        job = self.start(run, **environment)
        return job.finish(), job.output

    def end_at(self, run: Path, step: int, number: signal.Signals, status: int) -> None:
        """Run a job that gets a signal when it has taken that step."""
        ended, output = self.run(run, SIGNAL=f"{int(number)}@{step}")
        assert ended == status, output

    def done(self, run: Path) -> RunResult:
        """The result of a job that must succeed."""
        status, output = self.run(run)
        assert status == ExitCode.DONE, output
        return result_of(run)


class WarmLauncher:
    """A `Launcher` of these jobs, for a retraining process."""

    def __init__(self, jobs: Jobs) -> None:
        self.jobs = jobs
        self.started: dict[Path, Job] = {}

    async def start(self, folder: Path) -> None:
        if folder not in self.started:
            self.started[folder] = self.jobs.start(folder)

    async def status(self, folder: Path) -> JobStatus:
        job, progress = self.started.get(folder), read_progress(folder)
        if job is None:
            return JobStatus(Vital.ABSENT, progress=progress)
        code = job.poll()
        vital = Vital.ALIVE if code is None else Vital.ENDED
        return JobStatus(vital, code, progress)

    async def stop(self, folder: Path, *, grace_s: float) -> None:
        job = self.started.get(folder)
        if job is not None and job.poll() is None:
            job.send(signal.SIGKILL)
            job.finish()

    async def leave(self, folder: Path, *, grace_s: float) -> None:
        await self.stop(folder, grace_s=grace_s)


@pytest.fixture(scope="session")
def jobs() -> Iterator[Jobs]:
    found = Jobs()
    yield found
    for job in found.started:
        if job.poll() is None:
            job.send(signal.SIGKILL)
    assert found.server.stdin is not None
    found.server.stdin.close()
    assert found.server.wait(30) == 0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def result_of(run: Path) -> RunResult:
    return RunResult.model_validate_json((run / "result.json").read_bytes())


def progress_of(run: Path) -> Progress:
    return Progress.model_validate_json((run / "progress.json").read_bytes())
