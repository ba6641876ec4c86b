"""What a real Kubernetes API server says to the chart, the launcher and the operator: no nodes.

`helm install` without hooks and without waiting: no container ever has to run.
"""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
from collections.abc import AsyncIterator, Iterator
from copy import deepcopy
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import kopf
import pytest
from tests.chart.rendering import CHART, component, helm, objects, pods, scenarios, values_file
from tests.conftest import NOT_RUN, wait_until
from tests.e2e.cluster.kube import RELEASE, Kube, until
from tests.integration.test_release_api import GOOD, NEWER, an_app
from tests.kubernetes_tools import tool
from tests.release_world import BASE, World, a_world
from tests.rendered import ROOT

from learnback.core import clock
from learnback.core.kubernetes import Cluster
from learnback.ledger.keys import KEY_SHAPE
from learnback.operator.app import create_app
from learnback.operator.releases import Releases
from learnback.operator.settings import OperatorSettings
from learnback.retraining.kubernetes_launcher import KubernetesLauncher
from learnback.retraining.launcher import Vital

pytestmark = [pytest.mark.timeout(600), pytest.mark.xdist_group("cluster")]
Object = dict[str, Any]
CRD = "modelreleases.learnback.dev"
OPERATING = ROOT / "docs" / "operating.md"

OF_THE_CLUSTER = ("runtimeClassName", "priorityClassName")
"""What a pod names that the cluster's owner must have made; the tests leave it out."""
ADD_ONS = {
    *("HTTPRoute", "InferencePool", "PodMonitor", "PrometheusRule"),
    *("ScaledObject", "TriggerAuthentication"),
}
"""Kinds of add-ons: they are left out where the cluster does not know them."""


@pytest.fixture(scope="module")
def installed(api: Kube) -> Kube:
    """The chart with the operator, as objects: its hooks would need nodes."""
    api.install("--set", "operator.enabled=true")
    return api


def as_list(found: list[Object]) -> str:
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": found})


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


def test_an_upgrade_after_a_scale_from_outside_succeeds_and_leaves_it(installed: Kube) -> None:
    """Helm applies server-side: with the field in the chart it would fail."""
    for name in ("feedback", "inference"):
        installed.kubectl("scale", f"deployment/{RELEASE}-{name}", "--replicas=3")
    installed.install("--set", "operator.enabled=true", "--set", "logLevel=DEBUG")
    for name in ("feedback", "inference"):
        deployment = installed.get("deployment", f"{RELEASE}-{name}")
        assert deployment["spec"]["replicas"] == 3
        assert "DEBUG" in json.dumps(deployment["spec"]["template"])


def test_an_upgrade_and_a_rollback_keep_what_was_generated(installed: Kube) -> None:
    names = (f"{RELEASE}-api-keys", f"{RELEASE}-valkey")
    before = [installed.get("secret", name)["data"] for name in names]
    installed.install("--set", "operator.enabled=true", "--set", "podAnnotations.again=yes")
    installed.helm("rollback", RELEASE, "1", "--no-hooks")
    assert [installed.get("secret", name)["data"] for name in names] == before
    deployment = installed.get("deployment", f"{RELEASE}-feedback")
    assert "again" not in deployment["spec"]["template"]["metadata"]["annotations"]


def test_what_was_applied_is_what_the_chart_says(installed: Kube) -> None:
    """The server drops no field of ours: applying the same again would change nothing."""
    found = objects(installed.helm("get", "manifest", RELEASE))
    again = installed.kubectl(
        *("apply", "--server-side", "--force-conflicts", "--dry-run=server", "-o", "json"),
        *("-f", "-"),
        text=as_list(found),
    )
    for one in json.loads(again)["items"]:
        there = installed.get(one["kind"], one["metadata"]["name"])
        assert one.get("spec") == there.get("spec"), one["metadata"]["name"]
        assert one.get("data") == there.get("data"), one["metadata"]["name"]
    assert {component(o) for o in found if o["kind"] == "Deployment"} >= {"inference", "operator"}


MAY = {
    "retraining": {"create jobs.batch", "get jobs.batch", "delete jobs.batch", "list pods"},
    "operator": {
        *(f"{verb} modelreleases.learnback.dev" for verb in ("get", "list", "watch", "create")),
        *("patch modelreleases.learnback.dev --subresource=status",),
    },
}
MAY_NOT = {
    *(
        "list secrets",
        "get secrets",
        "create pods",
        "delete pods",
        "create pods --subresource=exec",
    ),
    *("list jobs.batch", "patch deployments.apps", "create roles.rbac.authorization.k8s.io"),
    *("delete modelreleases.learnback.dev", "list nodes"),
}


@pytest.mark.parametrize("process", MAY)
def test_an_account_may_do_its_work_and_nothing_else(installed: Kube, process: str) -> None:
    account = f"system:serviceaccount:{installed.namespace}:{RELEASE}-{process}"

    def may(what: str) -> bool:
        command = ("auth", "can-i", *what.split(), f"--as={account}")
        return installed.kubectl(*command, check=False).strip() == "yes"

    assert {what for what in MAY[process] | MAY_NOT if may(what)} == MAY[process]


async def test_the_launcher_makes_and_removes_a_job_under_its_own_role(
    installed: Kube, tmp_path: Path
) -> None:
    template = installed.get("configmap", f"{RELEASE}-training")["data"]["job.json"]
    (tmp_path / "job.json").write_text(template)
    folder = tmp_path / "run_01ab"
    folder.mkdir()
    cluster = _as_account(installed, "retraining", tmp_path)
    launcher = KubernetesLauncher(cluster, tmp_path / "job.json")
    try:
        await launcher.start(folder)
        await launcher.start(folder)
        assert (await launcher.status(folder)).vital is Vital.ALIVE
        job = installed.get("job", "run-01ab")
        assert job["spec"]["podReplacementPolicy"] == "Failed"
        assert {r["action"] for r in job["spec"]["podFailurePolicy"]["rules"]} == {
            "Ignore",
            "FailJob",
        }
        await launcher.stop(folder, grace_s=1)
        gone = installed.kubectl("get", "job", "run-01ab", "-o", "json", check=False)
        assert not gone or json.loads(gone)["metadata"]["deletionTimestamp"]
    finally:
        await cluster.close()


NOWHERE = {"learnback.dev/no-such-node": "true"}


@pytest.fixture
def controlled(installed: Kube) -> Kube:
    """Where controllers run too; without them a Job makes no pod."""
    if not installed.controllers:
        pytest.skip(f"{NOT_RUN}tests/e2e/cluster/test_api.py: no controller manager")
    return installed


@pytest.mark.parametrize(
    ("code", "ends"),
    [(65, "PodFailurePolicy"), (71, "PodFailurePolicy"), (75, None), (70, None), (0, "Complete")],
)
async def test_the_job_controller_reads_exit_codes_as_the_launcher_does(
    controlled: Kube, tmp_path: Path, code: int, ends: str | None
) -> None:
    """Its pods fit no node; we say how they ended, as a kubelet would."""
    kube, name = controlled, f"run-{code}"
    template = json.loads(kube.get("configmap", f"{RELEASE}-training")["data"]["job.json"])
    template["spec"]["template"]["spec"]["nodeSelector"] = NOWHERE
    (tmp_path / "job.json").write_text(json.dumps(template))
    folder = tmp_path / name.replace("-", "_")
    folder.mkdir()
    cluster = _as_account(kube, "retraining", tmp_path)
    launcher = KubernetesLauncher(cluster, tmp_path / "job.json")
    try:
        await launcher.start(folder)
        (first,) = until(lambda: _pods_of(kube, name), "the Job has its pod", 60)
        _ended(kube, first, code)
        if ends is None:
            until(lambda: _pods_of(kube, name) - {first}, "another pod follows", 120)
            assert (await launcher.status(folder)).vital is Vital.ALIVE
            failed = kube.get("job", name)["status"].get("failed", 0)
            assert failed == (0 if code == 75 else 1), "a checkpoint that is kept costs no try"
        else:
            reasons = until(lambda: _finished(kube, name), "the Job ends", 60)
            assert ends in reasons
            status = await launcher.status(folder)
            expected = (Vital.ENDED, code) if code else (Vital.ALIVE, None)  # waits for its files
            assert (status.vital, status.exit_code) == expected
        await launcher.stop(folder, grace_s=1)
        until(lambda: not _exists(kube, name), "the Job and its pods are gone", 60)
    finally:
        await cluster.close()


def _pods_of(kube: Kube, run: str) -> set[str]:
    return {pod["metadata"]["name"] for pod in kube.all("pods", f"learnback.dev/run={run}")}


def _finished(kube: Kube, name: str) -> set[str]:
    """The conditions that end a Job, and their reasons."""
    found = kube.get("job", name)["status"].get("conditions", [])
    ended = [c for c in found if c["type"] in {"Failed", "Complete"}]
    return {word for c in ended for word in (c["type"], c.get("reason", ""))}


def _exists(kube: Kube, name: str) -> bool:
    return bool(kube.kubectl("get", "job", name, "--ignore-not-found", "-o", "name"))


def _ended(kube: Kube, pod: str, code: int) -> None:
    """What a kubelet writes of a container that ended."""
    at = clock.now().strftime("%Y-%m-%dT%H:%M:%SZ")
    state = {"terminated": {"exitCode": code, "startedAt": at, "finishedAt": at}}
    one = {"name": "training", "ready": False, "restartCount": 0, "image": "x", "imageID": "x"}
    status = {
        "phase": "Failed" if code else "Succeeded",
        "containerStatuses": [{**one, "state": state}],
    }
    body = json.dumps({"status": status})
    kube.kubectl("patch", "pod", pod, "--subresource=status", "--type=merge", "-p", body)


def _as_account(kube: Kube, process: str, folder: Path) -> Cluster:
    """Our client with a token of the process's own service account."""
    (folder / f"{process}-token").write_text(kube.token(f"{RELEASE}-{process}"))
    return Cluster(
        kube.server["server"],
        kube.namespace,
        token=folder / f"{process}-token",
        verify=kube.trust(),
    )


def release_object(version: str, **spec: Any) -> Object:
    return {
        "apiVersion": "learnback.dev/v1alpha1",
        "kind": "ModelRelease",
        "metadata": {"name": "mine"},
        "spec": {"version": version, **spec},
    }


@pytest.fixture
def no_releases(installed: Kube) -> Iterator[Kube]:
    installed.kubectl("delete", "modelreleases", "--all")
    yield installed
    installed.kubectl("delete", "modelreleases", "--all")


def test_the_servers_cel_keeps_a_release_with_its_version_and_a_no_final(no_releases: Kube) -> None:
    kube = no_releases
    kube.apply(release_object("v1"))
    patch = partial(kube.refused, "patch", "modelrelease", "mine", "--type=merge", "-p")
    assert "stays with its version" in patch('{"spec": {"version": "v2"}}')
    assert "a no needs a reason" in patch('{"spec": {"approval": {"approved": false}}}')
    no = '{"spec": {"approval": {"approved": false, "reason": "it swears"}}}'
    kube.kubectl("patch", "modelrelease", "mine", "--type=merge", "-p", no)
    assert "a no is for good" in patch('{"spec": {"approval": {"approved": true}}}')
    assert "a no is for good" in patch('{"spec": {"approval": null}}')
    bad = release_object("../x") | {"metadata": {"name": "bad"}}
    assert "spec.version" in kube.refused("create", "-f", "-", text=json.dumps(bad))


@pytest.fixture
async def world(sqlite_database: Any, redis: Any, tmp_path: Path) -> AsyncIterator[World]:
    async with a_world(sqlite_database, redis, tmp_path) as world:
        await world.prepare()
        yield world


async def test_the_operator_mirrors_versions_and_reacts_to_an_edit(
    no_releases: Kube, world: World, tmp_path: Path
) -> None:
    """Under its own Role; with an hour between looks only kopf's watch can tell it of the edit."""
    kube = no_releases
    await world.candidate(GOOD)
    cluster = _as_account(kube, "operator", tmp_path)
    login = kopf.ConnectionInfo(
        server=kube.server["server"],
        insecure=kube.server.get("insecure-skip-tls-verify", False),
        ca_data=kube.server.get("certificate-authority-data"),
        scheme="Bearer",
        token=kube.token(f"{RELEASE}-operator"),
    )
    transport = httpx.ASGITransport(an_app(world))
    async with httpx.AsyncClient(transport=transport, base_url="http://release") as http:
        app = create_app(
            OperatorSettings(poll=timedelta(hours=1)),
            cluster=cluster,
            releases=Releases(http),
            login=lambda: login,
            close=[cluster.close],
        )
        async with app.router.lifespan_context(app):
            await wait_until(lambda: len(kube.all("modelreleases")) == 2, "all are mirrored")
            kube.apply(release_object(NEWER))

            def answered() -> bool:
                status = kube.get("modelrelease", "mine").get("status", {})
                return "False" in {c["status"] for c in status.get("conditions", [])}

            await wait_until(answered, "the new object has its status")
    table = kube.kubectl("get", "modelreleases")
    assert table.split()[:7] == ["NAME", "VERSION", "TRACK", "WEIGHT", "PHASE", "VERDICT", "AGE"]
    (stable,) = [line for line in table.splitlines() if BASE in line]
    assert "stable" in stable
    assert "100%" in stable


OF_NODES = re.compile(r"^(helm (test|diff)|kubectl .* (exec|rollout status) )")
"""Lines of docs/operating.md that need pods or a plugin."""


def documented() -> list[str]:
    """The lines of its code blocks that an API server alone can answer, in their order."""
    blocks = re.findall(r"^```\n(.*?)^```", OPERATING.read_text(), re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    wanted = re.compile(r"^(helm|kubectl|KEY=)")
    return [line for line in lines if wanted.match(line) and not OF_NODES.match(line)]


def test_the_commands_of_operating_do_what_they_say(api: Kube, tmp_path: Path) -> None:
    """In one shell and in their order, in a namespace of ours; hooks would need nodes."""
    names = [f"{api.namespace}-{name}" for name in ("learnback", "llama", "qwen")]
    (tmp_path / "values.yaml").write_text("operator: {enabled: true}\n")
    lines = ["set -eux"]
    for line in documented():
        for name in ("learnback", "llama", "qwen"):
            own = f"{api.namespace}-{name}"
            line = re.sub(rf"(-n |--namespace |release-namespace=){name}\b", rf"\1{own}", line)
        hooks = " --no-hooks" if re.match(r"helm (install|upgrade|uninstall)", line) else ""
        lines.append(line.replace("charts/learnback", str(CHART)) + hooks)
    assert len(lines) > 8
    there = api.kubectl("get", "crd", CRD, "--ignore-not-found", "-o", "json")
    if there and api.namespace not in there:
        pytest.skip(f"{NOT_RUN}the commands of operating.md: the CRD here is somebody else's")
    path = f"{tool('helm').parent}:{tool('kubectl').parent}:{os.environ['PATH']}"
    try:
        done = subprocess.run(
            ["bash", "-c", "\n".join(lines)],
            cwd=tmp_path,
            env=os.environ | {"PATH": path},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        secret = Kube(names[0]).get("secret", "learnback-api-keys")
        given = re.findall(r"^\+ KEY=(lb_\w+)", done.stderr, re.MULTILINE)
        assert [base64.b64decode(secret["data"]["release"]).decode()] == given
        assert KEY_SHAPE.fullmatch(given[0])
        assert Kube(names[2]).get("deployment", "qwen-learnback-inference")
        owner = api.get("crd", CRD)["metadata"]["annotations"]
        assert owner["meta.helm.sh/release-namespace"] == names[2]
        assert CRD in Kube(names[2]).helm("get", "manifest", "qwen")
    finally:
        api.kubectl("delete", "crd", CRD, check=False)
        for name in names:
            api.kubectl("delete", "namespace", name, "--wait=false", check=False)
