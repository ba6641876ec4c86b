"""The folder of a run, as its job finds it. Blocking."""

from __future__ import annotations

import shutil
from pathlib import Path

from learnback.ledger.runs import Run
from learnback.registry.store import ModelVersion
from learnback.retraining.datasets import files
from learnback.retraining.datasets.dataset import Dataset
from learnback.retraining.hyperparameters import HYPERPARAMETERS
from learnback.retraining.making import DATASET_DIRECTORY
from learnback.retraining.plan import (
    PLAN_FILE,
    REWARD_MODEL_DIRECTORY,
    RunPlan,
    write_atomically,
)


def write_run(
    run: Run, base: ModelVersion, found: Dataset, folder: Path, reward_model: Path | None
) -> None:
    """Write the dataset, a copy of the reward model that the run is paid by, and the plan last:
    whoever finds it finds all."""
    files.save(found, folder / DATASET_DIRECTORY)
    copy: Path | None = None
    if reward_model is not None:
        copy = (folder / REWARD_MODEL_DIRECTORY).absolute()
        shutil.copytree(reward_model, copy, dirs_exist_ok=True)
    plan = RunPlan(
        run_id=run.id,
        method=found.method,
        base_model=base.base,
        parent_adapter=None,
        reward_model=copy,
        dataset=(folder / DATASET_DIRECTORY).absolute(),
        seed=run.seed,
        hyperparameters=HYPERPARAMETERS[found.method].model_validate(run.config),
    )
    write_atomically(folder / PLAN_FILE, plan.model_dump_json(indent=2))
