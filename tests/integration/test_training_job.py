"""The training job as its launcher sees it: a process, its files and its exit status."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.tiny_model import preference_rows, small, turned, write_run
from tests.warm_jobs import Jobs, progress_of, result_of

from learnback.retraining.plan import ExitCode

pytestmark = [pytest.mark.timeout(180), pytest.mark.xdist_group("training")]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """An undisturbed run, started as the launcher starts it."""
    run = write_run(tmp_path_factory.mktemp("runs") / "plain", tiny_model, preference_rows())
    command = [sys.executable, "-m", "learnback.retraining.job", str(run)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == ExitCode.DONE, done.stdout + done.stderr
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
    tmp_path: Path, tiny_model: Path, finished: Path, jobs: Jobs
) -> None:
    """Continues the trained adapter on flipped labels: the reference stays the base model."""
    flipped = write_run(
        tmp_path / "flipped",
        tiny_model,
        preference_rows(flipped=True),
        parent_adapter=finished / "adapter",
        hyperparameters=small(max_steps=1, learning_rate=1e-9, batch_size=24),
    )
    status, output = jobs.run(flipped)

    assert status == ExitCode.DONE, output
    # Were the parent the reference, all rewards would be 0; against the base, the parent prefers
    # the other side.
    assert result_of(flipped).metrics["reward_accuracy"] < 0.1
    assert result_of(flipped).metrics["reward_margin"] < -0.05
    assert result_of(flipped).distance_from_reference > 0


def test_sigterm_keeps_a_checkpoint_and_publishes_nothing(
    tmp_path: Path, tiny_model: Path, jobs: Jobs
) -> None:
    settings = small(max_steps=2000, checkpoint_every=2000)
    run = write_run(tmp_path / "stopped", tiny_model, preference_rows(), hyperparameters=settings)
    job = jobs.start(run)
    job.wait_until(
        "three steps", lambda: (run / "progress.json").exists() and progress_of(run).step >= 3
    )
    job.send(signal.SIGTERM)

    assert job.finish() == ExitCode.INTERRUPTED, job.output
    assert progress_of(run).state == "interrupted"
    assert progress_of(run).exit_code == ExitCode.INTERRUPTED
    assert list((run / "checkpoints").glob("checkpoint-*/whole"))
    assert not (run / "adapter").exists()
    assert not (run / "result.json").exists()


def test_a_run_that_is_done_is_not_done_again(finished: Path, jobs: Jobs) -> None:
    before = (finished / "result.json").read_bytes()
    status, output = jobs.run(finished)

    assert status == ExitCode.DONE
    assert "done already" in output
    assert (finished / "result.json").read_bytes() == before


def test_a_missing_plan_is_bad_data(tmp_path: Path, jobs: Jobs) -> None:
    status, output = jobs.run(tmp_path)

    assert status == ExitCode.BAD_DATA
    assert "bad plan" in output


def test_the_answer_alone_is_learned_however_long_its_prompt(tiny_model: Path) -> None:
    from learnback.retraining.trainers.encoding import Answer, Encoder, padded
    from learnback.retraining.trainers.loading import load_tokenizer

    tokenizer = load_tokenizer(str(tiny_model))
    encoder = Encoder(tokenizer, 512)
    prompts = [[{"role": "user", "content": "hi " * times}] for times in (1, 40)]
    encoded = [encoder.encode(prompt, Answer("hello you", True)) for prompt in prompts]
    inputs = padded(encoded, tokenizer.pad_token_id)

    for ids, learned in zip(inputs["input_ids"], inputs["completion_mask"], strict=True):
        assert tokenizer.decode(ids[learned.bool()]) == "hello you<|im_end|>\n"


def test_an_answer_that_was_cut_off_is_not_taught_to_end_there() -> None:
    from learnback.retraining.trainers.encoding import without_false_end

    end, newline = 2, 9

    assert without_false_end([5, 6, end, newline], frozenset([end])) == [5, 6]
    assert without_false_end([5, 6], frozenset([end])) == [5, 6]


def test_nor_where_a_turn_ends_with_another_token_than_the_tokenizer_knows(
    tmp_path: Path, tiny_model: Path
) -> None:
    """As with Gemma, whose generation_config.json names both."""
    from learnback.retraining.plan import RunPlan
    from learnback.retraining.trainers.encoding import Answer, Encoder
    from learnback.retraining.trainers.loading import load_tokenizer

    base = turned(tiny_model, tmp_path / "base", "<|endoftext|>\n")
    tokenizer = load_tokenizer(str(base))
    turn, eos = tokenizer.convert_tokens_to_ids("<|endoftext|>"), tokenizer.eos_token_id
    (base / "generation_config.json").write_text(json.dumps({"eos_token_id": [eos, turn]}))
    plan = RunPlan(run_id="none", method="sft", base_model=str(base), dataset=tmp_path)
    encoder = Encoder.of(plan, tokenizer)
    prompt = [{"role": "user", "content": "hi"}]

    whole, cut = (encoder.encode(prompt, Answer("hello you", done)) for done in (True, False))
    assert turn in whole.answer_ids
    assert cut.answer_ids == whole.answer_ids[: whole.answer_ids.index(turn)]
