"""How a run shows itself while it trains: progress.json, a line on the terminal, TensorBoard's
event files; and the whole checkpoints that it can go on from.

Where several processes train together, only the first one writes.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tensorboardX import SummaryWriter
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from learnback.retraining.launcher import read_progress
from learnback.retraining.plan import (
    PROGRESS_FILE,
    TENSORBOARD_DIRECTORY,
    Progress,
    RunPlan,
    is_final,
    write_atomically,
)
from learnback.retraining.trainers import checkpoints, processes
from learnback.retraining.trainers.failures import Diverged, Interrupted

DISTANCE = "distance_from_reference"
SHOWN_EVERY_S = 0.2
SHOWN = {
    "reward_accuracy": "accuracy",
    "reward_margin": "margin",
    "chosen_log_probability": "chosen",
    "reward": "reward",
    "kl": "KL",
    DISTANCE: "distance",
}
"""Metrics on the terminal's line, by their short names there."""


@dataclass
class StopRequest:
    """Set by the SIGTERM handler, read after every step."""

    requested: bool = False


def check_stop(stop: StopRequest) -> None:
    """Raises Interrupted if SIGTERM came."""
    if stop.requested:
        raise Interrupted


def describe(plan: RunPlan) -> Progress:
    """The first progress of a run."""
    return Progress(run_id=plan.run_id, state="starting")


@dataclass
class ProgressReport:
    """Keeps progress.json and one line on stdout up to date."""

    directory: Path
    progress: Progress
    main: bool = True
    """Whether this process is the one that writes."""
    started: float = field(default_factory=time.monotonic)
    written: float = -math.inf

    def update(self, **changes: Any) -> None:
        """Change fields of Progress, set its seconds, write it and print it."""
        seconds = round(time.monotonic() - self.started, 1)
        self.progress = self.progress.model_copy(update={**changes, "seconds": seconds})
        if self.main:
            self._write()

    def end(self, state: str, error: str, exit_code: int) -> None:
        """The run is over without success, and any process may say so.

        What one of several dies of comes first: the others then fail for want of it, which is not
        the reason. So a failure that can be tried again does not replace another one's.
        """
        said = read_progress(self.directory)
        known = said is not None and said.exit_code is not None
        if known and not is_final(exit_code):
            return
        main, self.main = self.main, True
        self.update(state=state, error=error, exit_code=exit_code)
        self.main = main

    def step(self, **changes: Any) -> None:
        """The same after a step; nobody looks more often than every SHOWN_EVERY_S seconds."""
        if time.monotonic() - self.written >= SHOWN_EVERY_S:
            self.update(**changes)
        else:
            self.progress = self.progress.model_copy(update=changes)

    def _write(self) -> None:
        self.written = time.monotonic()
        said = self.progress.model_dump_json()
        write_atomically(self.directory / PROGRESS_FILE, said, durable=False)
        sys.stdout.write(self.line() + "\n")
        sys.stdout.flush()

    def line(self) -> str:
        """For people: ``run r1 training 3/20 loss 0.61 accuracy 0.75 12 s, 68 s left``."""
        now = self.progress
        parts = [f"run {now.run_id} {now.state} {now.step}/{now.max_steps}"]
        if now.loss is not None:
            parts.append(f"loss {now.loss:.4f}")
        parts += [
            f"{s} {now.metrics[name]:.2f}" for name, s in SHOWN.items() if name in now.metrics
        ]
        left = "" if now.eta_seconds is None else f", {now.eta_seconds:.0f} s left"
        parts.append(f"{now.seconds:.0f} s{left}")
        return " ".join(parts + ([now.error] if now.error else []))


class JobCallback(TrainerCallback):  # type: ignore[misc]
    """Hooks a transformers Trainer up to progress, the stop request and whole checkpoints.

    `names` maps the Trainer's names of metrics to ours. `measure` gives the distance from the
    reference; it is asked at every checkpoint.
    """

    def __init__(
        self,
        report: ProgressReport,
        stop: StopRequest,
        names: Mapping[str, str],
        measure: Callable[[], float] | None = None,
    ) -> None:
        self.report = report
        self.stop = stop
        self.names = names
        self.measure = measure
        self.first_step = 0
        self.first_time = 0.0
        self.last: dict[str, float] = {}
        self.events: Any = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Note where this process starts, for the estimate of the time left."""
        self.first_step = state.global_step
        self.first_time = time.monotonic()
        if self.report.main:
            self.events = event_writer(self.report.directory, state.global_step)
        self.report.update(state="training", step=state.global_step, max_steps=state.max_steps)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Measure before a checkpoint, so that it is in it. Save and stop after the step in which
        SIGTERM came, whichever process it came to.
        """
        if processes.any_of_them(self.stop.requested, args.device):
            self.stop.requested = True
            control.should_save = True
            control.should_training_stop = True
        if self.measure is not None and state.global_step % args.save_steps == 0:
            distance = self.measure()
            state.log_history.append({"step": state.global_step, DISTANCE: distance})
            self.last[DISTANCE] = distance
            self._draw({DISTANCE: distance}, state.global_step)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """Report a step. Raises Diverged if its loss is no number."""
        logs = logs or {}
        if "loss" not in logs:
            return
        loss = float(logs["loss"])
        if not math.isfinite(loss) or not math.isfinite(float(logs.get("grad_norm", 0.0))):
            raise Diverged(f"the loss or the gradient is not finite at step {state.global_step}")
        metrics = ours(logs, self.names)
        self.last |= metrics
        self._draw(metrics, state.global_step)
        per_step = (time.monotonic() - self.first_time) / max(
            state.global_step - self.first_step, 1
        )
        self.report.step(
            step=state.global_step,
            max_steps=state.max_steps,
            eta_seconds=round(per_step * (state.max_steps - state.global_step), 1),
            loss=loss,
            metrics={name: value for name, value in self.last.items() if name != "loss"},
        )

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Mark the checkpoint as whole, once every process has written its part."""
        processes.wait_for_all()
        if self.report.main:
            checkpoints.mark_whole(Path(str(args.output_dir)), state.global_step)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Write the last events."""
        if self.events is not None:
            self.events.close()

    def _draw(self, metrics: Mapping[str, float], step: int) -> None:
        for name, value in metrics.items() if self.events is not None else ():
            self.events.add_scalar(name, value, step)


def ours(logs: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, float]:
    """What a Trainer logged, by our names; what is no number is left out."""
    found = {name: float(logs[theirs]) for theirs, name in names.items() if theirs in logs}
    return {name: value for name, value in found.items() if math.isfinite(value)}


def history_of(
    log_history: Sequence[Mapping[str, Any]], names: Mapping[str, str]
) -> list[dict[str, float]]:
    """One entry a step: `step` and the metrics by our names."""
    names = {**names, DISTANCE: DISTANCE}
    entries: dict[int, dict[str, float]] = {}
    for logs in log_history:
        found = ours(logs, names)
        if found:
            step = int(logs["step"])
            entries.setdefault(step, {"step": step}).update(found)
    return [entries[step] for step in sorted(entries)]


def train_seconds_of(log_history: Sequence[Mapping[str, Any]]) -> float | None:
    """How long the steps of this process took; None if it took none."""
    return next((float(e["train_runtime"]) for e in log_history if "train_runtime" in e), None)


def mean_of_last_quarter(history: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Average metrics over the last quarter of the steps that trained; one that a step lacks
    counts where it is.
    """
    steps = [entry for entry in history if "loss" in entry]
    last = steps[-max(1, len(steps) // 4) :]
    names = {name for entry in last for name in entry} - {"step"}
    values = {name: [entry[name] for entry in last if name in entry] for name in sorted(names)}
    return {name: sum(found) / len(found) for name, found in values.items()}


def event_writer(directory: Path, step: int) -> Any:
    """Writes what `tensorboard --logdir` shows; what a killed process drew after `step` is
    dropped.
    """
    return SummaryWriter(str(directory / TENSORBOARD_DIRECTORY), purge_step=step + 1)
