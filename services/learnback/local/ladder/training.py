"""Trains a rung by the job that retraining starts, in this process: its libraries load once."""

from __future__ import annotations

import signal
import time
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from learnback.core.errors import LearnbackError
from learnback.local.stages import Stage
from learnback.retraining.plan import (
    PLAN_FILE,
    PROGRESS_FILE,
    RESULT_FILE,
    ExitCode,
    Method,
    Progress,
    RunPlan,
    RunResult,
    write_atomically,
)


class NotMade(LearnbackError):
    """A training run that did not end well; the others go on."""


@dataclass(frozen=True)
class Made:
    """A rung that was trained."""

    folder: Path
    adapter: Path
    seconds: float
    metrics: dict[str, float]


def train(
    folder: Path,
    method: Method,
    stage: Stage,
    *,
    base_model: str,
    dataset: Path,
    seed: int,
    reward_model: Path | None = None,
    **hyperparameters: Any,
) -> Made:
    """Run the job in ``folder``, showing how far it is. Raises NotMade with the job's reason, and
    KeyboardInterrupt after SIGTERM.
    """
    from learnback.retraining import job  # its trainers import torch

    plan = RunPlan(
        run_id=folder.name,
        method=method,
        base_model=base_model,
        reward_model=reward_model,
        dataset=dataset,
        seed=seed,
        hyperparameters=hyperparameters,
    )
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / PLAN_FILE, plan.model_dump_json())
    started = time.monotonic()
    before = signal.getsignal(signal.SIGTERM)  # the job takes it to save and stop
    try:
        with redirect_stdout(_Shown(folder, stage)):
            code = job.run(plan, folder)
    finally:
        signal.signal(signal.SIGTERM, before)
    if code == ExitCode.INTERRUPTED:
        raise KeyboardInterrupt
    if code != ExitCode.DONE:
        raise NotMade(_progress(folder).error or f"its training run ended with {code.name}")
    result = RunResult.model_validate_json((folder / RESULT_FILE).read_bytes())
    seconds = time.monotonic() - started
    return Made(folder, folder / plan.published, seconds, result.metrics)


class _Shown:
    """Takes what the job says and shows its progress."""

    def __init__(self, folder: Path, stage: Stage) -> None:
        self.folder = folder
        self.stage = stage

    def write(self, text: str) -> int:
        """The job says a line after every step, when progress.json is up to date."""
        if text.startswith("run "):
            now = _progress(self.folder)
            left = "" if now.eta_seconds is None else f", {now.eta_seconds:.0f} s left"
            note = f"step {now.step} of {now.max_steps}{left}" if now.max_steps else now.state
            self.stage.advance(now.step, now.max_steps or None, note)
        return len(text)

    def flush(self) -> None:
        """Nothing is buffered."""


def _progress(folder: Path) -> Progress:
    return Progress.model_validate_json((folder / PROGRESS_FILE).read_bytes())
