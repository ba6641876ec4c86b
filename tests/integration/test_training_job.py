"""The training job as its launcher sees it: a process, its files and its exit status."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.tiny_model import preference_rows, small, tiny_model, write_run

from learnback.retraining.plan import ExitCode, Progress, RunResult

__all__ = ["tiny_model"]

pytestmark = pytest.mark.timeout(180)


def start(run: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "learnback.retraining.job", str(run)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    output, _ = process.communicate(timeout=120)
    return process.returncode, output


def result_of(run: Path) -> RunResult:
    return RunResult.model_validate_json((run / "result.json").read_bytes())


def progress_of(run: Path) -> Progress:
    return Progress.model_validate_json((run / "progress.json").read_bytes())


def wait_until(what: str, predicate: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 90
    while not predicate():
        if process.poll() is not None or time.monotonic() > deadline:
            raise AssertionError(f"never happened: {what} (exit status {process.poll()})")
        time.sleep(0.005)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """An uninterrupted run that others are compared with."""
    run = write_run(tmp_path_factory.mktemp("runs") / "plain", tiny_model, preference_rows())
    status, output = finish(start(run))
    assert status == ExitCode.DONE, output
    return run


def test_a_run_publishes_an_adapter_and_only_that(finished: Path) -> None:
    adapter = finished / "adapter"
    configuration = json.loads((adapter / "adapter_config.json").read_text())

    assert sorted(path.name for path in adapter.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    assert {path.stat().st_mode & 0o777 for path in adapter.iterdir()} == {0o644}
    assert "/" not in configuration["base_model_name_or_path"]
    assert not (finished / "checkpoints").exists()


def test_a_run_learns_what_was_liked_better(finished: Path) -> None:
    result = result_of(finished)

    assert progress_of(finished).state == "done"
    assert result.steps == 12
    assert result.rows_used == 24
    assert result.metrics["reward_accuracy"] > 0.9
    assert result.metrics["loss"] < 1.5
    assert result.distance_from_reference > 0
    assert set(result.versions) >= {"torch", "trl", "peft"}


def test_flipped_labels_teach_the_opposite_and_leave_the_original_behind(
    tmp_path: Path, tiny_model: Path, finished: Path
) -> None:
    """Continues the trained adapter on flipped labels: the reference stays the base model."""
    flipped = write_run(
        tmp_path / "flipped",
        tiny_model,
        preference_rows(flipped=True),
        parent_adapter=finished / "adapter",
        hyperparameters=small(max_steps=1, learning_rate=1e-9, batch_size=24),
    )
    status, output = finish(start(flipped))

    assert status == ExitCode.DONE, output
    # Were the parent the reference, all rewards would be 0; against the base, the parent prefers
    # the other side.
    assert result_of(flipped).metrics["reward_accuracy"] < 0.1
    assert result_of(flipped).metrics["reward_margin"] < -0.05
    assert result_of(flipped).distance_from_reference > 0


def test_killed_and_started_again_gives_the_same_bytes_as_not_killed(
    tmp_path: Path, tiny_model: Path, finished: Path
) -> None:
    run = write_run(tmp_path / "killed", tiny_model, preference_rows())
    process = start(run)
    whole = run / "checkpoints" / "checkpoint-4" / "whole"
    wait_until("the first whole checkpoint", whole.exists, process)
    process.send_signal(signal.SIGKILL)
    finish(process)
    assert not (run / "result.json").exists()
    torn = run / "checkpoints" / "checkpoint-11"
    torn.mkdir(parents=True)
    (torn / "trainer_state.json").write_text('{"global_step": 1')

    status, output = finish(start(run))

    assert status == ExitCode.DONE, output
    assert result_of(run).resumed_from_step >= 4
    assert result_of(run).weights_sha256 == result_of(finished).weights_sha256
    assert (run / "adapter/adapter_config.json").read_bytes() == (
        finished / "adapter/adapter_config.json"
    ).read_bytes()


def test_sigterm_keeps_a_checkpoint_and_publishes_nothing(tmp_path: Path, tiny_model: Path) -> None:
    settings = small(max_steps=2000, checkpoint_every=2000)
    run = write_run(tmp_path / "stopped", tiny_model, preference_rows(), hyperparameters=settings)
    process = start(run)
    wait_until(
        "three steps",
        lambda: (run / "progress.json").exists() and progress_of(run).step >= 3,
        process,
    )
    process.terminate()
    status, output = finish(process)

    assert status == ExitCode.INTERRUPTED, output
    assert progress_of(run).state == "interrupted"
    assert list((run / "checkpoints").glob("checkpoint-*/whole"))
    assert not (run / "adapter").exists()
    assert not (run / "result.json").exists()


def test_a_run_that_is_done_is_not_done_again(finished: Path) -> None:
    before = (finished / "result.json").read_bytes()
    status, output = finish(start(finished))

    assert status == ExitCode.DONE
    assert "done already" in output
    assert (finished / "result.json").read_bytes() == before


def test_an_empty_dataset_is_bad_data(tmp_path: Path, tiny_model: Path) -> None:
    run = write_run(tmp_path / "empty", tiny_model, [])
    status, output = finish(start(run))

    assert status == ExitCode.BAD_DATA
    assert "empty" in (progress_of(run).error or "")
    assert "empty" in output


def test_rows_that_are_too_long_are_skipped_and_counted_and_none_left_is_bad_data(
    tmp_path: Path, tiny_model: Path
) -> None:
    rows = preference_rows(2)
    rows[0]["chosen"] = "word " * 400
    rows[1]["rejected"] = rows[1]["chosen"]
    run = write_run(tmp_path / "long", tiny_model, rows)
    status, _ = finish(start(run))

    assert status == ExitCode.BAD_DATA
    assert "too_long" in (progress_of(run).error or "")
    assert "identical" in (progress_of(run).error or "")


def test_a_missing_plan_is_bad_data(tmp_path: Path) -> None:
    status, output = finish(start(tmp_path))

    assert status == ExitCode.BAD_DATA
    assert "bad plan" in output


@pytest.mark.parametrize("loss", ["sigmoid", "ipo"])
def test_the_lean_loss_is_the_one_that_trl_computes(
    tmp_path: Path, tiny_model: Path, loss: str
) -> None:
    import torch
    from trl import DPOTrainer

    from learnback.retraining.plan import read_plan
    from learnback.retraining.trainers import dpo, rows
    from learnback.retraining.trainers.base import StopRequest
    from learnback.retraining.trainers.encoding import Encoder, select
    from learnback.retraining.trainers.loading import load_tokenizer

    settings = small(loss=loss)
    run = write_run(tmp_path / "run", tiny_model, preference_rows(8), hyperparameters=settings)
    plan = read_plan(run)
    encoder = Encoder.of(plan, load_tokenizer(plan.base_model))
    found = rows.load(run, "dpo").train
    usable, _ = select(found, encoder, dpo.both_answers, lambda row: None)
    trainer = dpo.make_trainer(plan, run, encoder, usable, StopRequest())
    with torch.no_grad():
        for name, parameter in trainer.model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    batch = next(iter(trainer.get_train_dataloader()))

    ours = trainer.compute_loss(trainer.model, batch).item()
    theirs = DPOTrainer.compute_loss(trainer, trainer.model, batch).item()

    assert ours == pytest.approx(theirs, rel=1e-4)


def test_an_answer_that_was_cut_off_is_not_taught_to_end_there() -> None:
    from learnback.retraining.trainers.encoding import without_false_end

    end, newline = 2, 9

    assert without_false_end([5, 6, end, newline], end) == [5, 6]
    assert without_false_end([5, 6], end) == [5, 6]
