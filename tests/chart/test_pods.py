"""Every pod of every scenario: Pod Security `restricted`, and what a pod of ours must have."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from tests.chart.all_settings import SETTINGS
from tests.chart.rendering import (
    NAMESPACE,
    Pod,
    by_component,
    component,
    environment,
    has_token,
    of_kind,
    pods,
    render,
    render_with,
)

from learnback.retraining import job, several

SAFE_VOLUMES = {
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "image",
    "persistentVolumeClaim",
    "projected",
    "secret",
}


def restricted(spec: dict[str, Any]) -> list[str]:
    """What Pod Security `restricted` has against a pod, rule by rule of its standard."""
    found = [f for f in ("hostNetwork", "hostPID", "hostIPC") if spec.get(f)]
    for volume in spec.get("volumes", []):
        found += [f"volume {kind}" for kind in volume.keys() - {"name"} - SAFE_VOLUMES]
    whole = spec.get("securityContext", {})
    for one in [*spec.get("initContainers", []), *spec["containers"]]:
        found += [f"{one['name']}: {what}" for what in _container(one, whole)]
    return found


def _container(one: dict[str, Any], whole: dict[str, Any]) -> list[str]:
    own = one.get("securityContext", {})
    seen = {**whole, **own}
    allowed = own.get("capabilities", {})
    wrong = {
        "privileged": own.get("privileged", False),
        "allowPrivilegeEscalation": own.get("allowPrivilegeEscalation") is not False,
        "runAsNonRoot": seen.get("runAsNonRoot") is not True,
        "runAsUser 0": seen.get("runAsUser") == 0,
        "seccomp": seen.get("seccompProfile", {}).get("type")
        not in {"RuntimeDefault", "Localhost"},
        "capabilities": "ALL" not in allowed.get("drop", []),
        "added capabilities": set(allowed.get("add", [])) - {"NET_BIND_SERVICE"},
        "host port": any("hostPort" in port for port in one.get("ports", [])),
        "procMount": own.get("procMount", "Default") != "Default",
        "sysctls": whole.get("sysctls"),
    }
    return [what for what, is_wrong in wrong.items() if is_wrong]


def test_pod_security_restricted_passes(scenario: str) -> None:
    for pod in pods(render(scenario)):
        assert restricted(pod.spec) == [], pod.name


@pytest.mark.parametrize(
    "change",
    [
        {"hostNetwork": True},
        {"securityContext": {}},
        {"volumes": [{"name": "x", "hostPath": {"path": "/"}}]},
        {"containers": [{"name": "x"}]},
    ],
    ids=str,
)
def test_the_restricted_rules_can_fail(change: dict[str, Any]) -> None:
    spec = next(iter(pods(render("minimal")))).spec
    assert restricted(spec) == []
    assert restricted(spec | change)


def test_containers_are_read_only_and_limited(scenario: str) -> None:
    for pod in pods(render(scenario)):
        for one in pod.containers:
            where = f"{pod.name}/{one['name']}"
            assert one["securityContext"]["readOnlyRootFilesystem"] is True, where
            assert "memory" in one["resources"]["limits"], where
            assert one["image"], where


def test_no_pod_takes_services_for_settings(scenario: str) -> None:
    # Kubernetes would set LEARNBACK_FEEDBACK_PORT=tcp://... for the Service learnback-feedback
    for pod in pods(render(scenario)):
        if pod.owner["kind"] != "TrainJob":  # which can't say it; a run reads no settings
            assert pod.spec["enableServiceLinks"] is False, pod.name


def test_a_run_reads_no_settings() -> None:
    for module in (job, several):
        assert "Settings" not in Path(str(module.__file__)).read_text(), module.__name__


def test_only_pods_that_use_the_kubernetes_api_get_a_token(scenario: str) -> None:
    for pod in pods(render(scenario)):
        wanted = pod.labels["app.kubernetes.io/component"] in {"retraining", "operator"}
        if scenario == "training-inside":
            wanted = False
        assert has_token(pod, render(scenario)) is wanted, pod.name


def test_accounts_give_no_token_by_themselves_and_every_pod_has_one_that_is_there(
    scenario: str,
) -> None:
    accounts = of_kind(render(scenario), "ServiceAccount")
    assert all(account["automountServiceAccountToken"] is False for account in accounts)
    names = {account["metadata"]["name"] for account in accounts}
    for pod in pods(render(scenario)):
        assert pod.spec["serviceAccountName"] in names, pod.name


def test_mounts_have_volumes_and_volumes_have_claims_that_are_there_or_yours(
    scenario: str,
) -> None:
    found = render(scenario)
    made = {one["metadata"]["name"] for one in of_kind(found, "PersistentVolumeClaim")}
    for pod in pods(found):
        volumes = {volume["name"]: volume for volume in pod.spec.get("volumes", [])}
        claimed = {t["metadata"]["name"] for t in _claim_templates(pod)}
        for one in pod.containers:
            mounts = [mount["name"] for mount in one.get("volumeMounts", [])]
            assert set(mounts) <= volumes.keys() | claimed, pod.name
            paths = [mount["mountPath"] for mount in one.get("volumeMounts", [])]
            assert len(paths) == len(set(paths)), pod.name
        for volume in volumes.values():
            claim = volume.get("persistentVolumeClaim", {}).get("claimName", "")
            assert claim in made or not claim.startswith(("demo-learnback", "lb-")), claim


def test_no_folder_that_leads_to_a_mount_is_left_to_the_runtime(scenario: str) -> None:
    """It would make root own it, and our processes could write nothing beside the mount."""
    for pod in pods(render(scenario)):
        for one in pod.containers:
            paths = {m["mountPath"].rstrip("/") for m in one.get("volumeMounts", [])}
            for path in paths:
                above, _, _ = path.rpartition("/")
                around = {p for p in paths if above.startswith(f"{p}/")}
                assert not around or above in paths, (pod.name, path)


def test_folders_of_a_pods_own_are_volumes_of_their_own(scenario: str) -> None:
    """One way for all pods: no part of an emptyDir is mounted by itself (decision 0068)."""
    for pod in pods(render(scenario)):
        own = {v["name"] for v in pod.spec.get("volumes", []) if "emptyDir" in v}
        mounts = [m for one in pod.containers for m in one.get("volumeMounts", [])]
        assert not [m for m in mounts if m["name"] in own and "subPath" in m], pod.name


def _claim_templates(pod: Pod) -> list[Any]:
    found: list[Any] = pod.owner["spec"].get("volumeClaimTemplates", [])
    return found


def test_tmp_is_writable_in_every_container_of_ours(scenario: str) -> None:
    for pod in pods(render(scenario)):
        for one in pod.containers:
            assert "/tmp" in {m["mountPath"] for m in one.get("volumeMounts", [])}, pod.name


def test_selectors_match_the_pods_and_ports_match_by_name(scenario: str) -> None:
    found = render(scenario)
    for one in of_kind(found, "Deployment") + of_kind(found, "StatefulSet"):
        chosen = one["spec"]["selector"]["matchLabels"].items()
        assert chosen <= one["spec"]["template"]["metadata"]["labels"].items()
    for service in of_kind(found, "Service"):
        backing = [
            p for p in pods(found) if service["spec"]["selector"].items() <= p.labels.items()
        ]
        assert len(backing) == 1, service["metadata"]["name"]
        names = {p["name"] for one in backing[0].containers for p in one.get("ports", [])}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= names
    for budget in of_kind(found, "PodDisruptionBudget"):
        chosen = budget["spec"]["selector"]["matchLabels"].items()
        assert any(chosen <= pod.labels.items() for pod in pods(found))


def test_every_process_is_probed(scenario: str) -> None:
    for name, deployment in by_component(render(scenario), "Deployment").items():
        (one,) = deployment["spec"]["template"]["spec"]["containers"]
        if name not in SETTINGS:
            continue
        paths = {p: one[f"{p}Probe"]["httpGet"] for p in ("startup", "readiness", "liveness")}
        assert paths == {
            "startup": {"path": "/healthz", "port": "http"},
            "readiness": {"path": "/readyz", "port": "http"},
            "liveness": {"path": "/healthz", "port": "http"},
        }
        startup = one["startupProbe"]
        budget = startup["periodSeconds"] * startup["failureThreshold"]
        assert budget >= (1800 if name == "inference" else 60)


def test_inference_can_write_all_that_vllm_writes() -> None:
    (one,) = by_component(render("gpu"), "Deployment")["inference"]["spec"]["template"]["spec"][
        "containers"
    ]
    given = environment(one)
    for name in ("HF_HOME", "TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR", "VLLM_CACHE_ROOT"):
        assert str(given[name]).startswith("/var/lib/learnback/cache/")
    assert {"/var/lib/learnback", "/tmp", "/dev/shm"} <= {
        m["mountPath"] for m in one["volumeMounts"]
    }
    assert given["HOME"] == "/tmp"
    assert given["USER"], "getpwuid has no entry for our user"


def test_every_mount_lies_directly_in_the_one_around_it(scenario: str) -> None:
    """The container runtime makes a folder between them as root, and we could not write there."""
    for pod in pods(render(scenario)):
        for one in pod.containers:
            paths = [PurePosixPath(mount["mountPath"]) for mount in one.get("volumeMounts", [])]
            for path in paths:
                around = [parent for parent in path.parents if parent in paths]
                assert around[:1] in ([], [path.parent]), f"{pod.name}: {path}"


def test_gpus_are_in_requests_and_limits_and_make_the_engine_parallel() -> None:
    deployment = by_component(render("many-gpus"), "Deployment")["inference"]
    spec = deployment["spec"]["template"]["spec"]
    resources = spec["containers"][0]["resources"]
    assert resources["limits"]["nvidia.com/gpu"] == resources["requests"]["nvidia.com/gpu"] == "4"
    arguments = environment(spec["containers"][0])["LEARNBACK_INFERENCE_ENGINE_ARGS"]
    assert arguments == '["--tensor-parallel-size","4"]'
    assert deployment["spec"]["strategy"]["rollingUpdate"] == {
        "maxSurge": 0,
        "maxUnavailable": "25%",
    }


def test_a_gpu_fleet_never_waits_for_a_spare_gpu_by_default() -> None:
    strategy = by_component(render("gpu"), "Deployment")["inference"]["spec"]["strategy"]
    assert strategy["rollingUpdate"] == {"maxSurge": 0, "maxUnavailable": 1}


@pytest.mark.parametrize("scenario_name", ["minimal", "minio", "gpu"])
def test_pods_with_data_of_one_node_are_held_together(scenario_name: str) -> None:
    found = render(scenario_name)
    held = {"inference", "feedback", "reward", "retraining", "release", "migrate"}
    for pod in pods(found):
        name = pod.labels["app.kubernetes.io/component"]
        terms = pod.spec.get("affinity", {}).get("podAffinity", {})
        rules = terms.get("requiredDuringSchedulingIgnoredDuringExecution", [])
        if name not in held:
            continue
        (rule,) = rules
        assert rule["topologyKey"] == "kubernetes.io/hostname"
        assert rule["labelSelector"]["matchLabels"].items() <= pod.labels.items(), name


@pytest.mark.parametrize("scenario_name", ["cpu", "existing-secrets", "many-gpus"])
def test_pods_without_data_of_their_own_go_where_they_like(scenario_name: str) -> None:
    for pod in pods(render(scenario_name)):
        if pod.labels["app.kubernetes.io/component"] != "training":
            assert "podAffinity" not in pod.spec.get("affinity", {}), pod.name


def test_your_affinity_stays_beside_ours() -> None:
    rule = '{"requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": "z"}]}'
    mine = f'{{"podAffinity": {rule}}}'
    found = render_with(f"reward.affinity={mine}", json_settings=True)
    spec = by_component(found, "Deployment")["reward"]["spec"]["template"]["spec"]
    rules = spec["affinity"]["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert [rule["topologyKey"] for rule in rules] == ["z", "kubernetes.io/hostname"]


def test_one_of_retraining_and_release_at_a_time(scenario: str) -> None:
    deployments = by_component(render(scenario), "Deployment")
    for name in ("retraining", "release"):
        assert deployments[name]["spec"]["strategy"] == {"type": "Recreate"}


def test_release_asks_the_inference_service_with_the_key_made_for_it() -> None:
    found = render("minimal")
    (one,) = by_component(found, "Deployment")["release"]["spec"]["template"]["spec"]["containers"]
    services = by_component(found, "Service")
    name, port = (
        services["inference"]["metadata"]["name"],
        services["inference"]["spec"]["ports"][0],
    )
    assert environment(one)["LEARNBACK_RELEASE_INFERENCE_URL"] == f"http://{name}:{port['port']}"
    (key,) = (e for e in one["env"] if e["name"] == "LEARNBACK_RELEASE_API_KEY")
    assert key["valueFrom"]["secretKeyRef"] == {"name": "demo-learnback-api-keys", "key": "release"}


def test_names_are_used_within_the_namespace_only(scenario: str) -> None:
    for found in render(scenario):
        assert found["metadata"].get("namespace", NAMESPACE) == NAMESPACE, component(found)
