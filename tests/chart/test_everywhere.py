"""What values say of every pod reaches every pod; and training has the same in a Job and inside."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.chart.rendering import (
    Object,
    Pod,
    by_component,
    environment,
    of_kind,
    pods,
    render,
    render_with,
)

EVERYTHING = (
    "operator.enabled=true",
    "rewardEngine.enabled=true",
    'training.schedule="@daily"',
)
"""Turns on what has pods and is off by default."""


def everything(**values: Any) -> list[Pod]:
    given = [f"{name}={json.dumps(value)}" for name, value in values.items()]
    return list(pods(render_with(*EVERYTHING, *given, json_settings=True)))


def test_there_are_pods_of_every_component() -> None:
    assert {p.labels["app.kubernetes.io/component"] for p in everything()} == {
        *("inference", "feedback", "reward", "reward-engine", "retraining", "release", "valkey"),
        *("migrate", "training", "training-schedule", "operator", "test"),
    }


def test_more_environment_reaches_every_process_of_ours() -> None:
    for pod in everything(extraEnv=[{"name": "HTTPS_PROXY", "value": "http://proxy"}]):
        for one in pod.containers:
            given = environment(one).get("HTTPS_PROXY")
            assert given == (None if one["name"] == "valkey" else "http://proxy"), pod.name


def test_annotations_reach_every_pod() -> None:
    for pod in everything(podAnnotations={"sidecar.istio.io/inject": "false"}):
        assert pod.metadata["annotations"]["sidecar.istio.io/inject"] == "false", pod.name


def test_annotations_reach_every_service_account() -> None:
    role = {"eks.amazonaws.com/role-arn": "arn:aws:iam::1:role/x"}
    found = render_with(
        *EVERYTHING, f"serviceAccount.annotations={json.dumps(role)}", json_settings=True
    )
    accounts = of_kind(found, "ServiceAccount")
    assert len(accounts) == 3
    assert [account["metadata"]["annotations"] for account in accounts] == [role] * 3


def test_operator_and_valkey_have_a_place_and_annotations_of_their_own() -> None:
    for name in ("operator", "valkey"):
        found = everything(
            **{
                f"{name}.nodeSelector": {"pool": "small"},
                f"{name}.tolerations": [{"key": "small"}],
                f"{name}.priorityClassName": "high",
                f"{name}.podAnnotations": {"own": "yes"},
            }
        )
        (pod,) = (p for p in found if p.labels["app.kubernetes.io/component"] == name)
        assert pod.spec["nodeSelector"] == {"pool": "small"}
        assert pod.spec["tolerations"] == [{"key": "small"}]
        assert pod.spec["priorityClassName"] == "high"
        assert pod.metadata["annotations"]["own"] == "yes"


RUNS = {
    "model.hub.existingSecret": "hub",
    "model.hub.endpoint": "https://hub.example.com",
    "model.cache.enabled": True,
    "training.extraEnv": [{"name": "NCCL_DEBUG", "value": "INFO"}],
    "training.shmSize": "8Gi",
    "training.runtimeClassName": "nvidia",
}


@pytest.mark.parametrize("inside", [False, True])
def test_a_run_finds_the_model_and_has_its_environment_wherever_it_is(inside: bool) -> None:
    values = RUNS | {"training.enabled": not inside}
    found = render_with(*(f"{k}={json.dumps(v)}" for k, v in values.items()), json_settings=True)
    name = "retraining" if inside else "training"
    (pod,) = (p for p in pods(found) if p.labels["app.kubernetes.io/component"] == name)
    (one,) = pod.containers
    given = environment(one)
    assert given["HF_ENDPOINT"] == "https://hub.example.com"
    assert given["NCCL_DEBUG"] == "INFO"
    assert {"name": "HF_TOKEN", "valueFrom": _key("hub", "token")} in one["env"]
    assert pod.spec["runtimeClassName"] == "nvidia"
    volumes = {v["name"]: v for v in pod.spec["volumes"]}
    mounts = {m["mountPath"]: m["name"] for m in one["volumeMounts"]}
    assert volumes[mounts["/dev/shm"]]["emptyDir"] == {"medium": "Memory", "sizeLimit": "8Gi"}
    # with SQLite a run is on the node of inference, whose model it need not download again
    assert volumes[mounts[str(given["HF_HOME"])]]["persistentVolumeClaim"]["claimName"] == (
        "demo-learnback-model-cache"
    )


def _key(name: str, key: str) -> Object:
    return {"secretKeyRef": {"name": name, "key": key}}


def test_a_run_elsewhere_leaves_a_cache_of_one_node_alone() -> None:
    apart = (
        "externalDatabase.existingSecret=d",
        "artifacts.url=s3://b",
        "model.cache.enabled=true",
    )
    (pod,) = (
        p
        for p in pods(render_with(*apart))
        if p.labels["app.kubernetes.io/component"] == "training"
    )
    assert "model-cache" not in {v["name"] for v in pod.spec["volumes"]}


def test_threads_of_a_run_may_be_said_of_all_processes() -> None:
    for pod in everything(extraEnv=[{"name": "OMP_NUM_THREADS", "value": "3"}]):
        for one in pod.containers:
            given = [e for e in one.get("env", []) if e["name"] == "OMP_NUM_THREADS"]
            assert given == [{"name": "OMP_NUM_THREADS", "value": "3"}] * (one["name"] != "valkey")


def test_threads_of_a_run_inside_are_the_cpus_that_it_asks_for() -> None:
    pod = by_component(render("training-inside"), "Deployment")["retraining"]["spec"]["template"]
    (one,) = pod["spec"]["containers"]
    (threads,) = (e for e in one["env"] if e["name"] == "LEARNBACK_RETRAINING_THREADS")
    assert threads["valueFrom"]["resourceFieldRef"]["resource"] == "requests.cpu"
    found = render_with("retraining.settings.threads=3", scenario="training-inside")
    (one,) = by_component(found, "Deployment")["retraining"]["spec"]["template"]["spec"][
        "containers"
    ]
    assert [e["value"] for e in one["env"] if e["name"] == "LEARNBACK_RETRAINING_THREADS"] == ["3"]
