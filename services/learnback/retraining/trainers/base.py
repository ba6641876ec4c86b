"""What all trainers share: rows, the stop request, progress, checkpoints and the distance from the
reference.

Imports torch and transformers: only trainers import this file, and job.py once it has parsed the
plan.
"""

from __future__ import annotations

import json
import math
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from learnback.retraining.plan import PROGRESS_FILE, Progress, RunPlan, sync, write_atomically

WHOLE_MARKER = "whole"  # the last file in a checkpoint: everything before it is synced


class BadData(ValueError):
    """The plan or the dataset can't be trained on, now or later."""


class Diverged(RuntimeError):
    """The loss or the weights are no numbers any more."""


class Interrupted(Exception):
    """Asked to stop: a checkpoint is kept."""


@dataclass
class StopRequest:
    """Set by the SIGTERM handler, read after every step."""

    requested: bool = False


class Row(NamedTuple):
    """One preference pair, as train.parquet carries it."""

    feedback_id: str
    prompt: list[dict[str, str]]
    chosen: str
    rejected: str
    margin: float
    chosen_finished: bool
    rejected_finished: bool


@dataclass
class Trained:
    """What a trainer hands to the job: a model with its adapter, and the account of how it came
    to be.
    """

    model: Any
    steps: int
    resumed_from_step: int
    rows_used: int
    rows_skipped: dict[str, int]
    metrics: dict[str, float]
    distance_from_reference: float


@dataclass
class ProgressReport:
    """Keeps progress.json and one line on stdout up to date."""

    directory: Path
    progress: Progress
    started: float = field(default_factory=time.monotonic)

    def update(self, **changes: Any) -> None:
        """Change fields of Progress, set its seconds, write it and print it."""
        seconds = round(time.monotonic() - self.started, 1)
        self.progress = self.progress.model_copy(update={**changes, "seconds": seconds})
        write_atomically(self.directory / PROGRESS_FILE, self.progress.model_dump_json())
        sys.stdout.write(self.line() + "\n")
        sys.stdout.flush()

    def line(self) -> str:
        """For people: ``run r1 training 3/20 loss 0.61 accuracy 0.75 12 s, 68 s left``."""
        now = self.progress
        parts = [f"run {now.run_id} {now.state} {now.step}/{now.max_steps}"]
        if now.loss is not None:
            parts.append(f"loss {now.loss:.4f}")
        if now.reward_accuracy is not None:
            parts.append(f"accuracy {now.reward_accuracy:.2f}")
        left = "" if now.eta_seconds is None else f", {now.eta_seconds:.0f} s left"
        parts.append(f"{now.seconds:.0f} s{left}")
        return " ".join(parts + ([now.error] if now.error else []))


class JobCallback(TrainerCallback):  # type: ignore[misc]
    """Hooks a transformers Trainer up to progress, the stop request and whole checkpoints."""

    def __init__(self, report: ProgressReport, stop: StopRequest) -> None:
        self.report = report
        self.stop = stop
        self.first_step: int | None = None
        self.first_time = 0.0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Note where this process starts, for the estimate of the time left."""
        self.first_step = state.global_step
        self.first_time = time.monotonic()
        self.report.update(state="training", step=state.global_step, max_steps=state.max_steps)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Save and stop after the step in which SIGTERM came."""
        if self.stop.requested:
            control.should_save = True
            control.should_training_stop = True

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
        done = state.global_step - (self.first_step or 0)
        per_step = (time.monotonic() - self.first_time) / max(done, 1)
        self.report.update(
            step=state.global_step,
            max_steps=state.max_steps,
            eta_seconds=round(per_step * (state.max_steps - state.global_step), 1),
            loss=loss,
            reward_accuracy=logs.get("rewards/accuracies"),
            chosen_log_probability=logs.get("logps/chosen"),
        )

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Sync the checkpoint and mark it as whole: without the mark it is never resumed from."""
        directory = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
        if not directory.is_dir():
            return
        for path in directory.rglob("*"):
            if path.is_file():
                sync(path)
        sync(directory)
        write_atomically(directory / WHOLE_MARKER, str(state.global_step))
        sync(directory.parent)


def newest_checkpoint(directory: Path) -> tuple[Path, int] | None:
    """The newest whole checkpoint under ``directory`` and its step; torn ones are removed on
    the way.
    """
    whole: list[tuple[int, Path]] = []
    for path in directory.glob("checkpoint-*"):
        step = _step_of(path)
        if step is None:
            shutil.rmtree(path, ignore_errors=True)
        else:
            whole.append((step, path))
    if not whole:
        return None
    step, path = max(whole)
    return path, step


def _step_of(checkpoint: Path) -> int | None:
    if not (checkpoint / WHOLE_MARKER).is_file():
        return None
    try:
        return int(json.loads((checkpoint / "trainer_state.json").read_text())["global_step"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def mean_of_last_quarter(
    history: Sequence[dict[str, Any]], names: dict[str, str]
) -> dict[str, float]:
    """Average logged values over the last quarter of the steps; ``names`` maps Trainer's names
    to ours.
    """
    steps = [entry for entry in history if "loss" in entry]
    last = steps[-max(1, len(steps) // 4) :]
    return {
        ours: sum(float(entry[theirs]) for entry in last) / len(last)
        for theirs, ours in names.items()
        if last and all(theirs in entry for entry in last)
    }


def distance_from_reference(
    model: Any, sequences: Sequence[tuple[list[int], int]], pad_token_id: int, batch_size: int = 4
) -> float:
    """Mean KL(adapter on || adapter off) per completion token, in nats, over the full vocabulary;
    no sampling noise.

    ``sequences`` are (token ids, length of the prompt). The KL is exact at every position that the
    completions visit (Schulman, "Approximating KL divergence", joschu.net/blog/kl-approx.html,
    calls sampling it the alternative), but the completions are the dataset's, not the policy's own,
    so it understates how far free-running text can drift.
    """
    total, count = 0.0, 0
    was_training = model.training
    model.eval()
    for start in range(0, len(sequences), batch_size):
        with torch.no_grad():
            kl, tokens = _summed_kl(model, sequences[start : start + batch_size], pad_token_id)
        total, count = total + kl, count + tokens
    model.train(was_training)
    if not math.isfinite(total):
        raise Diverged("the trained adapter's probabilities are not finite")
    return total / max(count, 1)


def _summed_kl(
    model: Any, batch: Sequence[tuple[list[int], int]], pad_token_id: int
) -> tuple[float, int]:
    width = max(len(ids) for ids, _ in batch)
    ids = torch.full((len(batch), width), pad_token_id)  # (batch, seq)
    mask = torch.zeros((len(batch), width), dtype=torch.bool)
    attention = torch.zeros((len(batch), width), dtype=torch.long)
    for i, (tokens, prompt_length) in enumerate(batch):
        ids[i, : len(tokens)] = torch.tensor(tokens)
        attention[i, : len(tokens)] = 1
        mask[i, prompt_length - 1 : len(tokens) - 1] = True  # position t predicts token t + 1
    device = model.device
    first = int(mask.any(dim=0).int().argmax())  # logits of the prompts would be half of the work
    inputs = {
        "input_ids": ids.to(device),
        "attention_mask": attention.to(device),
        "logits_to_keep": torch.arange(first, width, device=device),
    }
    chosen = mask[:, first:].to(device)
    trained = model(**inputs, use_cache=False).logits[chosen].float().log_softmax(-1)  # (n, vocab)
    with model.disable_adapter():
        base = model(**inputs, use_cache=False).logits[chosen].float().log_softmax(-1)
    return float((trained.exp() * (trained - base)).sum()), int(mask.sum())


def precision() -> torch.dtype:
    """bfloat16 on a GPU, float32 on a CPU (where bfloat16 without AVX512 is several times
    slower).
    """
    return torch.bfloat16 if torch.cuda.is_available() else torch.float32


def check_stop(stop: StopRequest) -> None:
    """Raises Interrupted if SIGTERM came."""
    if stop.requested:
        raise Interrupted


def describe(plan: RunPlan) -> Progress:
    """The first progress of a run."""
    return Progress(run_id=plan.run_id, state="starting")
