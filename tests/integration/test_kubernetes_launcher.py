"""Training runs as Jobs of a cluster: made, followed, stopped, disrupted, and found again."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import wait_until
from tests.fake_cluster.api import serving
from tests.fake_cluster.jobs import JobController
from tests.fake_cluster.state import FakeKubernetes, Object

from learnback.core.errors import Forbidden, Unavailable, Unprocessable
from learnback.core.kubernetes import JOB, Cluster
from learnback.retraining.kubernetes_launcher import RUN_LABEL, KubernetesLauncher
from learnback.retraining.launcher import JobStatus, Vital
from learnback.retraining.plan import ExitCode

QUICK = str(Path(__file__).parents[1] / "quick_job.py")
TEMPLATE: Object = {
    "apiVersion": "batch/v1",
    "kind": "Job",
    "metadata": {"labels": {"app.kubernetes.io/component": "training"}},
    "spec": {
        "backoffLimit": 1,
        "podReplacementPolicy": "Failed",
        "podFailurePolicy": {
            "rules": [
                {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]},
                {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [65]}},
                {"action": "Ignore", "onExitCodes": {"operator": "In", "values": [75]}},
            ]
        },
        "template": {
            "metadata": {"labels": {RUN_LABEL: "${RUN_NAME}"}},
            "spec": {
                "restartPolicy": "Never",
                "terminationGracePeriodSeconds": 20,
                "containers": [
                    {"name": "training", "command": ["python3", QUICK], "args": ["${RUN_FOLDER}"]}
                ],
            },
        },
    },
}
RULES = [
    {"apiGroups": ["batch"], "resources": ["jobs"], "verbs": ["create", "delete", "get"]},
    {"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]},
]


@pytest.fixture
def kubernetes() -> Iterator[FakeKubernetes]:
    with serving(FakeKubernetes()) as state:
        yield state


@pytest.fixture
def controller(kubernetes: FakeKubernetes) -> Iterator[JobController]:
    found = JobController(kubernetes)
    yield found
    found.close()


@pytest.fixture
async def cluster(kubernetes: FakeKubernetes, tmp_path: Path) -> AsyncIterator[Cluster]:
    token = tmp_path / "token"
    token.write_text("retraining\n")
    kubernetes.roles = {"retraining": RULES}
    found = Cluster(kubernetes.url, "learnback", token=token)
    yield found
    await found.close()


@pytest.fixture
def launcher(cluster: Cluster, controller: JobController, tmp_path: Path) -> KubernetesLauncher:
    return launching(cluster, tmp_path, TEMPLATE)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    found = tmp_path / "runs" / "run_01ab"
    found.mkdir(parents=True)
    (found / "run.json").write_text(json.dumps({"run_id": "run_01ab", "seed": 0}))
    return found


def launching(cluster: Cluster, folder: Path, template: Object) -> KubernetesLauncher:
    (folder / "job.json").write_text(json.dumps(template))
    return KubernetesLauncher(cluster, folder / "job.json")


async def ended(launcher: KubernetesLauncher, folder: Path) -> JobStatus:
    async def look() -> JobStatus | None:
        status = await launcher.status(folder)
        return status if status.vital is Vital.ENDED else None

    found: JobStatus = await wait_until(look, "the job ends")
    return found


async def training(launcher: KubernetesLauncher, folder: Path) -> None:
    async def look() -> bool:
        status = await launcher.status(folder)
        return bool(status.progress and status.progress.step)

    await wait_until(look, "the job trains")


def starts(folder: Path) -> int:
    return int((folder / "starts").read_text())


async def test_a_run_is_a_job_of_its_name_and_runs_to_its_end(
    launcher: KubernetesLauncher, kubernetes: FakeKubernetes, folder: Path
) -> None:
    assert await launcher.status(folder) == JobStatus(Vital.ABSENT)
    await launcher.start(folder)
    status = await ended(launcher, folder)
    assert status.exit_code == ExitCode.DONE
    assert status.progress is not None
    assert status.progress.step == 3
    job = kubernetes.one("jobs", "run-01ab")
    assert job["metadata"]["labels"] == {
        "app.kubernetes.io/component": "training",
        RUN_LABEL: "run-01ab",
    }
    container = job["spec"]["template"]["spec"]["containers"][0]
    assert container["args"] == [str(folder)]


async def test_starting_twice_makes_one_job(
    launcher: KubernetesLauncher,
    kubernetes: FakeKubernetes,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("QUICK_JOB", "wait")
    await launcher.start(folder)
    await training(launcher, folder)
    await launcher.start(folder)
    assert len(kubernetes.all("jobs")) == 1
    assert starts(folder) == 1


async def test_a_rival_that_was_first_is_no_error(
    launcher: KubernetesLauncher, kubernetes: FakeKubernetes, folder: Path, cluster: Cluster
) -> None:
    class Late(Cluster):
        async def find(self, kind: Any, name: str) -> Object | None:
            return None  # the rival comes after the look and before the create

    await launcher.start(folder)
    late = Late(kubernetes.url, "learnback", token=cluster.token)
    await KubernetesLauncher(late, launcher.template).start(folder)
    await late.close()
    assert len(kubernetes.all("jobs")) == 1


async def test_another_process_finds_the_job_by_its_name(
    launcher: KubernetesLauncher,
    cluster: Cluster,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("QUICK_JOB", "wait")
    await launcher.start(folder)
    await training(launcher, folder)
    await launcher.leave(folder, grace_s=0.0)
    second = KubernetesLauncher(cluster, launcher.template)
    status = await second.status(folder)
    assert (status.vital, status.note) == (Vital.ALIVE, "running on node-1")
    (folder / "go").touch()
    assert (await ended(second, folder)).exit_code == ExitCode.DONE
    assert starts(folder) == 1


async def test_bad_data_ends_the_job_at_once_and_for_good(
    launcher: KubernetesLauncher, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUICK_JOB", "bad_data")
    await launcher.start(folder)
    status = await ended(launcher, folder)
    assert (status.exit_code, status.final) == (ExitCode.BAD_DATA, True)
    assert status.note is not None
    assert status.note.startswith("PodFailurePolicy: ")
    assert starts(folder) == 1


async def test_kubernetes_tries_again_and_what_it_gives_up_is_final(
    launcher: KubernetesLauncher, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUICK_JOB", "crash")
    await launcher.start(folder)
    status = await ended(launcher, folder)
    assert (status.exit_code, status.final) == (ExitCode.INTERNAL, True)
    assert starts(folder) == 2


async def test_disruptions_cost_no_try_and_the_next_pod_goes_on(
    launcher: KubernetesLauncher,
    controller: JobController,
    kubernetes: FakeKubernetes,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("QUICK_JOB", "wait")
    await launcher.start(folder)
    for count in (1, 2, 3):

        def running(wanted: int = count) -> Object | None:
            pods = [
                p for p in kubernetes.all("pods") if p.get("status", {}).get("phase") == "Running"
            ]
            begun = (folder / "starts").exists() and starts(folder) == wanted
            return pods[0] if pods and begun and (folder / "step").exists() else None

        pod = await wait_until(running, f"pod {count} trains")
        controller.evict(pod)
    await wait_until(lambda: starts(folder) == 4, "the fourth pod starts")
    (folder / "go").touch()
    assert (await ended(launcher, folder)).exit_code == ExitCode.DONE
    assert starts(folder) == 4


async def test_stopping_lets_the_job_save_and_takes_it_away(
    launcher: KubernetesLauncher,
    kubernetes: FakeKubernetes,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("QUICK_JOB", "wait")
    await launcher.start(folder)
    await training(launcher, folder)
    await launcher.stop(folder, grace_s=0.0)

    async def absent() -> bool:
        status = await launcher.status(folder)
        assert status.vital is not Vital.ENDED
        return status.vital is Vital.ABSENT

    await wait_until(absent, "the job is gone")
    assert kubernetes.all("pods") == []
    await launcher.stop(folder, grace_s=0.0)
    (folder / "go").touch()
    await launcher.start(folder)
    assert (await ended(launcher, folder)).exit_code == ExitCode.DONE
    assert starts(folder) == 2


async def test_an_ended_job_makes_room_for_the_next_try(
    launcher: KubernetesLauncher, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUICK_JOB", "bad_data")
    await launcher.start(folder)
    await ended(launcher, folder)
    monkeypatch.setenv("QUICK_JOB", "done")
    await launcher.start(folder)

    async def done() -> bool:
        status = await launcher.status(folder)
        if status.vital is Vital.ABSENT:
            await launcher.start(folder)
        return status.exit_code == ExitCode.DONE

    await wait_until(done, "the second job is done")
    assert starts(folder) == 2


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


async def test_an_api_that_is_away_is_waited_for(
    launcher: KubernetesLauncher, kubernetes: FakeKubernetes, folder: Path
) -> None:
    kubernetes.away = True
    with pytest.raises(Unavailable):
        await launcher.status(folder)
    nobody = Cluster("http://127.0.0.1:9", "learnback")
    with pytest.raises(Unavailable, match="can't be reached"):
        await nobody.find(JOB, "x")
    await nobody.close()


async def test_a_token_that_changes_is_read_anew(
    launcher: KubernetesLauncher, cluster: Cluster, kubernetes: FakeKubernetes, folder: Path
) -> None:
    kubernetes.roles = {"the next token": RULES}
    with pytest.raises(Unavailable, match="401"):
        await launcher.status(folder)
    assert cluster.token is not None
    cluster.token.write_text("the next token")
    assert (await launcher.status(folder)).vital is Vital.ABSENT


async def test_what_the_role_lacks_and_the_api_refuses_is_said(
    launcher: KubernetesLauncher, kubernetes: FakeKubernetes, folder: Path
) -> None:
    kubernetes.roles = {"retraining": [{**RULES[0], "verbs": ["get"]}]}
    with pytest.raises(Forbidden, match="cannot create resource 'jobs'"):
        await launcher.start(folder)
    kubernetes.roles = {}
    kubernetes.kinds["batch/v1", "jobs"].admission = lambda _old, _new: "Job is invalid: spec"
    with pytest.raises(Unprocessable, match="Job is invalid: spec"):
        await launcher.start(folder)


def test_a_template_of_another_kind_is_refused(cluster: Cluster, tmp_path: Path) -> None:
    launcher = launching(cluster, tmp_path, {"apiVersion": "v1", "kind": "Pod"})
    with pytest.raises(ValueError, match="must be one of: batch/v1 Job"):
        launcher._kind()


def test_outside_of_a_cluster_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(Unavailable, match="not in a Kubernetes pod"):
        Cluster.around_us(tmp_path)
