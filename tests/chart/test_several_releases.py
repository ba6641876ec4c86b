"""Two base models, two releases of the chart, in one namespace: they have nothing in common."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import pytest
from tests.chart.fake_api import FakeApi
from tests.chart.rendering import (
    CHART,
    Object,
    helm,
    objects,
    of_kind,
    pods,
    values_file,
)

SHARED_ON_PURPOSE = {"CustomResourceDefinition"}
"""Of the whole cluster: the second release leaves it to the first."""


@cache
def _rendered(release: str, scenario: str) -> str:
    return helm(
        *("template", release, str(CHART), "--namespace", "models", "--kube-version", "1.37"),
        *("--values", str(values_file(scenario)), "--set", "fullnameOverride="),
    )


@cache
def _parsed(release: str, scenario: str) -> str:
    return json.dumps(objects(_rendered(release, scenario)))


def rendered(release: str, scenario: str) -> list[Object]:
    found: list[Object] = json.loads(_parsed(release, scenario))
    return found


def places(found: list[Object]) -> set[tuple[str, str]]:
    return {(one["kind"], one["metadata"]["name"]) for one in found}


def test_no_object_of_one_is_an_object_of_the_other(scenario: str) -> None:
    common = places(rendered("llama", scenario)) & places(rendered("qwen", scenario))
    assert {kind for kind, _ in common} <= SHARED_ON_PURPOSE


def selectors(found: Any) -> list[dict[str, str]]:
    """All matchLabels and Service selectors about pods of the chart, wherever they stand."""
    chosen = []
    if isinstance(found, dict):
        for key, value in found.items():
            labels = value if key in {"matchLabels", "selector"} else {}
            if isinstance(labels, dict) and any("app.kubernetes.io/" in name for name in labels):
                chosen.append(labels)
            chosen += selectors(value)
    elif isinstance(found, list):
        for value in found:
            chosen += selectors(value)
    return chosen


def test_no_selector_of_one_takes_a_pod_of_the_other(scenario: str) -> None:
    ours, theirs = rendered("llama", scenario), list(pods(rendered("qwen", scenario)))
    found = selectors([one for one in ours if one["kind"] != "ConfigMap"])
    found += selectors([json.loads(t) for t in _templates(ours)])
    assert found
    for selector in found:
        assert not [p.name for p in theirs if selector.items() <= p.labels.items()], selector


def _templates(found: list[Object]) -> list[str]:
    maps = of_kind(found, "ConfigMap")
    return [m["data"]["job.json"] for m in maps if "job.json" in m.get("data", {})]


def test_what_one_uses_by_name_belongs_to_it_or_to_you(scenario: str) -> None:
    """Services, Secrets, claims and maps of the other one are never named."""
    text = _rendered("llama", scenario)
    assert "qwen" not in text
    made = {name for kind, name in places(rendered("llama", scenario))} - {
        "modelreleases.learnback.dev"
    }
    assert all(name.startswith("llama") for name in made)


@pytest.mark.parametrize(
    ("owner", "rendered_again"), [(("demo", "loop"), True), (("first", "elsewhere"), False)]
)
def test_the_crd_stays_with_the_release_that_brought_it(
    owner: tuple[str, str], rendered_again: bool
) -> None:
    """Helm would refuse to install what belongs to another release."""
    (crd,) = of_kind(rendered("first", "operator"), "CustomResourceDefinition")
    name, namespace = owner
    crd["metadata"]["annotations"] |= {
        "meta.helm.sh/release-name": name,
        "meta.helm.sh/release-namespace": namespace,
    }
    with FakeApi([], [crd]) as api:
        text = helm(
            *("template", "demo", str(CHART), "--namespace", "loop", "--dry-run=server"),
            *("--disable-openapi-validation", "--kube-apiserver", api.url),
            *("--kubeconfig", "/dev/null", "--set", "operator.enabled=true"),
        )
    assert bool(of_kind(objects(text), "CustomResourceDefinition")) is rendered_again


def test_the_crd_can_be_left_to_somebody_else() -> None:
    other = ("--set", "operator.installCrd=false")
    text = helm("template", "qwen", str(CHART), "--values", str(values_file("operator")), *other)
    assert not of_kind(objects(text), "CustomResourceDefinition")


def test_a_spread_rule_of_yours_is_about_the_pods_of_its_release() -> None:
    rules = {
        one["metadata"]["name"]: one["spec"]["template"]["spec"]["topologySpreadConstraints"]
        for one in of_kind(rendered("llama", "many-gpus"), "Deployment")
        if one["metadata"]["name"].endswith("-inference")
    }
    (rule,) = rules["llama-learnback-inference"]
    assert rule["topologyKey"] == "topology.kubernetes.io/zone"
    assert rule["labelSelector"]["matchLabels"]["app.kubernetes.io/instance"] == "llama"
