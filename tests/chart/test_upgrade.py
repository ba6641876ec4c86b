"""From the chart before to this one: what Kubernetes lets nobody change stays, and so does data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.chart.fake_api import FakeApi
from tests.chart.rendering import (
    CHART,
    NAMESPACE,
    NEWEST,
    RELEASE,
    Object,
    helm,
    objects,
    of_kind,
    render,
    values_file,
)
from tests.conftest import NOT_RUN
from tests.previous_chart import previous_chart

IMMUTABLE: dict[str, tuple[str, ...]] = {
    "Deployment": ("spec.selector",),
    "StatefulSet": ("spec.selector", "spec.serviceName", "spec.volumeClaimTemplates"),
    "PersistentVolumeClaim": ("spec.accessModes", "spec.storageClassName"),
    "Service": ("spec.clusterIP",),
    "RoleBinding": ("roleRef",),
    "Secret": ("type",),
}
"""Fields whose change the API server refuses, so that an upgrade would fail."""
KEPT = {"PersistentVolumeClaim", "Secret", "StatefulSet"}
"""Kinds with data: under another name it would be gone."""


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return previous_chart(tmp_path_factory.mktemp("before"))


def rendered(chart: Path, scenario: str, *more: str) -> list[Object]:
    values = chart / "ci" / f"{scenario}-values.yaml"
    named = ("template", RELEASE, str(chart), "--namespace", NAMESPACE, "--values", str(values))
    return objects(helm(*named, *(more or ("--kube-version", NEWEST))))


def field(found: Any, path: str) -> Any:
    for key in path.split("."):
        found = found.get(key) if isinstance(found, dict) else None
    return found


def broken(old: list[Object], new: list[Object]) -> list[str]:
    """What an upgrade could not do, or would lose."""
    there = {(one["kind"], one["metadata"]["name"]): one for one in new}
    wrong = []
    for one in old:
        kind, name = one["kind"], one["metadata"]["name"]
        if "helm.sh/hook" in one["metadata"].get("annotations", {}):
            continue  # made anew by each upgrade
        if (kind, name) not in there:
            wrong += [f"{kind} {name} is gone"] if kind in KEPT else []
            continue
        for path in IMMUTABLE.get(kind, ()):
            if field(one, path) != field(there[kind, name], path):
                wrong.append(f"{path} of {kind} {name}")
    return wrong


def test_an_upgrade_changes_nothing_that_cannot_be_changed(before: Path, scenario: str) -> None:
    if (before / "ci" / values_file(scenario).name).is_file():
        assert broken(rendered(before, scenario), render(scenario)) == []


@pytest.mark.parametrize(
    ("kind", "path"), [(kind, path) for kind, paths in IMMUTABLE.items() for path in paths]
)
def test_a_changed_field_would_be_found(kind: str, path: str) -> None:
    (first, *_) = of_kind(render("minimal"), kind)
    *above, last = path.split(".")
    inner = field(first, ".".join(above)) if above else first
    changed = {**first, **({"spec": {**inner, last: "other"}} if above else {last: "other"})}
    wrong = broken([first], [changed])
    hook = "helm.sh/hook" in first["metadata"].get("annotations", {})
    assert wrong == ([] if hook else [f"{path} of {kind} {first['metadata']['name']}"])


def test_a_volume_under_another_name_would_be_found() -> None:
    (claim, *_) = of_kind(render("minimal"), "PersistentVolumeClaim")
    assert broken([claim], []) == [f"PersistentVolumeClaim {claim['metadata']['name']} is gone"]


@pytest.mark.parametrize("scenario_name", ["minimal", "reward-engine"])
def test_secrets_that_the_chart_before_made_stay(before: Path, scenario_name: str) -> None:
    if not (before / "ci" / values_file(scenario_name).name).is_file():
        pytest.skip(f"{NOT_RUN}secrets of {scenario_name}: the chart before had no such scenario")
    old = of_kind(rendered(before, scenario_name), "Secret")
    with FakeApi(old) as api:
        server = ("--dry-run=server", "--disable-openapi-validation", "--kubeconfig", "/dev/null")
        found = rendered(CHART, scenario_name, *server, "--kube-apiserver", api.url)
    new = {one["metadata"]["name"]: one for one in of_kind(found, "Secret")}
    made = [one for one in old if "helm.sh/hook" not in one["metadata"].get("annotations", {})]
    assert made
    for one in made:
        assert one["data"].items() <= new[one["metadata"]["name"]]["data"].items()
