"""Policy gradient in processes: killed and gone on with, and shared out among several."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
from tests.taught_model import liked, prompts, said, write_rloo_run
from tests.warm_jobs import Jobs, progress_of, result_of

from learnback.retraining.plan import ExitCode

pytestmark = [pytest.mark.timeout(240), pytest.mark.xdist_group("rloo")]


def test_stopped_and_killed_wherever_it_stands_it_goes_on_to_the_same_bytes(
    tmp_path: Path, taught: Path, reward_model: Path, jobs: Jobs
) -> None:
    """Between checkpoints, in the midst of epochs: three of eight prompts a step, and passes of
    two and one of them.
    """
    uneven = {"prompts_per_step": 3, "batch_size": 8, "max_steps": 9, "checkpoint_every": 5}
    whole = jobs.done(write_rloo_run(tmp_path / "whole", taught, reward_model, **uneven))
    run = write_rloo_run(tmp_path / "stopped", taught, reward_model, **uneven)
    jobs.end_at(run, 2, signal.SIGTERM, ExitCode.INTERRUPTED)
    jobs.end_at(run, 7, signal.SIGKILL, -signal.SIGKILL)
    jobs.end_at(run, 7, signal.SIGTERM, ExitCode.INTERRUPTED)
    result = jobs.done(run)

    assert (whole.steps, result.steps) == (9, 9)
    assert result.resumed_from_step == 7
    assert result.weights_sha256 == whole.weights_sha256
    assert result.metrics == whole.metrics


def test_two_processes_share_out_the_prompts_of_one(
    tmp_path: Path, taught: Path, reward_model: Path, jobs: Jobs
) -> None:
    """And go on after a kill: with as many of them the bytes are the same again."""

    def new(name: str) -> Path:
        changes = {"max_steps": 4, "checkpoint_every": 2, "rollout_batch_size": 8}
        return write_rloo_run(tmp_path / name, taught, reward_model, **changes)

    one, two, killed = new("one"), new("two"), new("killed")
    alone = jobs.done(one)
    for job in jobs.together(two):
        assert job.finish() == ExitCode.DONE, job.output
    found = result_of(two)
    ranks = jobs.together(killed)
    whole = killed / "checkpoints" / "checkpoint-2" / "whole"
    ranks[0].wait_until("the first checkpoint", whole.exists)
    for job in ranks:
        job.send(signal.SIGKILL)
        job.finish()
    for job in jobs.together(killed):
        assert job.finish() == ExitCode.DONE, job.output

    assert (alone.processes, found.processes) == (1, 2)
    assert said(two, 1) == said(one, 1)
    assert metrics_at(two, 1) == pytest.approx(metrics_at(one, 1), rel=1e-3, abs=1e-5)
    for name in ("reward", "kl", "answer_tokens"):
        assert metrics_at(two, 2)[name] == pytest.approx(metrics_at(one, 2)[name], rel=0.05)
    assert result_of(killed).resumed_from_step >= 2
    assert result_of(killed).weights_sha256 == found.weights_sha256


def metrics_at(run: Path, step: int) -> dict[str, float]:
    found = json.loads((run / "rollouts" / f"{step:06}.json").read_text())["metrics"]
    return {name: value for name, value in found.items() if not name.startswith("mismatch")}


def test_of_several_processes_one_asks_the_engine_for_all(
    tmp_path: Path, taught: Path, reward_model: Path, jobs: Jobs
) -> None:
    from tests.adapter_engine import AdapterEngine, running

    with running(AdapterEngine(taught)) as engine:
        changes = {"engine_url": engine.url, "max_steps": 2, "checkpoint_every": 2}
        folder = write_rloo_run(tmp_path / "http", taught, reward_model, **changes)
        for job in jobs.together(folder):
            assert job.finish() == ExitCode.DONE, job.output

        assert len(engine.loaded) == len(set(engine.loaded))
        assert engine.adapters == {}
        assert result_of(folder).metrics["mismatch"] < 1e-4


def test_a_step_that_can_not_be_shared_out_is_refused(
    tmp_path: Path, taught: Path, reward_model: Path, jobs: Jobs
) -> None:
    folder = write_rloo_run(tmp_path / "odd", taught, reward_model, prompts_per_step=3)
    status, _ = jobs.run(folder, WORLD_SIZE=2, RANK=0)

    assert status == ExitCode.BAD_DATA
    assert "a step of 3 prompts can't be shared out among 2" in (progress_of(folder).error or "")


@pytest.mark.parametrize(
    ("case", "changes", "status", "named"),
    [
        ("nan", {"learning_rate": 1e30, "warmup_fraction": 0}, ExitCode.DIVERGED, "not finite"),
        ("huge", {"lora_rank": 2_000_000_000}, ExitCode.OUT_OF_MEMORY, "out of memory"),
    ],
)
def test_broken_numbers_and_too_little_memory_end_the_run_for_good(
    case: str,
    changes: dict[str, Any],
    status: ExitCode,
    named: str,
    tmp_path: Path,
    taught: Path,
    reward_model: Path,
    jobs: Jobs,
) -> None:
    run = write_rloo_run(tmp_path / case, taught, reward_model, **changes)
    ended, output = jobs.run(run, ADDRESS_SPACE=32 << 30)

    assert ended == status, output
    assert progress_of(run).state == "failed"
    assert progress_of(run).exit_code == status
    assert named in (progress_of(run).error or "")
    assert not (run / "adapter").exists()


def test_full_weights_learn_and_are_published_as_a_model_that_loads(
    tmp_path: Path, taught: Path, reward_model: Path, jobs: Jobs
) -> None:
    from transformers import AutoModelForCausalLM

    full = {"adaptation": "full", "learning_rate": 1e-3}
    run = write_rloo_run(tmp_path / "full", taught, reward_model, **full)
    result = jobs.done(run)

    _, info = AutoModelForCausalLM.from_pretrained(run / "model", output_loading_info=True)
    assert result.published == "model"
    assert not info["missing_keys"]
    assert not (run / "adapter").exists()
    assert liked(said(run, 12)) > liked(said(run, 1))
    assert (result.distance_from_reference or 0) > 0, "the base model is still there to compare"


def asking(role: str, words: str) -> dict[str, Any]:
    return {"prompt": json.dumps([{"role": role, "content": words}]), "feedback_id": ""}


@pytest.mark.parametrize(
    ("rows", "named"),
    [
        ([], "empty"),
        ([asking("wizard", "hi")], "'unknown_role': 1"),
        ([asking("user", "word " * 20_000)], "'prompt_too_long': 1"),
        ([{"prompt": "[]", "feedback_id": ""}], "the prompt is empty"),
        ([{"prompt": "hi", "feedback_id": ""}], "no list of messages"),
    ],
)
def test_prompts_of_which_none_can_be_asked_are_refused_by_name(
    rows: list[dict[str, Any]],
    named: str,
    tmp_path: Path,
    taught: Path,
    reward_model: Path,
    jobs: Jobs,
) -> None:
    run = write_rloo_run(tmp_path / "bad", taught, reward_model, asked=rows)
    status, output = jobs.run(run)

    assert status == ExitCode.BAD_DATA, output
    assert named in (progress_of(run).error or "")
    assert not (run / "result.json").exists()


def test_bad_prompts_among_good_ones_are_left_out_and_counted(
    tmp_path: Path, taught: Path, reward_model: Path, jobs: Jobs
) -> None:
    bad = [asking("wizard", "hi"), asking("user", "word " * 20_000), *prompts(2)]
    asked = [*prompts(8), *bad]
    run = write_rloo_run(tmp_path / "mixed", taught, reward_model, asked=asked, max_steps=1)
    result = jobs.done(run)

    assert result.rows_used == 8
    assert result.rows_skipped == {"unknown_role": 1, "prompt_too_long": 1, "duplicate": 2}
