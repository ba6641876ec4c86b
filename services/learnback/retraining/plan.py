"""What a training run is told and what it tells back: the files in its directory, without torch.

``run.json`` (RunPlan) goes in; ``progress.json`` (Progress), ``adapter/`` and at the very end
``result.json`` (RunResult) come out. The launcher and the job meet in this file and nowhere else.
"""

from __future__ import annotations

import os
import tempfile
from enum import IntEnum
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt

PLAN_FILE = "run.json"
PROGRESS_FILE = "progress.json"
RESULT_FILE = "result.json"
ADAPTER_DIRECTORY = "adapter"
CHECKPOINT_DIRECTORY = "checkpoints"
TRAIN_FILE = "train.parquet"


class ExitCode(IntEnum):
    """How a training process ended; the numbers follow BSD's sysexits.h, and charts and
    launcher rely on them.
    """

    DONE = 0
    """The adapter and result.json are there."""
    BAD_DATA = 65
    """The plan or the dataset can't be trained on. Never retry: the same input fails the same
    way.
    """
    INTERNAL = 70
    """A bug, lack of memory, or a loss that is no number. Retrying may help only if the machine
    was at fault.
    """
    INTERRUPTED = 75
    """SIGTERM: a checkpoint is kept, nothing is published. Start the same run again and it goes
    on from there.
    """


class DpoHyperparameters(BaseModel):
    """Direct preference optimisation (Rafailov et al. 2023, arXiv:2305.18290) of a LoRA adapter,
    with a supervised term.

    The loss is ``-log sigmoid(beta * (chosen log-ratio - rejected log-ratio)) + sft_weight *
    NLL(chosen)``; the second term holds up the probability of the chosen answers (RPO:
    arXiv:2404.19733, eq. 1).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    lora_rank: PositiveInt = 16
    """Rank of the adapter; ignored when a parent adapter is continued, which keeps its own."""
    lora_alpha: PositiveInt = 32
    """The adapter is scaled by alpha / rank."""
    target_modules: tuple[str, ...] = Field(
        default=("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
        min_length=1,
    )
    """Linear layers that get an adapter, by the end of their name; all of them learn best
    (arXiv:2305.14314, sec. 4).
    """
    top_layers: float = Field(default=0.5, gt=0, le=1)
    """Share of the layers, from the top, that get an adapter; below them nothing is
    differentiated, which saves time.
    """
    learning_rate: PositiveFloat = 8e-4
    """Peak of the schedule, per step of AdamW."""
    warmup_fraction: float = Field(default=0.1, ge=0, lt=1)
    """Share of the steps in which the learning rate rises from 0; after them it falls linearly
    to 0.
    """
    beta: PositiveFloat = 0.2
    """How dear it is to leave the reference: higher stays closer."""
    sft_weight: float = Field(default=0.2, ge=0)
    """Weight of the supervised term, in nats per token; 0 is plain DPO."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5)
    """The share of labels presumed wrong (conservative DPO)."""
    epochs: PositiveFloat = 1.0
    """Passes over the data; unused when max_steps is set."""
    max_steps: PositiveInt | None = None
    """Optimiser steps; overrides epochs."""
    batch_size: PositiveInt = 8
    """Pairs per forward pass."""
    gradient_accumulation: PositiveInt = 1
    """Forward passes per optimiser step."""
    max_grad_norm: PositiveFloat = 1.0
    """Gradients are clipped to this norm."""
    max_length: PositiveInt = 1024
    """Tokens of prompt and answer together; longer pairs are skipped and counted, never cut."""
    gradient_checkpointing: bool = False
    """Half the memory for a third more time; needed only for large models."""
    checkpoint_every: PositiveInt = 10
    """Optimiser steps between checkpoints: what kill -9 can cost."""


class RunPlan(BaseModel):
    """One training run, complete: the same plan on the same data and machine gives the same
    adapter.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    run_id: str = Field(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    method: Literal["dpo"] = "dpo"
    base_model: str = Field(min_length=1)
    """A directory or a model hub's name."""
    parent_adapter: Path | None = None
    """An adapter to go on from; the reference stays the base model, so distance can't creep
    from version to version.
    """
    dataset: Path
    """A directory with train.parquet."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    hyperparameters: DpoHyperparameters = DpoHyperparameters()


class Progress(BaseModel):
    """How far a run is; rewritten after every step."""

    model_config = ConfigDict(extra="ignore")

    run_id: str
    state: Literal["starting", "training", "measuring", "done", "interrupted", "failed"]
    step: int = 0
    max_steps: int = 0
    seconds: float = 0.0
    """Since this process started; an earlier, interrupted one is not counted."""
    eta_seconds: float | None = None
    loss: float | None = None
    reward_accuracy: float | None = None
    """Share of the last batch whose chosen answer has the higher implicit reward."""
    chosen_log_probability: float | None = None
    """Mean over the last batch of the summed log-probability of the chosen answer, in nats."""
    resumed_from_step: int = 0
    error: str | None = None


class RunResult(BaseModel):
    """What a finished run produced; written last, so its presence means that the adapter is
    whole.
    """

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)

    run_id: str
    state: Literal["done"] = "done"
    seed: int
    steps: int
    seconds: float
    resumed_from_step: int = 0
    rows_used: int
    rows_skipped: dict[str, int]
    """Why rows were left out: too_long, identical, empty, no_margin."""
    metrics: dict[str, float]
    """Means over the last quarter of the steps: loss, reward_accuracy, chosen_log_probability,
    ...
    """
    distance_from_reference: float
    """Mean KL(trained || base) per completion token, in nats; see
    trainers.base.distance_from_reference.
    """
    adapter_sha256: str
    """Of adapter_model.safetensors, in hex."""
    versions: dict[str, str]


def read_plan(directory: Path) -> RunPlan:
    """Parse ``directory/run.json``. Raises OSError, or pydantic.ValidationError if it is no
    plan.
    """
    return RunPlan.model_validate_json((directory / PLAN_FILE).read_bytes())


def write_atomically(path: Path, content: str) -> None:
    """Replace ``path`` in one go: a reader sees the old file or the new one, also after a power
    failure.
    """
    descriptor, partial = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(partial, 0o644)
        os.replace(partial, path)
    except BaseException:
        Path(partial).unlink(missing_ok=True)
        raise
    sync(path.parent)


def sync(path: Path) -> None:
    """Flush a file or a directory's entries to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
