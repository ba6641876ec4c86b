"""Every scenario of the chart: accepted by Helm, by Kubernetes' schemas, and the same each time."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from tests.chart.rendering import (
    CHART,
    NEWEST,
    OLDEST,
    HelmFailed,
    component,
    helm,
    manifests,
    objects,
    objects_in_config_maps,
    of_kind,
    pods,
    render,
    scenarios,
    template,
    values_file,
    versions,
)
from tests.chart.validation import SCHEMAS, problem
from yamllint import linter
from yamllint.config import YamlLintConfig

STYLE = YamlLintConfig(
    "{extends: default, rules: {line-length: {max: 120}, document-start: disable,"
    " braces: {max-spaces-inside: 1}, comments: {min-spaces-from-content: 1},"
    " truthy: {check-keys: false}, comments-indentation: disable}}"
)
RENDERED_STYLE = YamlLintConfig(
    "{extends: relaxed, rules: {line-length: disable, indentation: disable,"
    " trailing-spaces: disable, empty-lines: disable, key-duplicates: enable}}"
)
CUSTOM_KINDS = {
    "ScaledObject",
    "TriggerAuthentication",
    "HTTPRoute",
    "InferencePool",
    "PodMonitor",
    "PrometheusRule",
    "JobSet",
    "TrainJob",
}
"""Kinds without a schema in Kubernetes; each needs one of ours where the chart renders it."""


def test_there_are_enough_scenarios() -> None:
    assert len(scenarios()) >= 10


def test_helm_lints_it_strictly(scenario: str) -> None:
    assert "0 chart(s) failed" in helm(
        "lint", "--strict", str(CHART), "--values", str(values_file(scenario))
    )


def test_every_object_is_valid_on_the_oldest_and_the_newest_kubernetes(scenario: str) -> None:
    for version in versions(scenario):
        rendered = objects(manifests(scenario, version))
        for found in [*rendered, *objects_in_config_maps(rendered)]:
            assert problem(found, version) is None, (version, found["kind"], found["metadata"])


def test_a_wrong_field_and_an_unknown_kind_would_be_found() -> None:
    (first, *_) = of_kind(render("minimal"), "Deployment")
    first["spec"]["replica"] = 1
    assert "replica" in str(problem(first, NEWEST))
    assert "crd_schemas" in str(problem({"kind": "Unheard", "apiVersion": "x.io/v1"}, NEWEST))


@pytest.mark.parametrize(
    ("scenario_name", "kind"), [("many-gpus", "JobSet"), ("trainjob", "TrainJob")]
)
def test_what_runs_are_made_from_is_looked_at_as_deep_as_its_pod(
    scenario_name: str, kind: str
) -> None:
    (made,) = of_kind(list(objects_in_config_maps(render(scenario_name))), kind)
    assert problem(made, NEWEST) is None
    assert list(pods([made]))
    wrong = {**made, "spec": {**made["spec"], "podTemplateOverrides": []}}
    assert "podTemplateOverrides" in str(problem(wrong, NEWEST))
    text = json.dumps(made).replace("volumeMounts", "volumeMount")
    assert "volumeMount" in str(problem(json.loads(text), NEWEST))
    text = json.dumps(made).replace('"mountPath": "/tmp"', '"mountPoint": "/tmp"')
    assert "mount" in str(problem(json.loads(text), NEWEST))


def test_only_custom_kinds_have_schemas_of_ours() -> None:
    assert {path.stem for path in SCHEMAS.glob("*.json")} <= CUSTOM_KINDS


def test_the_supported_range_is_what_the_chart_says() -> None:
    declared = yaml.safe_load((CHART / "Chart.yaml").read_text())["kubeVersion"]
    assert declared == f">={OLDEST}.0-0"
    with pytest.raises(HelmFailed, match="kubeVersion"):
        template(kube="1.29")


def test_rendered_manifests_have_no_duplicate_keys(scenario: str) -> None:
    found = list(linter.run(manifests(scenario), RENDERED_STYLE))
    assert not [f"{p.line}: {p.desc}" for p in found if p.level == "error"]


@pytest.mark.parametrize(
    "path",
    [CHART / "values.yaml", CHART / "Chart.yaml", *sorted((CHART / "ci").glob("*.yaml"))],
    ids=lambda p: p.name,
)
def test_values_are_tidy(path: Path) -> None:
    assert not [f"{p.line}: {p.desc}" for p in linter.run(path.read_text(), STYLE, str(path))]


def test_rendering_twice_gives_the_same_but_for_secrets_that_are_made(scenario: str) -> None:
    again = objects(template("--values", str(values_file(scenario))))
    made = {"api-keys", "api-keys-migrate", "valkey", "reward-engine"}

    def shown(found: list[dict[str, object]]) -> list[dict[str, object]]:
        return [one for one in found if not (one["kind"] == "Secret" and _suffix(one) in made)]

    assert shown(again) == shown(render(scenario))


def _suffix(found: dict[str, object]) -> str:
    name = str(found["metadata"]["name"])  # type: ignore[index]
    return name.removeprefix("demo-learnback-").removeprefix("lb-")


def test_every_template_is_rendered_by_some_scenario() -> None:
    sources = set()
    for scenario in scenarios():
        sources |= set(re.findall(r"^# Source: learnback/(.*)$", manifests(scenario), re.MULTILINE))
    templates = {
        path.relative_to(CHART).as_posix() for path in (CHART / "templates").rglob("*.yaml")
    }
    assert templates <= sources, templates - sources


def test_every_object_has_the_common_labels_and_a_name_of_this_release(scenario: str) -> None:
    for found in render(scenario):
        labels = found["metadata"]["labels"]
        assert labels["app.kubernetes.io/instance"] == "demo", found["metadata"]
        assert labels["app.kubernetes.io/part-of"] == "learnback"
        assert component(found)
        assert len(found["metadata"]["name"]) <= 63
        if found["kind"] != "CustomResourceDefinition":  # its name is that of what it defines
            assert found["metadata"]["name"].startswith(("demo-learnback", "lb"))


def test_no_two_objects_have_the_same_name(scenario: str) -> None:
    names = [(f["apiVersion"], f["kind"], f["metadata"]["name"]) for f in render(scenario)]
    assert len(names) == len(set(names))


def test_names_are_cut_for_a_release_with_the_longest_name() -> None:
    for found in objects(helm("template", "r" * 53, str(CHART), "--kube-version", NEWEST)):
        most = 52 if "template" in found.get("spec", {}) else 63  # pods' names are longer
        assert len(found["metadata"]["name"]) <= most


def test_no_crd_is_needed_by_default() -> None:
    found = render("minimal")
    made = [*found, *objects_in_config_maps(found)]
    assert not {one["kind"] for one in made} & CUSTOM_KINDS


def test_the_notes_say_what_comes_next() -> None:
    shown = helm("install", "demo", str(CHART), "--namespace", "loop", "--dry-run=client")
    notes = shown.partition("NOTES:")[2]
    assert "deployment/demo-learnback-feedback -- learnback keys create" in notes
    assert "helm test demo -n loop" in notes
    assert "All pods run on one node, since the ledger is SQLite" in notes
