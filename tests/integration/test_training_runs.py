"""Runs of every method through kills, too little memory, broken numbers and two processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.taught_model import write_rloo_run
from tests.tiny_model import (
    completion_rows,
    label_rows,
    preference_rows,
    small,
    write_run,
)
from tests.warm_jobs import Jobs, free_port, progress_of, result_of

from learnback.retraining.plan import ExitCode, Hyperparameters, Method, RunResult

pytestmark = [pytest.mark.timeout(240), pytest.mark.xdist_group("training")]

Rows = list[dict[str, object]]
ROWS: dict[Method, Callable[..., Rows]] = {
    "sft": completion_rows,
    "dpo": preference_rows,
    "kto": label_rows,
    "reward_model": preference_rows,
}
GIB = 1 << 30


@pytest.fixture(scope="module")
def new_run(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Callable[..., Path]:
    folder = tmp_path_factory.mktemp("runs")

    def make(
        name: str,
        method: Method = "dpo",
        hyperparameters: Hyperparameters | None = None,
        rows: int = 24,
    ) -> Path:
        return write_run(
            folder / name,
            tiny_model,
            ROWS[method](rows),
            held_out=ROWS[method](4, first=100),
            method=method,
            hyperparameters=hyperparameters,
        )

    return make


@pytest.fixture(scope="module")
def plain(new_run: Callable[..., Path], jobs: Jobs) -> Callable[[Method], RunResult]:
    """The result of an undisturbed run of a method."""
    done: dict[Method, RunResult] = {}

    def of(method: Method) -> RunResult:
        if method not in done:
            done[method] = jobs.done(new_run(f"{method}-plain", method))
        return done[method]

    return of


@pytest.mark.parametrize("method", ROWS)
def test_killed_at_a_checkpoint_or_before_it_publishes_it_goes_on_to_the_same_bytes(
    method: Method,
    new_run: Callable[..., Path],
    plain: Callable[[Method], RunResult],
    jobs: Jobs,
) -> None:
    """Killed twice: after the first whole checkpoint, and when the last step is done but nothing
    is published.
    """
    run = new_run(f"{method}-killed", method)
    for checkpoint in (4, 12):
        job = jobs.start(run)
        whole = run / "checkpoints" / f"checkpoint-{checkpoint}" / "whole"
        job.wait_until(f"checkpoint {checkpoint}", whole.exists)
        job.send(signal.SIGKILL)
        assert job.finish() == -signal.SIGKILL
    torn = run / "checkpoints" / "checkpoint-13"
    torn.mkdir()
    (torn / "trainer_state.json").write_text('{"global_step": 1')
    result = jobs.done(run)

    assert result.resumed_from_step == 12
    assert result.weights_sha256 == plain(method).weights_sha256
    assert result.metrics == plain(method).metrics


@pytest.mark.parametrize("method", ROWS)
def test_stopped_and_killed_wherever_it_stands_it_goes_on_to_the_same_bytes(
    method: Method, new_run: Callable[..., Path], jobs: Jobs
) -> None:
    """Between checkpoints, in the midst of epochs: ten rows are three batches of three and one of
    one, two batches are a step.
    """
    uneven = small(method, batch_size=3, gradient_accumulation=2, max_steps=11, checkpoint_every=5)
    whole = jobs.done(new_run(f"{method}-uneven", method, uneven, rows=10))
    run = new_run(f"{method}-stopped", method, uneven, rows=10)
    jobs.end_at(run, 2, signal.SIGTERM, ExitCode.INTERRUPTED)
    jobs.end_at(run, 7, signal.SIGKILL, -signal.SIGKILL)
    jobs.end_at(run, 7, signal.SIGTERM, ExitCode.INTERRUPTED)
    result = jobs.done(run)

    assert (whole.steps, result.steps) == (11, 11)
    assert result.resumed_from_step == 8, "a step is ended before a run is"
    assert result.weights_sha256 == whole.weights_sha256
    assert result.metrics == whole.metrics


@pytest.mark.parametrize("method", ROWS)
def test_two_processes_share_out_the_batches_of_one(
    method: Method,
    new_run: Callable[..., Path],
    plain: Callable[[Method], RunResult],
    jobs: Jobs,
) -> None:
    run = new_run(f"{method}-two", method)
    ranks = jobs.together(run)
    for rank in ranks:
        assert rank.finish() == ExitCode.DONE, rank.output
    result = result_of(run)

    assert result.processes == 2
    assert result.steps == plain(method).steps
    assert result.metrics["loss"] == pytest.approx(plain(method).metrics["loss"], rel=0.02)
    assert f"run {run.name}" not in ranks[1].output  # one process alone speaks and writes


@pytest.mark.parametrize("method", ROWS)
def test_two_passes_of_half_a_batch_are_a_step_of_the_whole(
    method: Method,
    new_run: Callable[..., Path],
    plain: Callable[[Method], RunResult],
    jobs: Jobs,
) -> None:
    halves = small(method, batch_size=2, gradient_accumulation=2)
    result = jobs.done(new_run(f"{method}-halves", method, halves))

    assert result.steps == plain(method).steps
    assert result.metrics["loss"] == pytest.approx(plain(method).metrics["loss"], rel=0.05)


def launch(*command: str) -> None:
    """Two processes by accelerate, as an operator starts them."""
    options = "accelerate.commands.launch --multi_gpu --num_processes 2 --num_machines 1"
    options += f" --mixed_precision no --dynamo_backend no --main_process_port {free_port()}"
    done = subprocess.run(
        [sys.executable, "-m", *options.split(), *command],
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_accelerate_launches_two_processes(
    new_run: Callable[..., Path], plain: Callable[[Method], RunResult]
) -> None:
    run = new_run("dpo-accelerate")
    launch("-m", "learnback.retraining.job", str(run))

    assert result_of(run).processes == 2
    assert result_of(run).metrics["loss"] == pytest.approx(plain("dpo").metrics["loss"], rel=0.02)


def test_accelerate_launches_every_other_method_as_well(
    new_run: Callable[..., Path],
    plain: Callable[[Method], RunResult],
    tmp_path: Path,
    taught: Path,
    reward_model: Path,
) -> None:
    """One launch for all of them: imports take longer than they."""
    others: list[Method] = [method for method in ROWS if method != "dpo"]
    runs = [new_run(f"{method}-accelerate", method) for method in others]
    policy = write_rloo_run(tmp_path / "rloo-accelerate", taught, reward_model, max_steps=4)
    launch("-m", "tests.several_jobs", *map(str, [*runs, policy]))

    for method, run in zip(others, runs, strict=True):
        assert result_of(run).processes == 2
        assert result_of(run).metrics["loss"] == pytest.approx(
            plain(method).metrics["loss"], rel=0.02
        )
    assert (result_of(policy).processes, result_of(policy).steps) == (2, 4)


def test_a_batch_that_can_not_be_shared_out_is_refused(
    new_run: Callable[..., Path], jobs: Jobs
) -> None:
    run = new_run("dpo-odd", "dpo", small(batch_size=3))
    status, _ = jobs.run(run, WORLD_SIZE=2, RANK=0)

    assert status == ExitCode.BAD_DATA
    assert "a batch of 3 can't be shared out among 2" in (progress_of(run).error or "")


@pytest.mark.parametrize("method", ROWS)
def test_a_loss_that_is_no_number_ends_the_run_for_good(
    method: Method, new_run: Callable[..., Path], jobs: Jobs
) -> None:
    run = new_run(f"{method}-nan", method, small(method, learning_rate=1e30, warmup_fraction=0))
    status, _ = jobs.run(run)

    assert status == ExitCode.DIVERGED
    assert progress_of(run).state == "failed"
    assert "not finite" in (progress_of(run).error or "")
    assert not (run / "adapter").exists()


def test_too_little_memory_ends_the_run_for_good(new_run: Callable[..., Path], jobs: Jobs) -> None:
    run = new_run("dpo-huge", "dpo", small(lora_rank=2_000_000_000))
    status, output = jobs.run(run, ADDRESS_SPACE=32 * GIB)

    assert status == ExitCode.OUT_OF_MEMORY, output
    assert "out of memory" in (progress_of(run).error or "")
    assert progress_of(run).exit_code == ExitCode.OUT_OF_MEMORY


@pytest.mark.parametrize("method", ROWS)
def test_full_weights_are_published_as_a_model_that_loads(
    method: Method, new_run: Callable[..., Path], jobs: Jobs
) -> None:
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

    full = small(method, adaptation="full", learning_rate=2e-3, max_steps=4)
    run = new_run(f"{method}-full", method, full)
    result = jobs.done(run)

    kinds = AutoModelForCausalLM, AutoModelForSequenceClassification
    kind = kinds[method == "reward_model"]
    model, info = kind.from_pretrained(run / "model", output_loading_info=True)
    assert result.published == "model"
    assert not info["missing_keys"]
    assert model.config.vocab_size == len(AutoTokenizer.from_pretrained(run / "model"))
    assert not (run / "adapter").exists()
    assert {path.suffix for path in (run / "model").iterdir()} <= {
        ".safetensors",
        ".json",
        ".jinja",
    }
    if method != "reward_model":
        assert (result.distance_from_reference or 0) > 0
