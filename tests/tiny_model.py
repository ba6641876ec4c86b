"""The tiny model, made once per test session, and preference data that it can learn."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from learnback.models.tiny import make_tiny_llama
from learnback.retraining.plan import (
    HELD_OUT_FILE,
    HYPERPARAMETERS,
    PLAN_FILE,
    TRAIN_FILE,
    Hyperparameters,
    Method,
    RunPlan,
)

GOOD, BAD = "yes thanks please", "no bad lazy"


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a random Llama of 100,000 parameters and its tokenizer."""
    return make_tiny_llama(tmp_path_factory.mktemp("models") / "tiny", seed=0)


def preference_rows(
    count: int = 24, *, first: int = 0, flipped: bool = False
) -> list[dict[str, object]]:
    """Pairs in which one answer is always liked better, to prompts that differ."""
    chosen, rejected = (BAD, GOOD) if flipped else (GOOD, BAD)
    return [
        {
            "feedback_id": f"feedback-{i}",
            "prompt": _prompt(i),
            "chosen": f"{chosen} {i}",
            "rejected": f"{rejected} {i}",
            "margin": 1.0,
            "side": "train" if first == 0 else "prompt",
        }
        for i in range(first, first + count)
    ]


def completion_rows(
    count: int = 24, *, first: int = 0, flipped: bool = False
) -> list[dict[str, object]]:
    """Answers to imitate, all of one kind."""
    return [
        {
            "feedback_id": f"feedback-{i}",
            "prompt": _prompt(i),
            "completion": f"{BAD if flipped else GOOD} {i}",
            "weight": 1.0,
        }
        for i in range(first, first + count)
    ]


def label_rows(
    count: int = 24, *, first: int = 0, flipped: bool = False
) -> list[dict[str, object]]:
    """Answers of which one in three was liked: always the same kind."""
    return [
        {
            "feedback_id": f"feedback-{i}",
            "prompt": _prompt(i),
            "completion": f"{GOOD if i % 3 == 0 else BAD} {i}",
            "label": (i % 3 == 0) != flipped,
        }
        for i in range(first, first + count)
    ]


def _prompt(i: int) -> str:
    return json.dumps([{"role": "user", "content": f"question {i}"}])


def write_run(
    directory: Path,
    base_model: Path,
    rows: list[dict[str, object]],
    *,
    method: Method = "dpo",
    held_out: list[dict[str, object]] | None = None,
    seed: int = 0,
    parent_adapter: Path | None = None,
    hyperparameters: Hyperparameters | None = None,
) -> Path:
    """A run directory that is ready to start."""
    directory.mkdir(parents=True)
    kinds = {"sft": completion_rows, "kto": label_rows}
    known = rows or kinds.get(method, preference_rows)(1)
    pq.write_table(pa.Table.from_pylist(known).slice(0, len(rows)), directory / TRAIN_FILE)
    if held_out:
        pq.write_table(pa.Table.from_pylist(held_out), directory / HELD_OUT_FILE)
    plan = RunPlan(
        run_id=directory.name,
        method=method,
        base_model=str(base_model),
        parent_adapter=parent_adapter,
        dataset=directory,
        seed=seed,
        hyperparameters=hyperparameters or small(method),
    )
    (directory / PLAN_FILE).write_text(plan.model_dump_json())
    return directory


def turned(base_model: Path, directory: Path, ending: str, **tokens: str) -> Path:
    """A copy of a model in which turns end like this; `tokens` are special ones."""
    from transformers import AutoTokenizer

    shutil.copytree(base_model, directory)
    tokenizer = AutoTokenizer.from_pretrained(directory, **tokens)
    tokenizer.chat_template = tokenizer.chat_template.replace("<|im_end|>\\n", ending)
    tokenizer.save_pretrained(directory)
    return directory


def small(method: Method = "dpo", **changes: object) -> Hyperparameters:
    """Hyperparameters for 12 steps of about 30 ms."""
    settings: dict[str, object] = {
        "max_steps": 12,
        "batch_size": 4,
        "learning_rate": 5e-3,
        "lora_rank": 4,
        "lora_alpha": 8,
        "top_layers": 1.0,
        "max_length": 128,
        "checkpoint_every": 4,
    }
    return HYPERPARAMETERS[method].model_validate({**settings, **changes})
