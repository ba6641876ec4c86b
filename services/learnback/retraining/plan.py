"""What a training run is told and what it tells back: the files in its directory, without torch.

``run.json`` (RunPlan) goes in; ``progress.json`` (Progress), ``adapter/`` (or ``model/`` for full
weights), ``report.md`` and ``report.html``, and at the very end ``result.json`` (RunResult) come
out. The launcher and the job meet in this file and nowhere else.
"""

from __future__ import annotations

import os
import tempfile
from enum import IntEnum
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializeAsAny,
    ValidationInfo,
    field_validator,
    model_validator,
)

from learnback.retraining.hyperparameters import (
    HYPERPARAMETERS,
    DpoHyperparameters,
    Hyperparameters,
    KtoHyperparameters,
    Method,
    RewardHyperparameters,
    RlooHyperparameters,
    SftHyperparameters,
)

__all__ = [
    "HYPERPARAMETERS",
    "DpoHyperparameters",
    "ExitCode",
    "Hyperparameters",
    "KtoHyperparameters",
    "Method",
    "Progress",
    "RewardHyperparameters",
    "RlooHyperparameters",
    "RunPlan",
    "RunResult",
    "SftHyperparameters",
    "is_final",
    "read_plan",
    "sync",
    "write_atomically",
]

PLAN_FILE = "run.json"
PROGRESS_FILE = "progress.json"
RESULT_FILE = "result.json"
ADAPTER_DIRECTORY = "adapter"
MODEL_DIRECTORY = "model"
CHECKPOINT_DIRECTORY = "checkpoints"
TENSORBOARD_DIRECTORY = "tensorboard"
REWARD_MODEL_DIRECTORY = "reward_model"
"""What `rloo` is paid by: a copy, since a job may run where no artifacts are."""
JUDGED_FILE = "held_out_margins.json"
"""Beside a neural reward model: by how much it prefers the better answer of each held-out pair, in
calibrated logits by feedback id. So it can be compared where there is no torch to load it."""
TRAIN_FILE, HELD_OUT_FILE = "train.parquet", "held_out.parquet"

Kind = TypeVar("Kind", bound=Hyperparameters)


class ExitCode(IntEnum):
    """How a training process ended; the numbers follow BSD's sysexits.h, and charts and
    launcher rely on them.
    """

    DONE = 0
    """The weights and result.json are there."""
    BAD_DATA = 65
    """The plan or the dataset can't be trained on. Never retry: the same input fails the same
    way.
    """
    INTERNAL = 70
    """A bug. Retrying may help only if the machine was at fault."""
    OUT_OF_MEMORY = 71
    """The model and its batch do not fit this machine; the next attempt would meet the same."""
    INTERRUPTED = 75
    """SIGTERM: a checkpoint is kept, nothing is published. Start the same run again and it goes
    on from there.
    """
    DIVERGED = 76
    """The loss or the weights are no numbers any more; the same steps lead there again."""


FINAL = (ExitCode.BAD_DATA, ExitCode.OUT_OF_MEMORY, ExitCode.DIVERGED)


def is_final(exit_code: int | None) -> bool:
    """Whether the same run would end so again, here or on a machine of the same size."""
    return exit_code in FINAL


class RunPlan(BaseModel):
    """One training run, complete: the same plan on the same data and machine gives the same
    weights.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    run_id: str = Field(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    method: Method = "dpo"
    base_model: str = Field(min_length=1)
    """A directory or a model hub's name."""
    parent_adapter: Path | None = None
    """An adapter to go on from; the reference stays the base model, so distance can't creep
    from version to version.
    """
    reward_model: Path | None = None
    """Folder of the reward model that `rloo` is paid by."""
    dataset: Path
    """A directory with train.parquet, and held_out.parquet where something is measured on it."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    hyperparameters: SerializeAsAny[Hyperparameters] = Field(default={}, validate_default=True)
    """Of the class that belongs to the method."""

    @field_validator("hyperparameters", mode="before")
    @classmethod
    def _of_the_method(cls, given: Any, info: ValidationInfo) -> Any:
        kind = HYPERPARAMETERS.get(info.data.get("method", ""), Hyperparameters)
        if isinstance(given, Hyperparameters) and not isinstance(given, kind):
            raise ValueError(f"{type(given).__name__} are not those of this method")
        return kind.model_validate(given)

    @model_validator(mode="after")
    def _all_there(self) -> Self:
        if self.method == "rloo" and self.reward_model is None:
            raise ValueError("rloo needs a reward_model")
        if self.hyperparameters.adaptation == "full" and self.parent_adapter is not None:
            raise ValueError("full weights start from the base model, not from an adapter")
        return self

    def settings(self, kind: type[Kind]) -> Kind:
        """The hyperparameters as the class of the caller's method. TypeError if they are not."""
        if not isinstance(self.hyperparameters, kind):
            raise TypeError(f"{self.method} has no {kind.__name__}")
        return self.hyperparameters

    @property
    def published(self) -> str:
        """The folder of the weights that come out, inside the run's."""
        full = self.hyperparameters.adaptation == "full"
        return MODEL_DIRECTORY if full else ADAPTER_DIRECTORY


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
    metrics: dict[str, float] = {}
    """Of the last step, by the names of `RunResult.metrics`: what the method watches."""
    resumed_from_step: int = 0
    error: str | None = None
    exit_code: int | None = None
    """Of a run that ended otherwise than done; what launches several processes ends with an own."""

    @model_validator(mode="before")
    @classmethod
    def _fields_that_are_metrics_now(cls, given: Any) -> Any:
        """Runs of releases before `metrics` had two of them as fields."""
        names = ("reward_accuracy", "chosen_log_probability")
        if not isinstance(given, dict) or "metrics" in given:
            return given
        return given | {"metrics": {n: given[n] for n in names if given.get(n) is not None}}


class RunResult(BaseModel):
    """What a finished run produced; written last, so its presence means that the weights are
    whole.
    """

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)

    run_id: str
    state: Literal["done"] = "done"
    method: Method = "dpo"
    seed: int
    steps: int
    seconds: float
    train_seconds: float | None = None
    """In the steps of the process that took the last one; None if it took none."""
    resumed_from_step: int = 0
    processes: int = 1
    """How many trained together."""
    rows_used: int
    rows_skipped: dict[str, int]
    """Why rows were left out: too_long, identical, empty, no_margin, ..."""
    skipped: dict[str, str] = {}
    """The same by feedback id; a duplicate is none, since its twin was used."""
    metrics: dict[str, float]
    """Means over the last quarter of the steps: loss, reward_accuracy, chosen_log_probability,
    ...
    """
    distance_from_reference: float | None = None
    """Mean KL(trained || base) per completion token, in nats; see
    trainers.distance.distance_from_reference. None for a reward model, which is no policy.
    """
    published: str = ADAPTER_DIRECTORY
    """The folder of the weights, inside the run's."""
    weights_sha256: str
    """Over the safetensors files in it, in the order of their names, in hex."""
    versions: dict[str, str]

    @model_validator(mode="before")
    @classmethod
    def _once_only_adapters(cls, given: Any) -> Any:
        """`adapter_sha256` is what `weights_sha256` was called before full weights."""
        if isinstance(given, dict) and "adapter_sha256" in given:
            return {"weights_sha256": given["adapter_sha256"], **given}
        return given


def read_plan(directory: Path) -> RunPlan:
    """Parse ``directory/run.json``. Raises OSError, or pydantic.ValidationError if it is no
    plan.
    """
    return RunPlan.model_validate_json((directory / PLAN_FILE).read_bytes())


def write_atomically(path: Path, content: str, *, durable: bool = True) -> None:
    """Replace ``path`` in one go: a reader sees the old file or the new one, also after a power
    failure unless it need not be ``durable``, which takes as long as a step of a small model.
    """
    descriptor, partial = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(content)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.chmod(partial, 0o644)
        os.replace(partial, path)
    except BaseException:
        Path(partial).unlink(missing_ok=True)
        raise
    if durable:
        sync(path.parent)


def sync(path: Path) -> None:
    """Flush a file or a directory's entries to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
