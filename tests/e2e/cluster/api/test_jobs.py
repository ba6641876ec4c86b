"""The launcher under its own Role, and what the Job controller makes of its Jobs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.conftest import NOT_RUN
from tests.e2e.cluster.kube import RELEASE, Kube, until

from learnback.core import clock
from learnback.retraining.kubernetes_launcher import KubernetesLauncher
from learnback.retraining.launcher import Vital

pytestmark = [pytest.mark.timeout(600), pytest.mark.xdist_group("cluster")]


async def test_the_launcher_makes_and_removes_a_job_under_its_own_role(
    installed: Kube, tmp_path: Path
) -> None:
    template = installed.get("configmap", f"{RELEASE}-training")["data"]["job.json"]
    (tmp_path / "job.json").write_text(template)
    folder = tmp_path / "run_01ab"
    folder.mkdir()
    cluster = installed.client("retraining", tmp_path)
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
        pytest.skip(f"{NOT_RUN}tests/e2e/cluster/api/test_jobs.py: no controller manager")
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
    cluster = kube.client("retraining", tmp_path)
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
