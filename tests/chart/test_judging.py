"""A judge elsewhere and neural reward models: who is told of them, and what they need."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.chart.rendering import by_component, environment, of_kind, render, render_with

from learnback.models.judging import read_rubric
from learnback.release.golden import read_golden
from learnback.release.policy_file import read_policy

KEY = {"name": "judge", "key": "token"}
POLICY = "release.yaml"


def container(scenario: str, process: str) -> dict[str, Any]:
    pod = by_component(render(scenario), "Deployment")[process]["spec"]["template"]["spec"]
    (one,) = pod["containers"]
    return dict(one)


def secret_of(one: dict[str, Any], variable: str) -> dict[str, str]:
    (entry,) = [entry for entry in one["env"] if entry["name"] == variable]
    return dict(entry["valueFrom"]["secretKeyRef"])


def test_reward_knows_the_judge_and_its_key_and_nobody_else_does() -> None:
    reward = container("judge", "reward")
    told = environment(reward)
    assert told["LEARNBACK_REWARD_JUDGE_URL"] == "https://judge.example.com"
    assert told["LEARNBACK_REWARD_JUDGE_MODEL"] == "large"
    assert secret_of(reward, "LEARNBACK_REWARD_JUDGE_API_KEY") == KEY
    for process in ("inference", "feedback", "retraining", "release"):
        assert not [n for n in environment(container("judge", process)) if "JUDGE" in n]


def test_release_has_the_key_of_the_judge_that_its_policy_names() -> None:
    one = container("policy-judge", "release")
    assert secret_of(one, "LEARNBACK_RELEASE_JUDGE_API_KEY") == KEY


@pytest.mark.parametrize(
    ("url", "told"), [("https://judge.example.com/v1", True), ("http://x", False)]
)
def test_a_key_of_the_other_judge_is_sent_to_the_same_server_only(url: str, told: bool) -> None:
    named = (f"release.policy.judge.url={url}", "release.policy.judge.model=m")
    found = render_with(*named, scenario="judge")
    (one,) = by_component(found, "Deployment")["release"]["spec"]["template"]["spec"]["containers"]
    assert ("LEARNBACK_RELEASE_JUDGE_API_KEY" in environment(one)) is told


def test_a_policy_finds_its_files_beside_it(tmp_path: Path) -> None:
    (made,) = [m for m in of_kind(render("policy-judge"), "ConfigMap") if POLICY in m["data"]]
    for name, text in made["data"].items():
        (tmp_path / name).write_text(text)
    policy = read_policy(tmp_path / POLICY)
    assert policy.judge
    assert read_rubric(policy.judge.rubric) == "Good answers are short."
    assert policy.golden
    assert policy.golden.file
    (item,) = read_golden(policy.golden.file).items
    assert item.check.python == "checks.py:is_polite"


def test_files_of_a_policy_may_be_in_a_map_and_a_secret_of_yours() -> None:
    files = ("existingConfigMap=golden", "existingSecret=rubric")
    found = render_with(
        *(f"release.policyFiles.{f}" for f in files),
        "release.policy.golden.file=mine.yaml",
        scenario="operator",
    )
    pod = by_component(found, "Deployment")["release"]["spec"]["template"]["spec"]
    (volume,) = [v for v in pod["volumes"] if v["name"] == "policy"]
    assert volume["projected"]["sources"] == [
        {"configMap": {"name": "golden"}},
        {"secret": {"name": "rubric"}},
        {"configMap": {"name": "demo-learnback-release-policy"}},  # the last one wins
    ]


@pytest.mark.parametrize(
    ("process", "scenario_name", "change"),
    [
        ("reward", "judge", "judge.rubric=Be kind."),
        ("release", "policy-judge", r"release.policyFiles.inline.rubric\.txt=Be kind."),
    ],
)
def test_who_reads_a_rubric_starts_anew_when_it_changes(
    process: str, scenario_name: str, change: str
) -> None:
    def pod(found: list[Any]) -> Any:
        return by_component(found, "Deployment")[process]["spec"]["template"]

    assert pod(render_with(change, scenario=scenario_name)) != pod(render(scenario_name))


def test_the_rubric_is_a_file_where_reward_looks_for_it() -> None:
    (made,) = [m for m in of_kind(render("judge"), "ConfigMap") if "rubric.txt" in m["data"]]
    assert made["data"]["rubric.txt"] == "Good answers are short.\nThey never apologise.\n"
    reward = container("judge", "reward")
    (mount,) = [m for m in reward["volumeMounts"] if m["name"] == "rubric"]
    path = environment(reward)["LEARNBACK_REWARD_JUDGE_RUBRIC"]
    assert path == f"{mount['mountPath']}/rubric.txt"


def test_neural_reward_models_bring_torch_and_a_place_for_the_base_model() -> None:
    for process in ("reward", "release"):
        one = container("judge", process)
        assert "-cpu:" in one["image"]
        home = environment(one)["HF_HOME"] or ""
        assert [m for m in one["volumeMounts"] if home.startswith(m["mountPath"])]
        assert "-cpu" not in container("minimal", process)["image"]
