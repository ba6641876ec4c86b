"""Runs training jobs without their 15 seconds of imports: this process imports, and forks them.

Reads commands, one a line, and answers each with one: `start RUN [NAME=VALUE ...]` -> process id,
`poll ID` -> exit status or `-`. It never computes anything itself, so that a fork is safe.
`ADDRESS_SPACE=BYTES` limits a job's memory; `SIGNAL=NUMBER@STEP` sends it a signal after that step.
"""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Callable

# By name, as the job imports them: heavy, and all that is needed of them is that they are there.
import learnback.retraining.trainers.dpo
import learnback.retraining.trainers.kto
import learnback.retraining.trainers.reward_model
import learnback.retraining.trainers.rloo
import learnback.retraining.trainers.sft  # noqa: F401
from learnback.retraining import job
from learnback.retraining.trainers.progress import ProgressReport


def main() -> None:
    for line in sys.stdin:
        verb, subject, *changes = line.split()
        answer = start(subject, changes) if verb == "start" else poll(int(subject))
        sys.stdout.write(f"{answer}\n")
        sys.stdout.flush()


def start(run: str, changes: list[str]) -> int:
    process = os.fork()
    if process:
        return process
    os.environ.update(change.split("=", 1) for change in changes)
    if limit := int(os.environ.get("ADDRESS_SPACE", "0")):
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    if said := os.environ.get("SIGNAL"):
        number, step = map(int, said.split("@"))
        send_after(step, number)
    output = os.open(f"{run}/output-{os.getpid()}", os.O_WRONLY | os.O_CREAT)
    os.dup2(output, 1)
    os.dup2(output, 2)
    code = 70
    try:
        code = job.main([run])
    finally:
        sys.stdout.flush()
        os._exit(code)


def send_after(step: int, number: int) -> None:
    """Let this process send itself a signal when it reports the step: no sooner and no later."""

    def watched(report: Callable[..., None]) -> Callable[..., None]:
        def and_then(self: ProgressReport, **changes: object) -> None:
            report(self, **changes)
            if changes.get("step") == step:
                os.kill(os.getpid(), number)

        return and_then

    ProgressReport.step = watched(ProgressReport.step)  # type: ignore[method-assign]
    ProgressReport.update = watched(ProgressReport.update)  # type: ignore[method-assign]


def poll(process: int) -> str:
    found, status = os.waitpid(process, os.WNOHANG)
    return str(os.waitstatus_to_exitcode(status)) if found else "-"


if __name__ == "__main__":
    main()
