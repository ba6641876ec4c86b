"""What scales: by counts that exist, and never against a number in the chart."""

from __future__ import annotations

import json
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.chart.exported import exported
from tests.chart.expressions import ROOT
from tests.chart.rendering import (
    CHART,
    HelmFailed,
    by_component,
    of_kind,
    render,
    render_with,
)

from learnback.contracts.streams import KEY_PREFIX, STREAMS

SCALED = {
    "keda": {"inference", "feedback", "reward"},
    "keda-external-redis": {"feedback", "reward"},
    "hpa": {"inference"},
}


def triggers(scenario: str, name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = by_component(render(scenario), "ScaledObject")[name]["spec"][
        "triggers"
    ]
    return found


@pytest.mark.parametrize("scenario_name", ["keda", "keda-external-redis"])
@pytest.mark.parametrize("name", ["feedback", "reward"])
def test_every_group_of_a_process_is_counted_both_ways(scenario_name: str, name: str) -> None:
    seen = {
        (t["metadata"]["stream"], t["metadata"]["consumerGroup"], count)
        for t in triggers(scenario_name, name)
        for count in ("lagCount", "pendingEntriesCount")
        if count in t["metadata"]
    }
    # the stream of models carries a message a day and is no reason to scale
    groups = {s.key for s in STREAMS if name in s.groups and s.name != "models"}
    assert groups, "the contracts name no group"
    counts = ("lagCount", "pendingEntriesCount")
    assert seen == {(key, name, count) for key in groups for count in counts}
    assert all(stream.startswith(KEY_PREFIX) for stream, _, _ in seen)


def test_keda_finds_valkey_from_its_own_namespace_with_the_password() -> None:
    found = render("keda")
    service = by_component(found, "Service")["valkey"]
    for trigger in triggers("keda", "reward"):
        assert trigger["metadata"]["address"] == f"{service['metadata']['name']}.loop:6379"
        assert trigger["metadata"]["enableTLS"] == "false"
        assert trigger["metadata"]["databaseIndex"] == "0"
        (authentication,) = of_kind(found, "TriggerAuthentication")
        assert trigger["authenticationRef"]["name"] == authentication["metadata"]["name"]
    (target,) = authentication["spec"]["secretTargetRef"]
    assert target == {"parameter": "password", "name": "demo-learnback-valkey", "key": "password"}


def test_keda_finds_a_redis_of_yours() -> None:
    (authentication,) = of_kind(render("keda-external-redis"), "TriggerAuthentication")
    assert authentication["spec"]["secretTargetRef"] == [
        {"parameter": "password", "name": "redis", "key": "secret"}
    ]
    for trigger in triggers("keda-external-redis", "feedback"):
        assert trigger["metadata"]["address"] == "redis.example.com:6380"
        assert trigger["metadata"]["enableTLS"] == "true"
        assert trigger["metadata"]["databaseIndex"] == "2"


def test_a_redis_without_a_password_needs_no_authentication() -> None:
    found = render_with("externalRedis.passwordSecret=", scenario="keda-external-redis")
    assert not of_kind(found, "TriggerAuthentication")
    for scaled in of_kind(found, "ScaledObject"):
        assert all("authenticationRef" not in t for t in scaled["spec"]["triggers"])


def test_scalers_name_deployments_that_are_there(scenario: str) -> None:
    found = render(scenario)
    deployments = {one["metadata"]["name"] for one in of_kind(found, "Deployment")}
    for scaler in of_kind(found, "ScaledObject") + of_kind(found, "HorizontalPodAutoscaler"):
        assert scaler["spec"]["scaleTargetRef"]["name"] in deployments


@pytest.mark.parametrize("name", ["inference", "feedback", "reward"])
def test_a_rest_before_scaling_down_is_one_that_the_hpa_keeps(name: str) -> None:
    """KEDA's cooldownPeriod would only be about the way to zero, and there is always one."""
    found = render_with(f"{name}.autoscaling.cooldownSeconds=77", scenario="keda")
    spec = by_component(found, "ScaledObject")[name]["spec"]
    behavior = spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    assert behavior["scaleDown"]["stabilizationWindowSeconds"] == 77
    assert "cooldownPeriod" not in spec
    with pytest.raises(HelmFailed, match="cooldownSeconds"):  # the API takes an hour at most
        render_with(f"{name}.autoscaling.cooldownSeconds=3601", scenario="keda")


def test_nothing_that_scales_has_a_number_in_the_chart(scenario: str) -> None:
    found = render(scenario)
    deployments = by_component(found, "Deployment")
    kinds = ("ScaledObject", "HorizontalPodAutoscaler")
    scaled = {name for kind in kinds for name in by_component(found, kind)}
    assert scaled == SCALED.get(scenario, set())
    for name in scaled:
        assert "replicas" not in deployments[name]["spec"]


def test_a_number_is_there_only_where_you_set_it() -> None:
    # Helm applies server-side: after `kubectl scale`, an upgrade with the field would fail
    for one in of_kind(render("minimal"), "Deployment") + of_kind(render("minimal"), "StatefulSet"):
        assert "replicas" not in one["spec"], one["metadata"]["name"]
    deployments = by_component(render("many-gpus"), "Deployment")
    assert {n: d["spec"].get("replicas") for n, d in deployments.items()} == {
        "inference": 4,
        "feedback": 3,
        "reward": 3,
        "reward-engine": None,
        "retraining": None,
        "release": None,
    }


def test_what_can_have_several_pods_has_a_budget_and_what_is_always_one_has_none(
    scenario: str,
) -> None:
    """Also without replicas in the values: `kubectl scale` may make some."""
    found = render(scenario)
    budgets = by_component(found, "PodDisruptionBudget")
    assert budgets.keys() == {"inference", "feedback", "reward"}
    for one in budgets.values():
        assert one["spec"]["maxUnavailable"] in (1, "25%"), "an eviction of the only pod goes on"
    for kind in ("ScaledObject", "HorizontalPodAutoscaler"):
        for scaler in by_component(found, kind).values():
            spec = scaler["spec"]
            assert (spec.get("minReplicaCount") or spec["minReplicas"]) >= 1


def test_inference_scales_by_a_metric_that_the_installed_vllm_exports_with_its_labels() -> None:
    (trigger,) = triggers("keda", "inference")
    (name,) = re.findall(r"vllm:\w+", trigger["metadata"]["query"])
    assert {"namespace", "pod"} <= exported()[name]
    source = _vllm("v1/metrics/loggers.py")
    assert f'name="{name}"' in source
    assert 'labelnames = ["model_name", "engine"]' in source
    # the query adds up over all labels that it does not name
    assert trigger["metadata"]["query"].startswith("sum(")


def test_an_hpa_asks_for_a_metric_that_vllm_exports_under_one_of_the_two_usual_names() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    for key in ("inference", "autoscaling", "hpaMetric"):
        schema = schema["properties"][key]
    for choice in schema["enum"]:
        found = render_with(f"inference.autoscaling.hpaMetric={choice}", scenario="hpa")
        (wanted,) = by_component(found, "HorizontalPodAutoscaler")["inference"]["spec"]["metrics"]
        assert wanted["pods"]["metric"]["name"] == choice
        assert choice.replace("vllm_", "vllm:", 1) in exported()
    with pytest.raises(HelmFailed, match="hpaMetric"):
        render_with("inference.autoscaling.hpaMetric=vllm:requests", scenario="hpa")


def test_the_adapters_rule_makes_the_name_that_the_hpa_asks_for() -> None:
    sample = ROOT / "k8s" / "samples" / "prometheus-adapter.yaml"
    (rule,) = yaml.safe_load(sample.read_text())["rules"]["custom"]
    series, _, matchers = rule["seriesQuery"].partition("{")
    labels = set(re.findall(r"(\w+)!=", matchers))
    assert labels == set(rule["resources"]["overrides"]) <= exported()[series]
    found, count = re.subn(rule["name"]["matches"], rule["name"]["as"].replace("$", "\\"), series)
    assert count == 1
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert found == values["inference"]["autoscaling"]["hpaMetric"]


def test_proxies_are_not_scaled_by_the_requests_that_wait_elsewhere() -> None:
    with pytest.raises(HelmFailed, match="scale the engines where they run"):
        render_with("inference.autoscaling.by=hpa", scenario="external-engine")


def _vllm(path: str) -> str:
    spec = find_spec("vllm")
    assert spec is not None
    assert spec.origin is not None
    return (Path(spec.origin).parent / path).read_text()
