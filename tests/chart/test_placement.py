"""Which node a pod goes to: pods that must share one ask the same of it, so none waits for ever."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml
from tests.chart.rendering import CHART, Pod, objects, pods, render, render_with, template

HELD = "requiredDuringSchedulingIgnoredDuringExecution"
ONE_GPU = CHART.parents[1] / "k8s" / "values" / "one-gpu.yaml"


def asked(pod: Pod) -> tuple[Any, str]:
    """What a pod asks of its node, and puts up with; the order of taints says nothing."""
    taints = sorted(json.dumps(t, sort_keys=True) for t in pod.spec.get("tolerations", []))
    return pod.spec.get("nodeSelector", {}), "\n".join(taints)


def neighbours(pod: Pod, everyone: list[Pod]) -> list[Pod]:
    """The pods on whose node it must be."""
    rules = pod.spec.get("affinity", {}).get("podAffinity", {}).get(HELD, [])
    wanted = [r["labelSelector"]["matchLabels"].items() for r in rules if "labelSelector" in r]
    return [other for other in everyone for labels in wanted if labels <= other.labels.items()]


def differing(found: list[Any]) -> list[tuple[str, str]]:
    """Pods that must share a node and ask for different ones."""
    everyone = list(pods(found))
    return [
        (one.name, other.name)
        for one in everyone
        for other in neighbours(one, everyone)
        if asked(one) != asked(other)
    ]


def test_pods_that_share_a_node_ask_the_same_of_it(scenario: str) -> None:
    assert differing(render(scenario)) == []


@pytest.mark.parametrize("component", ["inference", "reward", "retraining", "training"])
def test_what_one_of_them_needs_is_asked_of_all(component: str) -> None:
    needed = {
        f"{component}.nodeSelector": {"disk": "fast"},
        f"{component}.tolerations": [{"key": "dear", "operator": "Exists"}],
    }
    found = render_with(*(f"{k}={json.dumps(v)}" for k, v in needed.items()), json_settings=True)
    assert differing(found) == []
    asking = {p.labels["app.kubernetes.io/component"] for p in pods(found) if asked(p)[0]}
    assert asking == {
        *("inference", "feedback", "reward", "retraining", "release", "migrate", "training")
    }


def test_what_is_said_of_all_pods_reaches_all_beside_their_own() -> None:
    found = render_with(
        'nodeSelector={"pool": "ours", "disk": "slow"}',
        'tolerations=[{"key": "ours"}]',
        'feedback.nodeSelector={"disk": "fast"}',
        'feedback.tolerations=[{"key": "own"}]',
        'training.schedule="@daily"',
        scenario="operator",
        json_settings=True,
    )
    for pod in pods(found):
        own = pod.labels["app.kubernetes.io/component"] == "feedback"
        assert pod.spec["nodeSelector"] == {"pool": "ours", "disk": "fast" if own else "slow"}
        keys = [taint["key"] for taint in pod.spec["tolerations"]]
        assert keys == (["own", "ours"] if own else ["ours"]), pod.name


def test_the_values_for_one_gpu_put_all_pods_on_the_tainted_node_that_has_it() -> None:
    values = yaml.safe_load(ONE_GPU.read_text())
    assert values["nodeSelector"]
    for pod in pods(objects(template("--values", str(ONE_GPU)))):
        assert pod.spec["nodeSelector"] == values["nodeSelector"], pod.name
        assert {t["key"] for t in pod.spec["tolerations"]} == {"nvidia.com/gpu"}, pod.name
