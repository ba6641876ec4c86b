"""What containers are started with: commands, variables, policies, and the time to go."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml
from tests.chart.all_settings import SETTINGS, VARIABLES
from tests.chart.rendering import (
    by_component,
    environment,
    pods,
    render,
    values_file,
)
from tests.command_line import parse

from learnback.cli import main
from learnback.core.process import DRAIN_S
from learnback.core.settings import CommonSettings
from learnback.release.policy import ReleasePolicy
from learnback.retraining.settings import RetrainingSettings

OTHERS = {"HOME", "USER", "LEARNBACK_API_KEY", "LEARNBACK_CONFIG"}
"""Variables that processes read without a settings class."""


def test_every_command_is_one_that_the_command_line_has(scenario: str) -> None:
    for pod in pods(render(scenario)):
        for one in pod.containers:
            if one.get("command", [""])[0] == "learnback":
                parse(one["command"][1:], main)


def test_the_environment_is_what_the_settings_take(
    scenario: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, deployment in by_component(render(scenario), "Deployment").items():
        if name not in SETTINGS:
            continue
        (one,) = deployment["spec"]["template"]["spec"]["containers"]
        counted = {e["name"] for e in one["env"] if "resourceFieldRef" in e.get("valueFrom", {})}
        given = {
            k: v if v is not None else "1" if k in counted else "x"
            for k, v in environment(one).items()
        }
        given["LEARNBACK_REDIS_URL"] = "redis://x"
        with monkeypatch.context() as patched:
            for variable, value in given.items():
                patched.setenv(variable, value)
            common, settings = CommonSettings(), SETTINGS[name]()
        assert common.require_keys is True
        assert (settings.host, settings.port) == (_listen(scenario), _port(one))
        if name == "inference":
            _check_inference(deployment, settings)


def _check_inference(deployment: Any, settings: Any) -> None:
    spec = deployment["spec"]["template"]["spec"]
    drain = settings.drain.total_seconds()
    assert spec["terminationGracePeriodSeconds"] > _linger(deployment) + drain
    spool = next(volume for volume in spec["volumes"] if volume["name"] == "spool")
    assert int(spool["emptyDir"]["sizeLimit"]) > settings.spool_bytes


def _linger(deployment: Any) -> float:
    """Seconds for which its pods serve new requests after SIGTERM."""
    (one,) = deployment["spec"]["template"]["spec"]["containers"]
    seconds = CommonSettings(linger=environment(one)["LEARNBACK_LINGER"]).linger.total_seconds()
    assert seconds >= 5
    assert "lifecycle" not in one, "before SIGTERM it would not know that it goes"
    return seconds


def _listen(scenario: str) -> str:
    return "::" if scenario == "no-network-policy" else "0.0.0.0"


def _port(one: dict[str, Any]) -> int:
    (port,) = (p["containerPort"] for p in one["ports"] if p["name"] == "http")
    assert isinstance(port, int)
    return port


def test_every_variable_of_ours_is_a_setting(scenario: str) -> None:
    for pod in pods(render(scenario)):
        for one in pod.containers:
            names = {n.split("__")[0] for n in environment(one) if n.startswith("LEARNBACK_")}
            assert names <= VARIABLES | OTHERS, (pod.name, names - VARIABLES)
            listed = [entry["name"] for entry in one.get("env", [])]
            assert len(listed) == len(set(listed)), pod.name


def test_a_policy_is_one_that_the_release_process_takes(scenario: str) -> None:
    given = yaml.safe_load(values_file(scenario).read_text()) or {}
    wanted = given.get("release", {}).get("policy")
    found = [o for o in render(scenario) if o["metadata"]["name"].endswith("-release-policy")]
    assert len(found) == bool(wanted)
    for one in found:
        text = yaml.safe_load(one["data"]["release.yaml"])
        assert text == wanted
        ReleasePolicy.model_validate(text)


def test_variables_in_a_value_are_defined_before_it(scenario: str) -> None:
    for pod in pods(render(scenario)):
        for one in pod.containers:
            seen: set[str] = set()
            for entry in one.get("env", []):
                assert set(re.findall(r"\$\((\w+)\)", entry.get("value") or "")) <= seen, pod.name
                seen.add(entry["name"])


def test_grace_is_longer_than_the_linger_and_the_drain(scenario: str) -> None:
    for name, deployment in by_component(render(scenario), "Deployment").items():
        spec = deployment["spec"]["template"]["spec"]
        if name in SETTINGS and name != "inference":
            job = RetrainingSettings().grace.total_seconds() if name == "retraining" else 0
            # open requests first, then the consumers
            assert (
                spec["terminationGracePeriodSeconds"] > _linger(deployment) + 2 * DRAIN_S + job
            ), name
