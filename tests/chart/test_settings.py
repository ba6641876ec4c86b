"""Every setting of docs/settings.md can be set by a value of the chart."""

from __future__ import annotations

import json

import pytest
import yaml
from tests.chart.all_settings import CLASSES, VARIABLES
from tests.chart.rendering import (
    HelmFailed,
    by_component,
    environment,
    render,
    render_with,
    values_file,
)

PROCESSES = ("inference", "feedback", "reward", "retraining", "release", "operator")


def variables(process: str, *settings: str) -> set[str]:
    """Of a Deployment's container, with settings that the chart does not know by name."""
    found = (
        render_with(*settings, scenario="operator", json_settings=True)
        if settings
        else render("operator")
    )
    (one,) = by_component(found, "Deployment")[process]["spec"]["template"]["spec"]["containers"]
    return set(environment(one))


@pytest.mark.parametrize("process", PROCESSES)
def test_settings_of_a_process_are_set_by_the_chart_or_by_name(process: str) -> None:
    prefix = f"LEARNBACK_{process.upper()}_"
    wanted = {name for name in VARIABLES if name.startswith(prefix)}
    assert wanted
    there = variables(process)
    by_name = {n.removeprefix(prefix).lower(): "1" for n in wanted - there - FIXED}
    given = variables(process, f"{process}.settings={json.dumps(by_name)}")
    assert wanted - FIXED <= given


FIXED = {
    *(f"LEARNBACK_REWARD_JUDGE_{n}" for n in ("URL", "MODEL", "API_KEY", "RUBRIC")),  # judge
    "LEARNBACK_INFERENCE_ENGINE_URLS",  # inference.externalEngineUrls
    "LEARNBACK_INFERENCE_ENGINE_KEY",  # inference.externalEngineKeySecret
    "LEARNBACK_RELEASE_POLICY",  # release.policy
    "LEARNBACK_RELEASE_JUDGE_API_KEY",  # release.judgeKey
    "LEARNBACK_RETRAINING_JOB_TEMPLATE",  # training.enabled
}
"""Set by values of their own where they have a meaning; by name the chart refuses them."""


def test_what_the_chart_sets_is_refused_by_name(scenario: str) -> None:
    """It would be there twice, which the API server refuses."""
    for process, deployment in by_component(render(scenario), "Deployment").items():
        (one,) = deployment["spec"]["template"]["spec"]["containers"]
        prefix = f"LEARNBACK_{process.upper()}_"
        own = {n.removeprefix(prefix).lower() for n in environment(one) if n.startswith(prefix)}
        chosen = {
            *yaml.safe_load(values_file(scenario).read_text()).get(process, {}).get("settings", {})
        }
        given = [f"{process}.settings.{name}=1" for name in own - chosen - {"threads"}]
        if not given:
            continue
        with pytest.raises(HelmFailed) as failed:
            render_with(*given, scenario=scenario)
        assert str(failed.value).count(f"- {process}.settings.") == len(given), given


BY_EXTRA_ENV = {
    "LEARNBACK_REWARD_ENGINE_URL",
    "LEARNBACK_REWARD_ENGINE_KEY",
    "LEARNBACK_FAILED_KEYS_PER_S",
    "LEARNBACK_HEAD_TIMEOUT",
    "LEARNBACK_REQUESTS_PER_S",
}
"""An engine of yours for neural reward models (else neuralRewards, or rewardEngine of the
chart), and what hardly anybody sets."""


def test_what_all_processes_share_is_set_everywhere() -> None:
    (common,) = [cls for cls in CLASSES if cls.model_config["env_prefix"] == "LEARNBACK_"]
    wanted = {f"LEARNBACK_{name.upper()}" for name in common.model_fields} - BY_EXTRA_ENV
    for process in PROCESSES[:-1]:
        assert wanted <= variables(process), process


def test_every_other_setting_has_a_value_or_goes_by_extra_environment() -> None:
    others = {
        name
        for name in VARIABLES
        if not name.startswith(tuple(f"LEARNBACK_{p.upper()}_" for p in PROCESSES))
    }
    there = set().union(*(variables(process) for process in PROCESSES))
    extra = [{"name": name, "value": "1"} for name in sorted(others - there)]
    for process in PROCESSES[:-1]:
        given = variables(process, f"extraEnv={json.dumps(extra)}")
        assert {entry["name"] for entry in extra} <= given
    retention = {name for name in others if name.startswith("LEARNBACK_RETENTION_")}
    assert retention
    assert retention <= variables("release")
