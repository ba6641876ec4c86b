"""Data that no method can learn from is refused, and bad rows among good ones are counted."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.tiny_model import (
    completion_rows,
    label_rows,
    preference_rows,
    small,
    write_run,
)
from tests.warm_jobs import Jobs, progress_of

from learnback.retraining.plan import ExitCode, Method

pytestmark = [pytest.mark.timeout(180), pytest.mark.xdist_group("training")]

Rows = list[dict[str, object]]
ROWS: dict[Method, Callable[..., Rows]] = {
    "sft": completion_rows,
    "dpo": preference_rows,
    "kto": label_rows,
    "reward_model": preference_rows,
}
PAIRED: tuple[Method, ...] = ("dpo", "reward_model")
CONTEXT = 512


def chat(role: str, words: str) -> str:
    return json.dumps([{"role": role, "content": words}])


def all_with(rows: Rows, **changes: object) -> Rows:
    return [{**row, **changes} for row in rows]


def every_answer(rows: Rows, words: str) -> Rows:
    answers = {"chosen", "completion"}
    return [{**row, **dict.fromkeys(answers & set(row), words)} for row in rows]


def hopeless(method: Method) -> dict[str, tuple[Rows, str]]:
    """Datasets without a usable row, and what the refusal must name."""
    rows = ROWS[method](4)
    cases = {
        "nothing": ([], "empty"),
        "empty answers": (every_answer(rows, " \n"), "'empty': 4"),
        "answers of 100,000 characters": (every_answer(rows, "word " * 20_000), "'too_long': 4"),
        "unknown roles": (all_with(rows, prompt=chat("wizard", "hi")), "unknown_role"),
        "a prompt longer than the context": (
            all_with(rows, prompt=chat("user", "word " * CONTEXT)),
            "prompt_too_long",
        ),
        "no prompt": (all_with(rows, prompt="[]"), "the prompt is empty"),
        "no JSON": (all_with(rows, prompt="hi"), "no list of messages"),
        "no answer": (every_answer(rows, None), "an answer is missing"),  # type: ignore[arg-type]
    }
    if method in PAIRED:
        cases["both answers alike"] = (all_with(rows, chosen="same", rejected="same"), "identical")
        cases["no margin"] = (all_with(rows, margin=0.0), "no_margin")
        cases["ties only"] = (all_with(rows, margin=0.0, tie=True), "tie")
        cases["one side only"] = (all_with(rows, rejected=""), "'empty': 4")
    else:
        cases["no weight"] = (all_with(rows, weight=0.0), "no_weight")
    if method == "kto":
        cases["one-sided"] = (all_with(rows, label=True), "one-sided")
        both = [{**row, "label": label} for row in rows for label in (True, False)]
        cases["contradictions"] = (both, "'contradicted': 8")
        cases["labels that are none"] = (all_with(rows, label=0.5), "neither true nor false")
    return cases


@pytest.mark.parametrize(("method", "case"), [(m, c) for m in ROWS for c in hopeless(m)])
def test_a_dataset_without_a_usable_row_is_refused_by_name(
    method: Method, case: str, tmp_path: Path, tiny_model: Path, jobs: Jobs
) -> None:
    rows, named = hopeless(method)[case]
    run = write_run(tmp_path / "run", tiny_model, rows, method=method)
    status, output = jobs.run(run)

    assert status == ExitCode.BAD_DATA, output
    assert named in (progress_of(run).error or "")
    assert progress_of(run).exit_code == ExitCode.BAD_DATA
    assert not (run / "result.json").exists()


@pytest.mark.parametrize("method", ROWS)
def test_bad_rows_among_good_ones_are_left_out_and_counted(
    method: Method, tmp_path: Path, tiny_model: Path, jobs: Jobs
) -> None:
    good = ROWS[method](8)
    bad = [
        *every_answer(good[:1], ""),
        *every_answer(good[:2], "word " * 20_000),
        *all_with(good[:1], prompt=chat("wizard", "hi")),
        *all_with(good[:1], prompt=chat("user", "word " * CONTEXT)),
    ]
    again = all_with(good[:3], feedback_id="again")
    run = write_run(
        tmp_path / "run",
        tiny_model,
        [*bad, *good, *again],
        method=method,
        hyperparameters=small(method, max_steps=1),
    )
    result = jobs.done(run)

    assert result.rows_used == 8
    assert result.rows_skipped == {
        "empty": 1,
        "too_long": 2,
        "unknown_role": 1,
        "prompt_too_long": 1,
        "duplicate": 3,
    }
    assert result.skipped == {"feedback-0": "prompt_too_long", "feedback-1": "too_long"}
