"""One training run as a process of its own: ``python -m learnback.retraining.job RUN_DIRECTORY``.

Reads run.json and the dataset, trains by the plan's method, and publishes ``adapter/`` (or
``model/``), the report and ``result.json`` (see plan.py for all of these). It may be killed at any
time and started again: it goes on from its newest whole checkpoint, and it does nothing when it is
done. The exit status is plan.ExitCode.

Under ``accelerate launch`` or ``torchrun`` each of several processes runs it in the same directory:
they share out every batch, and the first one alone writes. Such launchers end with a status of
their own; progress.json keeps the job's.
"""

from __future__ import annotations

import importlib
import os
import shutil
import signal
import sys
import time
import traceback
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from learnback.retraining.plan import (
    CHECKPOINT_DIRECTORY,
    RESULT_FILE,
    ExitCode,
    RunPlan,
    RunResult,
    read_plan,
    write_atomically,
)
from learnback.retraining.publishing import publish
from learnback.retraining.run_report import report_of
from learnback.retraining.trainers import rows
from learnback.retraining.trainers.allocator import keep_freed_memory
from learnback.retraining.trainers.failures import (
    BadData,
    Diverged,
    Interrupted,
    is_out_of_memory,
)

if TYPE_CHECKING:
    from learnback.retraining.trainers.progress import ProgressReport, StopRequest

LIBRARIES = "torch", "transformers", "trl", "peft", "accelerate"


def main(arguments: list[str]) -> ExitCode:
    """Run the job in the directory that is the one argument."""
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m learnback.retraining.job RUN_DIRECTORY" + "\n")
        return ExitCode.BAD_DATA
    directory = Path(arguments[0])
    try:
        plan = read_plan(directory)
    except (OSError, ValidationError) as error:
        sys.stderr.write(f"bad plan in {directory}: {error}\n")
        return ExitCode.BAD_DATA
    if (directory / RESULT_FILE).is_file():
        sys.stdout.write(f"run {plan.run_id} is done already\n")
        return ExitCode.DONE
    return run(plan, directory)


def run(plan: RunPlan, directory: Path) -> ExitCode:
    """Train by ``plan`` and publish into ``directory``; every failure ends as an exit code and
    in progress.json.
    """
    terminated: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _frame: terminated.append(number))
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # TRL would tell its makers
    from learnback.retraining.trainers.processes import is_main  # slow: torch
    from learnback.retraining.trainers.progress import (
        ProgressReport,
        StopRequest,
        describe,
    )

    stop = StopRequest(requested=bool(terminated))
    signal.signal(signal.SIGTERM, lambda _number, _frame: _request(stop))
    report = ProgressReport(directory, describe(plan), main=is_main())
    try:
        report.update()
        _train_and_publish(plan, directory, report, stop)
    except Interrupted:
        return _end(report, ExitCode.INTERRUPTED, "SIGTERM", state="interrupted")
    except BadData as error:
        return _end(report, ExitCode.BAD_DATA, str(error))
    except Diverged as error:
        return _end(report, ExitCode.DIVERGED, str(error))
    except Exception as error:
        traceback.print_exc()
        said = f"{type(error).__name__}: {error}"
        if is_out_of_memory(error):
            return _end(report, ExitCode.OUT_OF_MEMORY, f"out of memory: {said}")
        return _end(report, ExitCode.INTERNAL, said)
    return ExitCode.DONE


def _request(stop: StopRequest) -> None:
    stop.requested = True


def _end(report: ProgressReport, code: ExitCode, error: str, state: str = "failed") -> ExitCode:
    report.end(state, error, int(code))
    return code


def _train_and_publish(
    plan: RunPlan, directory: Path, report: ProgressReport, stop: StopRequest
) -> None:
    started = time.monotonic()
    keep_freed_memory()
    found = rows.load(plan.dataset, plan.method)
    trainer = importlib.import_module(f"learnback.retraining.trainers.{plan.method}")  # slow: TRL
    trained = trainer.train(plan, found, directory, report, stop)
    if not report.main:
        return
    digest = publish(
        trained.model,
        trained.tokenizer,
        directory / plan.published,
        plan.base_model,
        trained.files,
    )
    result = RunResult(
        run_id=plan.run_id,
        method=plan.method,
        seed=plan.seed,
        steps=trained.steps,
        seconds=round(time.monotonic() - started, 1),
        train_seconds=trained.train_seconds,
        resumed_from_step=trained.resumed_from_step,
        processes=int(os.environ.get("WORLD_SIZE", "1")),
        rows_used=trained.rows_used,
        rows_skipped=trained.rows_skipped,
        skipped=trained.skipped,
        metrics=trained.metrics,
        distance_from_reference=trained.distance_from_reference,
        published=plan.published,
        weights_sha256=digest,
        versions={name: version(name) for name in LIBRARIES},
    )
    report_of(plan, result, trained).write(directory)
    write_atomically(directory / RESULT_FILE, result.model_dump_json(indent=2))
    shutil.rmtree(directory / CHECKPOINT_DIRECTORY, ignore_errors=True)
    report.update(state="done")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
