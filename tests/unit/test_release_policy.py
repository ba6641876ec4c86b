"""The policy file: what it takes, what it refuses and how it says so; its page is current."""

from __future__ import annotations

import json
import runpy
from datetime import timedelta
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from learnback.core.errors import Unprocessable
from learnback.release.policy import Measure, OnDeadline, ReleasePolicy
from learnback.release.policy_file import read_policy

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture
def written() -> Any:
    return runpy.run_path(str(DOCS / "write_policy.py"))


def test_the_page_and_the_schema_are_what_the_classes_say(written: Any) -> None:
    run = "run: python docs/write_policy.py"
    assert (DOCS / "release-policy.md").read_text() == written["page"](), run
    assert (DOCS / "release-policy.schema.json").read_text() == written["schema"](), run


def test_every_field_has_a_sentence(written: Any) -> None:
    assert not [line for line in written["page"]().splitlines() if line.endswith("|  |")]


def test_the_example_is_read_and_fits_the_schema(written: Any, tmp_path: Path) -> None:
    file = tmp_path / "release.yaml"
    file.write_text(written["EXAMPLE"])
    canary = read_policy(file).canary
    assert [s.traffic for s in canary.steps] == [0.0, 0.01, 0.1, 0.5, 1.0]
    assert canary.steps[0].mirror == 0.05
    assert canary.steps[2].at_least == timedelta(hours=1)
    assert canary.metrics[0].measure is Measure.FEEDBACK
    assert canary.on_deadline is OnDeadline.ROLL_BACK
    schema = json.loads((DOCS / "release-policy.schema.json").read_text())
    jsonschema.validate(yaml.safe_load(written["EXAMPLE"]), schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"canary": {"stepz": []}}, schema)


def test_without_a_file_what_passes_answers_everybody() -> None:
    (step,) = read_policy(None).canary.steps
    assert (step.traffic, step.approval) == (1.0, "auto")
    assert read_policy(None).canary == ReleasePolicy().canary
    assert not read_policy(None).gate.reward_hack  # a laptop has no second judge
    assert ReleasePolicy().gate.reward_hack


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("canary: {stepz: []}", "canary.stepz"),
        ("canary: {steps: [{traffic: 0%}, {traffic: 100%}]}", "greater than 0"),
        ("canary: {steps: [{traffic: 10%}]}", "last step must be 100%"),
        ("canary: {steps: []}", "last step must be 100%"),
        ("canary: {steps: [{traffic: 50%}, {traffic: 10%}, {traffic: 100%}]}", "more traffic"),
        ("canary: {steps: [{traffic: 10%}, {traffic: 100%}], metrics: []}", "at least one metric"),
        ("canary: {metrics: [{measure: errors}, {measure: errors}]}", "only once"),
        ("canary: {metrics: [{measure: beauty}]}", "canary.metrics.0.measure"),
        ("canary: {alpha: 0.9}", "canary.alpha"),
        ("canary: {steps: [{mirror: 5%, traffic: 5%}, {traffic: 100%}]}", "either traffic"),
        ("canary: {steps: [{mirror: 5%}, {traffic: 100%}]}", "before all do"),
        ("canary: {steps: [{traffic: 1%}, {mirror: 5%}, {traffic: 100%}]}", "come before"),
        (
            "canary: {steps: [{mirror: 5%}, {mirror: 1%}, {traffic: 1%}, {traffic: 100%}]}",
            "copy more",
        ),
        (
            "canary: {steps: [{mirror: 5%}, {traffic: 1%}, {traffic: 100%}],"
            " metrics: [{measure: feedback}]}",
            "declare one of them",
        ),
        ("canary: {steps: [{traffic: 1%}, {traffic: 100%}]}", "1% ends with the next look"),
        (
            "canary: {steps: [{mirror: 1%}, {traffic: 1%, min_people: 1}, {traffic: 100%}]}",
            "1% mir",
        ),
        ("gate: {min_win_rate: high}", "gate.min_win_rate"),
        ("[1, 2]", "the file"),
        ("a: [", "can't be read"),
    ],
)
def test_what_is_wrong_is_named(text: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "release.yaml"
    file.write_text(text)
    with pytest.raises(Unprocessable, match=said.replace("[", r"\[")) as failed:
        read_policy(file)
    assert str(file) in failed.value.detail


def test_a_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(Unprocessable, match="can't be read"):
        read_policy(tmp_path / "nothing.yaml")


def test_a_field_that_stands_twice_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "release.yaml"
    file.write_text("canary:\n  alpha: 0.01\n  alpha: 0.2\n")
    with pytest.raises(Unprocessable, match="`alpha` stands there twice"):
        read_policy(file)
