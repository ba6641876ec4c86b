"""What a trainer is made of, whatever its method: arguments, fitting from the newest checkpoint,
and the account of it.

Imports torch and transformers: only trainers import this file, and job.py once it has parsed the
plan.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch.optim.lr_scheduler import LambdaLR

from learnback.core.report import Part
from learnback.retraining.plan import CHECKPOINT_DIRECTORY, Hyperparameters, RunPlan
from learnback.retraining.trainers import answers, checkpoints, processes
from learnback.retraining.trainers.encoding import Encoded, Encoder, Skipped
from learnback.retraining.trainers.failures import BadData, Diverged, Interrupted
from learnback.retraining.trainers.likelihood import distance_from_reference
from learnback.retraining.trainers.progress import (
    DISTANCE,
    JobCallback,
    ProgressReport,
    StopRequest,
    check_stop,
    describe,
    history_of,
    mean_of_last_quarter,
    train_seconds_of,
)
from learnback.retraining.trainers.rows import Messages, Rows
from learnback.retraining.trainers.schedule import share_of_peak, warmup_steps

__all__ = [
    "BadData",
    "Diverged",
    "Encoder",
    "Fitting",
    "Interrupted",
    "OwnRows",
    "ProgressReport",
    "Rows",
    "StopRequest",
    "Trained",
    "arguments",
    "check_stop",
    "describe",
    "fit",
    "pick",
    "steps_of",
]

MEASURED_ROWS = 32  # answers on which the final distance is measured, about 1,000 tokens
WATCHED_ROWS = 4  # those of them on which it is watched at checkpoints

Configuration = TypeVar("Configuration")


@dataclass
class Trained:
    """What a trainer hands to the job: a model that learned, and the account of it."""

    model: Any
    tokenizer: Any
    steps: int
    resumed_from_step: int
    rows_used: int
    rows_skipped: dict[str, int]
    metrics: dict[str, float]
    skipped: dict[str, str] = field(default_factory=dict)
    """Why rows were left out, by feedback id."""
    train_seconds: float | None = None
    """In the steps alone; None if there were none to take any more."""
    distance_from_reference: float | None = None
    history: list[dict[str, float]] = field(default_factory=list)
    """One entry a step: `step` and the metrics by our names."""
    samples: list[answers.Sample] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)
    """Further files beside the weights, by name."""
    parts: list[Part] = field(default_factory=list)
    """Further parts of the report."""


class OwnRows:
    """Goes before a TRL trainer: rows come as tokens, every step learns, metrics are means over all
    processes, and no model card is written, which would name paths of this machine.
    """

    loss_is_scaled_for_ga = False

    def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
        return dataset

    def create_scheduler(
        self: Any, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> LambdaLR:
        """Our schedule in the place of transformers'."""
        steps, warmup = num_training_steps, int(self.args.warmup_steps)
        self.lr_scheduler = LambdaLR(
            optimizer or self.optimizer, lambda step: share_of_peak(step, steps, warmup)
        )
        self._created_lr_scheduler = True
        return self.lr_scheduler

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """Write none."""

    def watch(self: Any, metrics: Mapping[str, torch.Tensor]) -> None:
        """Note metrics of a batch, under the Trainer's names: for each the values, (rows,), of the
        rows that have one.
        """
        found = torch.stack(
            [
                torch.stack([v.detach().sum().float(), v.new_tensor(len(v))])
                for v in metrics.values()
            ]
        )
        if self.accelerator.num_processes > 1:
            found = self.accelerator.reduce(found, "sum")
        for name, (total, count) in zip(metrics, found.tolist(), strict=True):
            if count:
                self._metrics["train"][name].append(total / count)

    def mean_over_processes(self: Any, value: torch.Tensor) -> torch.Tensor:
        """What a sum over a batch is divided by, so that all processes together weigh every row
        alike although each has an own batch.
        """
        if self.accelerator.num_processes == 1:
            return value
        reduced: torch.Tensor = self.accelerator.reduce(value, "mean")
        return reduced


def arguments(
    kind: type[Configuration], plan: RunPlan, directory: Path, max_steps: int, **own: Any
) -> Configuration:
    """The configuration of a TRL trainer: what the plan says, and ``own`` of the method.

    The plan's batch is shared out among the processes. BadData if that does not go up.
    """
    settings = plan.hyperparameters
    on_gpu = torch.cuda.is_available()
    values: dict[str, Any] = {
        "output_dir": str(directory / CHECKPOINT_DIRECTORY),
        "learning_rate": settings.learning_rate,
        "warmup_steps": warmup_steps(settings.warmup_fraction, max_steps),
        "max_steps": max_steps,
        "per_device_train_batch_size": _share_of_one_process(settings.batch_size),
        "gradient_accumulation_steps": settings.gradient_accumulation,
        "max_grad_norm": settings.max_grad_norm,
        "max_length": None,  # what is too long has been left out
        "gradient_checkpointing": settings.gradient_checkpointing,
        "bf16": on_gpu or settings.bfloat16,
        "use_cpu": not on_gpu,
        "seed": plan.seed,
        "data_seed": plan.seed,
        "save_strategy": "steps",
        "save_steps": settings.checkpoint_every,
        "save_total_limit": 2,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,  # a loss that is no number must end the run, not vanish
        "remove_unused_columns": False,
        "ddp_find_unused_parameters": False,  # every trained weight is used in every step
        "report_to": [],
        "disable_tqdm": True,
    }
    return kind(**(values | own))


def _share_of_one_process(batch_size: int) -> int:
    count = processes.count()
    if batch_size % count:
        raise BadData(f"a batch of {batch_size} can't be shared out among {count} processes")
    return batch_size // count


def steps_of(settings: Hyperparameters, rows: int) -> int:
    """Optimiser steps of a run over ``rows`` rows."""
    return settings.steps(rows)


def fit(
    trainer: Any,
    report: ProgressReport,
    stop: StopRequest,
    names: Mapping[str, str],
    watched: Sequence[Encoded] = (),
) -> int:
    """Train to the last step, from the newest whole checkpoint if there is one; returns the step of
    that.

    ``names`` maps the Trainer's names of metrics to ours; ``watched`` are answers on which the
    distance from the reference is measured at every checkpoint. Raises Diverged if the loss is no
    number, Interrupted after SIGTERM (with a checkpoint).
    """
    model = trainer.accelerator.unwrap_model(trainer.model)
    pad, copy = trainer.processing_class.pad_token_id, getattr(trainer, "ref_model", None)

    def measure() -> float:
        return distance_from_reference(model, watched, pad, copy=copy)

    trainer.add_callback(JobCallback(report, stop, names, measure if watched else None))
    max_steps = trainer.args.max_steps
    newest = checkpoints.newest(Path(trainer.args.output_dir))
    path, step = newest if newest else (None, 0)
    if path is not None and step >= max_steps:
        checkpoints.restore(trainer, path)
        return step
    check_stop(stop)
    trainer.train(resume_from_checkpoint=str(path) if path else None)
    if stop.requested or trainer.state.global_step < max_steps:
        raise Interrupted
    return step


def pick(sequences: Sequence[Encoded], count: int, seed: int) -> list[Encoded]:
    """At most ``count`` of them, the same for the same seed."""
    chosen = random.Random(seed).sample(range(len(sequences)), min(count, len(sequences)))
    return [sequences[i] for i in sorted(chosen)]


@dataclass
class Fitting:
    """A policy's run between its rows and its account: what the methods do alike."""

    plan: RunPlan
    encoder: Encoder
    report: ProgressReport
    stop: StopRequest
    sequences: list[Encoded]
    """Answers that the policy should give: the distance from the reference is measured on some."""
    prompts: list[Messages]
    """Some of them are answered for the report."""
    rows_used: int
    skipped: Skipped

    def run(self, trainer: Any, names: Mapping[str, str], copy: Any | None = None) -> Trained:
        """Fit, measure, and give the account. ``copy`` is the reference beside full weights."""
        measured = pick(self.sequences, MEASURED_ROWS, self.plan.seed)
        resumed = fit(trainer, self.report, self.stop, names, measured[:WATCHED_ROWS])
        steps = trainer.args.max_steps
        self.report.update(state="measuring", step=steps, max_steps=steps, eta_seconds=None)
        model = trainer.accelerator.unwrap_model(trainer.model)
        tokenizer = self.encoder.tokenizer
        history = history_of(trainer.state.log_history, names)
        metrics = mean_of_last_quarter(history)
        metrics.pop(DISTANCE, None)
        distance, samples = None, []
        if self.report.main:
            distance = distance_from_reference(model, measured, tokenizer.pad_token_id, copy=copy)
            samples = answers.sample(
                model,
                tokenizer,
                self.prompts,
                limit=self.encoder.limit,
                seed=self.plan.seed,
                copy=copy,
            )
        return Trained(
            model=model,
            tokenizer=tokenizer,
            steps=steps,
            resumed_from_step=resumed,
            rows_used=self.rows_used,
            rows_skipped=dict(self.skipped.counts),
            skipped=self.skipped.reasons,
            metrics=metrics,
            train_seconds=train_seconds_of(trainer.state.log_history),
            distance_from_reference=distance,
            history=history,
            samples=samples,
        )
