"""What the server takes of the chart's scenarios, and whether `restricted` lets their pods in."""

from __future__ import annotations

import json
from copy import deepcopy
from typing import Any

import pytest
from tests.chart.rendering import CHART, helm, objects, pods, scenarios, values_file
from tests.e2e.cluster.kube import Kube, as_list

pytestmark = [pytest.mark.timeout(600), pytest.mark.xdist_group("cluster")]
Object = dict[str, Any]

OF_THE_CLUSTER = ("runtimeClassName", "priorityClassName")
"""What a pod names that the cluster's owner must have made; the tests leave it out."""
ADD_ONS = {
    *("HTTPRoute", "InferencePool", "PodMonitor", "PrometheusRule"),
    *("ScaledObject", "TriggerAuthentication"),
}
"""Kinds of add-ons: they are left out where the cluster does not know them."""


def rendered(kube: Kube, scenario: str) -> list[Object]:
    """A scenario as this cluster would get it, without kinds that it does not know."""
    version = json.loads(kube.kubectl("get", "--raw", "/version"))
    kube_version = f"{version['major']}.{version['minor'].rstrip('+')}"
    text = helm(
        *("template", "demo", str(CHART), "--namespace", kube.namespace),
        *("--values", str(values_file(scenario)), "--kube-version", kube_version),
    )
    groups = {g["name"] for g in json.loads(kube.kubectl("get", "--raw", "/apis"))["groups"]}
    found = objects(text)
    unknown = [o for o in found if "/" in o["apiVersion"] and _group(o) not in groups]
    assert {o["kind"] for o in unknown} <= ADD_ONS
    return [o for o in found if o not in unknown]


def _group(found: Object) -> str:
    return str(found["apiVersion"]).partition("/")[0]


@pytest.mark.parametrize("scenario", scenarios())
def test_the_server_takes_every_object_of_every_scenario(api: Kube, scenario: str) -> None:
    found = [o for o in rendered(api, scenario) if o["kind"] != "Pod"]
    said = api.kubectl(
        *("apply", "--server-side", "--dry-run=server", "-o", "name", "-f", "-"),
        text=as_list(found),
    )
    assert len(said.splitlines()) == len(found)


@pytest.mark.parametrize("scenario", scenarios())
def test_restricted_admission_lets_every_pod_in(api: Kube, scenario: str) -> None:
    """As pods, since of their templates it only warns."""
    made = [_as_pod(pod.labels, pod.spec, i) for i, pod in enumerate(pods(rendered(api, scenario)))]
    for account in {pod["spec"].get("serviceAccountName", "default") for pod in made}:
        api.kubectl("create", "serviceaccount", account, check=False)
    api.kubectl("create", "--dry-run=server", "-f", "-", text=as_list(made))


def _as_pod(labels: dict[str, str], spec: Object, number: int) -> Object:
    """A pod from a template: its own name, and what a StatefulSet or a launcher would fill in."""
    text = json.dumps({"metadata": {"labels": labels}, "spec": spec})
    for variable, value in {"FOLDER": "/runs/x", "NAME": "run-x", "ID": "run_x"}.items():
        text = text.replace(f"${{RUN_{variable}}}", value)
    pod = {"apiVersion": "v1", "kind": "Pod", **json.loads(text)}
    pod["metadata"]["name"] = f"pod-{number}"
    inner = {"restartPolicy": "Always", "volumes": [], **pod["spec"]}
    for field in OF_THE_CLUSTER:
        inner.pop(field, None)
    mounted = {m["name"] for c in inner["containers"] for m in c.get("volumeMounts", [])}
    claims = mounted - {volume["name"] for volume in inner["volumes"]}
    inner["volumes"] += [{"name": n, "persistentVolumeClaim": {"claimName": n}} for n in claims]
    return pod | {"spec": inner}


def test_the_namespace_enforces_what_the_pods_pass(api: Kube) -> None:
    """Without this the test above could not fail."""
    pod = next(iter(pods(rendered(api, "minimal"))))
    made = _as_pod(pod.labels, deepcopy(pod.spec), 0)
    made["spec"] |= {"serviceAccountName": "default"}
    made["spec"]["containers"][0]["securityContext"]["allowPrivilegeEscalation"] = True
    said = api.refused("create", "--dry-run=server", "-f", "-", text=as_list([made]))
    assert "violates PodSecurity" in said
