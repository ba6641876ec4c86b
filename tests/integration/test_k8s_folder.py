"""k8s/: values that the chart takes, manifests that Kubernetes takes, and no copy of the chart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from tests.chart.rendering import NEWEST, OLDEST, objects_in_config_maps
from tests.chart.validation import problem
from tests.rendered import ROOT, job_template, one, rendered

K8S = ROOT / "k8s"
VALUES = sorted((K8S / "values").glob("*.yaml"))
PODS = {"Deployment", "StatefulSet"}


def documents(path: Path) -> list[dict[str, Any]]:
    return [found for found in yaml.safe_load_all(path.read_text()) if found]


def render(path: Path, *more: str) -> list[dict[str, Any]]:
    monitoring = "--api-versions=monitoring.coreos.com/v1"
    return rendered(f"--values={path}", monitoring, *more)


@pytest.mark.parametrize("values", VALUES, ids=lambda path: path.stem)
def test_values_render_and_are_valid(values: Path) -> None:
    objects = render(values)
    assert one(objects, "Deployment", "lb-learnback-inference")
    for found in [*objects, *objects_in_config_maps(objects)]:
        for version in (OLDEST, NEWEST):
            assert problem(found, version) is None, (found["kind"], found["metadata"])


@pytest.mark.parametrize("path", sorted((K8S / "dev").glob("*.yaml")), ids=lambda path: path.stem)
def test_development_manifests_are_valid_and_restricted(path: Path) -> None:
    found = documents(path)
    for each in found:
        kubernetes_validate.validate(each, "1.30", strict=True)
        kubernetes_validate.validate(each, "1.37", strict=True)
    pods = [each["spec"]["template"]["spec"] for each in found if each["kind"] in PODS]
    assert pods
    for pod in pods:
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert container["securityContext"]["allowPrivilegeEscalation"] is False


def test_the_development_database_is_the_one_that_kind_uses() -> None:
    objects = render(K8S / "values" / "kind.yaml")
    pod = one(objects, "Deployment", "lb-learnback-feedback")["spec"]["template"]["spec"]
    env = {e["name"]: e for e in pod["containers"][0]["env"]}
    wanted = env["LEARNBACK_DATABASE_URL"]["valueFrom"]["secretKeyRef"]
    secret = documents(K8S / "dev" / "postgres.yaml")[0]
    assert wanted["name"] == secret["metadata"]["name"]
    assert wanted["key"] in secret["stringData"]
    assert secret["stringData"]["password"] in secret["stringData"]["url"]


def test_the_queue_is_the_one_that_training_asks_for() -> None:
    flavor, cluster_queue, local_queue = documents(K8S / "samples" / "kueue.yaml")
    job = job_template(render(K8S / "values" / "many-gpus.yaml"))
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == local_queue["metadata"]["name"]
    assert job["spec"]["suspend"] is True
    assert local_queue["spec"]["clusterQueue"] == cluster_queue["metadata"]["name"]
    pod = job["spec"]["template"]["spec"]
    assert pod["nodeSelector"] == flavor["spec"]["nodeLabels"]
    group = cluster_queue["spec"]["resourceGroups"][0]
    asked = pod["containers"][0]["resources"]
    assert {*asked["requests"], *asked["limits"]} <= set(group["coveredResources"])


def test_keda_scales_what_its_sample_says() -> None:
    postgres = "--set=externalDatabase.existingSecret=x"
    objects = render(K8S / "samples" / "keda.yaml", postgres)
    scaled = {o["spec"]["scaleTargetRef"]["name"] for o in objects if o["kind"] == "ScaledObject"}
    assert scaled == {f"lb-learnback-{name}" for name in ("inference", "feedback", "reward")}
    assert "replicas" not in one(objects, "Deployment", "lb-learnback-reward")["spec"]


def test_kind_has_the_nodes_that_its_comment_promises() -> None:
    roles = [node["role"] for node in documents(K8S / "kind.yaml")[0]["nodes"]]
    assert roles == ["control-plane", "worker", "worker"]


def test_there_is_no_second_copy_of_the_chart() -> None:
    for path in K8S.rglob("*.yaml"):
        assert "{{" not in path.read_text(), path
    images = {
        c["image"]
        for path in (K8S / "dev").glob("*.yaml")
        for each in documents(path)
        if each["kind"] in PODS
        for c in each["spec"]["template"]["spec"]["containers"]
    }
    assert not [image for image in images if "learnback" in image]


def test_the_readme_names_every_file() -> None:
    text = (K8S / "README.md").read_text()
    for path in K8S.rglob("*.yaml"):
        assert f"`{path.relative_to(K8S)}`" in text
