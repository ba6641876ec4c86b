"""A judge elsewhere and neural reward models: who is told of them, and what they need."""

from __future__ import annotations

from typing import Any

from tests.chart.rendering import by_component, environment, of_kind, render


def container(scenario: str, process: str) -> dict[str, Any]:
    pod = by_component(render(scenario), "Deployment")[process]["spec"]["template"]["spec"]
    (one,) = pod["containers"]
    return dict(one)


def secret_of(one: dict[str, Any], variable: str) -> dict[str, str]:
    (entry,) = [entry for entry in one["env"] if entry["name"] == variable]
    return dict(entry["valueFrom"]["secretKeyRef"])


def test_reward_knows_the_judge_and_release_its_key() -> None:
    reward = container("judge", "reward")
    told = environment(reward)
    assert told["LEARNBACK_REWARD_JUDGE_URL"] == "https://judge.example.com"
    assert told["LEARNBACK_REWARD_JUDGE_MODEL"] == "large"
    key = {"name": "judge", "key": "token"}
    assert secret_of(reward, "LEARNBACK_REWARD_JUDGE_API_KEY") == key
    assert secret_of(container("judge", "release"), "LEARNBACK_RELEASE_JUDGE_API_KEY") == key
    for process in ("inference", "feedback", "retraining"):
        assert not [n for n in environment(container("judge", process)) if "JUDGE" in n]


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
