"""What a Job's state says of its run: while it waits, when it ends, and of other kinds."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.cluster_jobs import RULES, TEMPLATE, ended, launching
from tests.fake_cluster.jobs import JobController
from tests.fake_cluster.state import FakeKubernetes, Object

from learnback.core.kubernetes import Cluster
from learnback.retraining.kubernetes_launcher import RUN_LABEL
from learnback.retraining.launcher import Vital
from learnback.retraining.plan import ExitCode


async def test_a_suspended_job_says_that_it_waits_in_its_queue(
    cluster: Cluster,
    controller: JobController,
    kubernetes: FakeKubernetes,
    tmp_path: Path,
    folder: Path,
) -> None:
    template = {**TEMPLATE, "spec": {**TEMPLATE["spec"], "suspend": True}}
    launcher = launching(cluster, tmp_path, template)
    await launcher.start(folder)
    status = await launcher.status(folder)
    assert (status.vital, status.note) == (Vital.ALIVE, "suspended: it waits in its queue")
    kubernetes.change("batch/v1", "jobs", "learnback", "run-01ab", {"spec": {"suspend": False}})
    assert (await ended(launcher, folder)).exit_code == ExitCode.DONE


async def test_a_pod_that_can_not_start_says_why(
    cluster: Cluster, kubernetes: FakeKubernetes, tmp_path: Path, folder: Path
) -> None:
    kubernetes.serve("batch/v1", "jobs", "Job")
    kubernetes.serve("v1", "pods", "Pod")
    launcher = launching(cluster, tmp_path, TEMPLATE)
    await launcher.start(folder)
    assert (await launcher.status(folder)).note == "it waits for its pod"
    pod = {"metadata": {"name": "p", "labels": {RUN_LABEL: "run-01ab"}}}
    kubernetes.create("v1", "pods", "learnback", pod)
    unscheduled = {
        "type": "PodScheduled",
        "status": "False",
        "reason": "Unschedulable",
        "message": "0/3 nodes are available: 3 Insufficient nvidia.com/gpu.",
    }
    at = ("v1", "pods", "learnback", "p")
    status: Object = {"phase": "Pending", "conditions": [unscheduled]}
    kubernetes.change(*at, {"status": status}, subresource="status")
    note = (await launcher.status(folder)).note
    assert note == f"its pod waits: Unschedulable: {unscheduled['message']}"
    waiting = {"reason": "ImagePullBackOff", "message": "Back-off pulling image"}
    status = {"conditions": None, "containerStatuses": [{"state": {"waiting": waiting}}]}
    kubernetes.change(*at, {"status": status}, subresource="status")
    note = (await launcher.status(folder)).note
    assert note == "its pod waits: ImagePullBackOff: Back-off pulling image"


async def test_a_job_that_completes_without_a_result_is_a_failure_after_a_while(
    cluster: Cluster, kubernetes: FakeKubernetes, tmp_path: Path, folder: Path
) -> None:
    kubernetes.serve("batch/v1", "jobs", "Job")
    launcher = launching(cluster, tmp_path, TEMPLATE)
    await launcher.start(folder)
    complete = {"type": "Complete", "status": "True", "lastTransitionTime": "2000-01-01T00:00:00Z"}
    kubernetes.change(
        *("batch/v1", "jobs", "learnback", "run-01ab"),
        {"status": {"conditions": [complete]}},
        subresource="status",
    )
    status = await launcher.status(folder)
    assert (status.exit_code, status.final) == (ExitCode.INTERNAL, True)
    assert "result.json is not on the volume" in (status.note or "")


@pytest.mark.parametrize(
    ("version", "kind", "plural", "done"),
    [
        ("jobset.x-k8s.io/v1alpha2", "JobSet", "jobsets", "Completed"),
        ("trainer.kubeflow.org/v1alpha1", "TrainJob", "trainjobs", "Complete"),
    ],
)
async def test_runs_of_more_nodes_are_objects_of_their_operators(
    cluster: Cluster,
    kubernetes: FakeKubernetes,
    tmp_path: Path,
    folder: Path,
    version: str,
    kind: str,
    plural: str,
    done: str,
) -> None:
    group = version.partition("/")[0]
    verbs = ["create", "delete", "get"]
    rule = {"apiGroups": [group], "resources": [plural], "verbs": verbs}
    kubernetes.roles = {"retraining": [*RULES, rule]}
    kubernetes.serve(version, plural, kind)
    kubernetes.serve("v1", "pods", "Pod")
    template = {"apiVersion": version, "kind": kind, "spec": {"of": "${RUN_NAME}"}}
    launcher = launching(cluster, tmp_path, template)
    await launcher.start(folder)
    assert kubernetes.one(plural, "run-01ab")["spec"] == {"of": "run-01ab"}
    assert (await launcher.status(folder)).vital is Vital.ALIVE
    condition = {"type": done, "status": "True", "lastTransitionTime": "2000-01-01T00:00:00Z"}
    kubernetes.change(
        *(version, plural, "learnback", "run-01ab"),
        {"status": {"conditions": [condition]}},
        subresource="status",
    )
    (folder / "result.json").write_text("{}")
    assert (await launcher.status(folder)).exit_code == ExitCode.DONE
