"""The files that the launcher and the training job exchange."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from learnback.retraining.plan import (
    HYPERPARAMETERS,
    PLAN_FILE,
    DpoHyperparameters,
    ExitCode,
    Progress,
    RunPlan,
    RunResult,
    read_plan,
    write_atomically,
)


def a_plan(**changes: object) -> RunPlan:
    return RunPlan.model_validate(
        {"run_id": "run-1", "base_model": "models/base", "dataset": "data", **changes}
    )


def test_a_plan_survives_the_disk(tmp_path: Path) -> None:
    plan = a_plan(seed=7, parent_adapter="adapters/v1", hyperparameters={"max_steps": 3})
    write_atomically(tmp_path / PLAN_FILE, plan.model_dump_json())

    assert read_plan(tmp_path) == plan


@pytest.mark.parametrize(
    "changes",
    [
        {"run_id": ""},
        {"run_id": "../outside"},
        {"method": "magic"},
        {"seed": -1},
        {"surprise": 1},
        {"hyperparameters": {"learning_rate": 0}},
        {"hyperparameters": {"label_smoothing": 0.5}},
        {"hyperparameters": {"top_layers": 0}},
        {"hyperparameters": {"target_modules": []}},
        {"hyperparameters": {"leaning_rate": 1e-4}},
        {"hyperparameters": {"loss": "ipo", "label_smoothing": 0.1}},
        {"method": "sft", "hyperparameters": {"beta": 0.1}},
        {"method": "sft", "hyperparameters": DpoHyperparameters()},
        {"method": "kto", "hyperparameters": {"undesirable_weight": 0}},
        {"method": "rloo"},
        {"parent_adapter": "adapters/v1", "hyperparameters": {"adaptation": "full"}},
    ],
)
def test_a_senseless_plan_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        a_plan(**changes)


def test_the_defaults_make_a_plan() -> None:
    assert a_plan().hyperparameters == DpoHyperparameters()


@pytest.mark.parametrize("method", HYPERPARAMETERS)
def test_hyperparameters_are_those_of_the_method(method: str, tmp_path: Path) -> None:
    plan = a_plan(method=method, reward_model="reward", hyperparameters={"lora_rank": 3})
    write_atomically(tmp_path / PLAN_FILE, plan.model_dump_json())

    assert type(read_plan(tmp_path).hyperparameters) is HYPERPARAMETERS[method]
    assert read_plan(tmp_path) == plan


def test_full_weights_learn_slowly_unless_told_otherwise() -> None:
    told = a_plan(hyperparameters={"adaptation": "full", "learning_rate": 1e-3})

    assert a_plan(hyperparameters={"adaptation": "full"}).hyperparameters.learning_rate == 2e-5
    assert told.hyperparameters.learning_rate == 1e-3
    assert told.published == "model"


def test_files_of_earlier_releases_are_read() -> None:
    progress = {"run_id": "r", "state": "training", "reward_accuracy": 0.5}
    result = {
        "run_id": "r",
        "seed": 0,
        "steps": 1,
        "seconds": 1.0,
        "rows_used": 1,
        "rows_skipped": {},
        "metrics": {},
        "distance_from_reference": 0.1,
        "adapter_sha256": "ab",
        "versions": {},
    }

    assert Progress.model_validate(progress).metrics == {"reward_accuracy": 0.5}
    assert RunResult.model_validate(result).weights_sha256 == "ab"
    assert RunResult.model_validate(result).published == "adapter"


def test_writing_leaves_no_partial_file_and_is_readable_by_others(tmp_path: Path) -> None:
    write_atomically(tmp_path / "file", "old")
    write_atomically(tmp_path / "file", "new")

    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "new"
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o644


def test_exit_codes_are_what_charts_and_launcher_rely_on() -> None:
    assert {code.name: int(code) for code in ExitCode} == {
        "DONE": 0,
        "BAD_DATA": 65,
        "INTERNAL": 70,
        "OUT_OF_MEMORY": 71,
        "INTERRUPTED": 75,
        "DIVERGED": 76,
    }


def test_the_plan_is_read_without_torch() -> None:
    code = (
        "import sys, learnback.retraining.plan, learnback.retraining.job;"
        "sys.exit(bool({'torch', 'transformers', 'trl', 'peft', 'vllm'} & set(sys.modules)))"
    )

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
