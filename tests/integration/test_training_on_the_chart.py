"""The chart's template of training runs, and its Role, with the launcher that uses them."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import kubernetes_validate
import pytest
from tests.cluster_jobs import QUICK
from tests.conftest import wait_until
from tests.fake_cluster.api import serving
from tests.fake_cluster.jobs import JobController
from tests.fake_cluster.state import FakeKubernetes, Object
from tests.rendered import job_template, one, rendered

from learnback.core.kubernetes import Cluster
from learnback.local.supervisor import free_port
from learnback.retraining.kubernetes_launcher import KubernetesLauncher, manifest_of
from learnback.retraining.launcher import Vital
from learnback.retraining.plan import FINAL, ExitCode

FOLDER = Path("/var/lib/learnback/runs/run_01ab")
JOB_SET = ("--set=training.jobSet.enabled=true", "--set=training.jobSet.replicas=2")
MEETING = "--rdzv-endpoint=run-01ab-node-0-0.run-01ab:29400"
GPU = ("--set=training.device=gpu", r"--set=training.resources.limits.nvidia\.com/gpu=1")
SHARED = "--set=training.checkpoint.accessModes={ReadWriteMany}"


@pytest.fixture
def kubernetes() -> Iterator[FakeKubernetes]:
    with serving(FakeKubernetes()) as state:
        yield state


def pod_of(manifest: Object) -> Object:
    spec = manifest["spec"]
    if manifest["kind"] == "JobSet":
        spec = spec["replicatedJobs"][0]["template"]["spec"]
    pod: Object = spec["template"]
    return pod


async def test_the_role_is_enough_and_no_more_than_a_run_needs(
    kubernetes: FakeKubernetes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every rule and verb of the Role is used by one run, and the run uses no other."""
    objects = rendered()
    rules = one(objects, "Role", "lb-learnback-training")["rules"]
    kubernetes.roles = {"token": rules}
    controller = JobController(kubernetes)
    (tmp_path / "token").write_text("token")
    template = job_template(objects)
    pod_of(template)["spec"]["containers"][0]["command"] = ["python3", QUICK, "${RUN_FOLDER}"]
    pod_of(template)["spec"]["containers"][0]["env"] = []
    (tmp_path / "job.json").write_text(json.dumps(template))
    folder = tmp_path / "runs" / "run_01ab"
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"run_id": "run_01ab", "seed": 0}))
    cluster = Cluster(kubernetes.url, "learnback", token=tmp_path / "token")
    launcher = KubernetesLauncher(cluster, tmp_path / "job.json")
    monkeypatch.setenv("QUICK_JOB", "bad_data")
    await launcher.start(folder)

    async def ended() -> bool:
        return (await launcher.status(folder)).vital is Vital.ENDED

    await wait_until(ended, "the job ends")
    assert (await launcher.status(folder)).exit_code == ExitCode.BAD_DATA
    await launcher.stop(folder, grace_s=0)
    await cluster.close()
    controller.close()
    verbs = {"POST": "create", "GET": "get", "DELETE": "delete"}
    used = {
        (path.split("/")[6] if path.startswith("/apis/") else path.split("/")[5], verbs[method])
        for method, path in kubernetes.asked
    }
    granted = {(r, v) for rule in rules for r in rule["resources"] for v in rule["verbs"]}
    assert {(r, "list" if r == "pods" else v) for r, v in used} == granted


def test_the_role_is_bound_to_the_retraining_pod_alone() -> None:
    objects = rendered()
    subject = one(objects, "RoleBinding", "lb-learnback-training")["subjects"]
    assert subject == [
        {"kind": "ServiceAccount", "name": "lb-learnback-retraining", "namespace": "learnback"}
    ]
    pods = {
        o["metadata"]["name"]: o["spec"]["template"]["spec"]
        for o in objects
        if o["kind"] == "Deployment"
    }
    with_token = [name for name, pod in pods.items() if pod["automountServiceAccountToken"]]
    assert with_token == ["lb-learnback-retraining"]


@pytest.mark.parametrize("version", ["1.30", "1.37"])
def test_the_job_is_valid_for_old_and_new_kubernetes(version: str) -> None:
    manifest = manifest_of(job_template(rendered()), FOLDER)
    kubernetes_validate.validate(manifest, version, strict=True)
    inner = manifest_of(job_template(rendered(*JOB_SET, SHARED)), FOLDER)
    job = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "node"},
        "spec": inner["spec"]["replicatedJobs"][0]["template"]["spec"],
    }
    kubernetes_validate.validate(job, version, strict=True)


def test_a_run_knows_no_secret_and_mounts_its_own_folder_only() -> None:
    spec = pod_of(manifest_of(job_template(rendered()), FOLDER))["spec"]
    assert spec["automountServiceAccountToken"] is False
    assert "secretKeyRef" not in json.dumps(spec)
    mounts = {m["name"]: m for m in spec["containers"][0]["volumeMounts"]}
    assert mounts["runs"]["mountPath"] == str(FOLDER)
    assert mounts["runs"]["subPath"] == "run_01ab"
    assert spec["terminationGracePeriodSeconds"] >= 60


def test_the_hub_token_is_the_only_secret_there_can_be() -> None:
    objects = rendered("--set=model.hub.existingSecret=hub")
    env = pod_of(job_template(objects))["spec"]["containers"][0]["env"]
    assert [e["name"] for e in env if "secretKeyRef" in e.get("valueFrom", {})] == ["HF_TOKEN"]


def test_exit_codes_and_disruptions_are_treated_as_the_plan_says() -> None:
    rules = job_template(rendered())["spec"]["podFailurePolicy"]["rules"]
    told = [r for r in rules if "onExitCodes" in r]
    by_code = {code: r["action"] for r in told for code in r["onExitCodes"]["values"]}
    assert by_code == {**dict.fromkeys(FINAL, "FailJob"), ExitCode.INTERRUPTED: "Ignore"}
    assert rules[0]["action"] == "Ignore"
    assert rules[0]["onPodConditions"][0]["type"] == "DisruptionTarget"


def test_a_volume_of_one_node_puts_runs_beside_retraining() -> None:
    def affinity(*arguments: str) -> Object:
        found: Object = pod_of(job_template(rendered(*arguments)))["spec"].get("affinity", {})
        return found

    term = affinity()["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"][0]
    objects = rendered()
    labels = one(objects, "Deployment", "lb-learnback-retraining")["spec"]["template"]["metadata"]
    assert term["labelSelector"]["matchLabels"].items() <= labels["labels"].items()
    assert affinity(SHARED) == {}


def test_a_queue_suspends_the_job_and_labels_it() -> None:
    plain = job_template(rendered())
    queued = job_template(rendered("--set=training.kueue.queueName=team"))
    assert plain["spec"]["suspend"] is False
    assert queued["spec"]["suspend"] is True
    assert queued["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "team"


def test_retraining_mounts_the_template_that_it_is_told_of() -> None:
    objects = rendered()
    pod = one(objects, "Deployment", "lb-learnback-retraining")["spec"]["template"]["spec"]
    env = {e["name"]: e.get("value") for e in pod["containers"][0]["env"]}
    mounts = {m["name"]: m["mountPath"] for m in pod["containers"][0]["volumeMounts"]}
    template = Path(str(env["LEARNBACK_RETRAINING_JOB_TEMPLATE"]))
    assert str(template.parent) == mounts["job-template"]
    volume = next(v for v in pod["volumes"] if v["name"] == "job-template")
    config = one(objects, "ConfigMap", volume["configMap"]["name"])
    assert template.name in config["data"]
    assert mounts["runs"] == f"{env['LEARNBACK_HOME']}/runs"


def test_without_jobs_there_is_no_role_and_no_token() -> None:
    objects = rendered("--set=training.enabled=false")
    assert not [o for o in objects if o["kind"] in ("Role", "RoleBinding")]
    pod = one(objects, "Deployment", "lb-learnback-retraining")["spec"]["template"]["spec"]
    assert pod["automountServiceAccountToken"] is False
    assert "JOB_TEMPLATE" not in json.dumps(pod)


def test_the_schedule_only_asks() -> None:
    assert not [o for o in rendered() if o["kind"] == "CronJob"]
    objects = rendered("--set=training.schedule=0 3 * * *")
    cron = one(objects, "CronJob", "lb-learnback-train")
    kubernetes_validate.validate(cron, "1.37", strict=True)
    pod = cron["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    command = pod["containers"][0]["command"]
    assert command[:2] == ["learnback", "train"]
    service = one(objects, "Service", "lb-learnback-retraining")
    port = service["spec"]["ports"][0]["port"]
    assert f"--url=http://{service['metadata']['name']}:{port}" in command
    assert pod["automountServiceAccountToken"] is False
    long = rendered("--set=training.schedule=0 3 * * *", f"--set=fullnameOverride={'x' * 45}")
    names = [o["metadata"]["name"] for o in long if o["kind"] == "CronJob"]
    assert len(names[0]) <= 52


def test_several_nodes_meet_at_the_first_one() -> None:
    objects = rendered(*JOB_SET, SHARED)
    manifest = manifest_of(job_template(objects), FOLDER)
    job = manifest["spec"]["replicatedJobs"][0]
    assert (job["template"]["spec"]["parallelism"], job["template"]["spec"]["backoffLimit"]) == (
        2,
        0,
    )
    command = pod_of(manifest)["spec"]["containers"][0]["command"]
    assert MEETING in command
    assert "--nproc-per-node=1" in command
    on_gpus = (*JOB_SET, SHARED, *GPU)
    gpus = job_template(rendered(*on_gpus))
    assert "--nproc-per-node=gpu" in pod_of(gpus)["spec"]["containers"][0]["command"]
    role = one(objects, "Role", "lb-learnback-training")["rules"][0]
    assert (role["apiGroups"], role["resources"]) == (["jobset.x-k8s.io"], ["jobsets"])


TRAIN_JOB = ("--set=training.trainJob.enabled=true", "--set=training.trainJob.nodes=2", SHARED)


def test_a_train_job_says_of_its_runtimes_pods_what_a_jobs_pod_is() -> None:
    objects = rendered(*TRAIN_JOB)
    manifest = manifest_of(job_template(objects), FOLDER)
    job = pod_of(manifest_of(job_template(rendered(SHARED)), FOLDER))
    spec, trainer = manifest["spec"], manifest["spec"]["trainer"]
    assert spec["runtimeRef"]["name"] == "torch-distributed"
    assert (trainer["numNodes"], trainer["numProcPerNode"]) == (2, 1)
    assert trainer["command"][:3] == ["python3", "-m", "learnback.retraining.several"]
    assert trainer["command"][-1] == str(FOLDER)
    (own,) = job["spec"]["containers"]
    assert trainer["image"] == own["image"]
    assert trainer["resourcesPerNode"] == own["resources"]
    assert {e["name"] for e in trainer["env"]} == {e["name"] for e in own["env"]}
    (patch,) = spec["runtimePatches"]
    (nodes,) = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    pod = nodes["template"]["spec"]["template"]
    assert pod["metadata"]["labels"] == job["metadata"]["labels"]
    for field in ("volumes", "securityContext", "serviceAccountName"):
        assert pod["spec"][field] == job["spec"][field]
    (container,) = pod["spec"]["containers"]
    assert container["name"] == nodes["name"] == "node"
    assert container["volumeMounts"] == own["volumeMounts"]
    assert container["securityContext"] == own["securityContext"]
    role = one(objects, "Role", "lb-learnback-training")["rules"][0]
    assert (role["apiGroups"], role["resources"]) == (["trainer.kubeflow.org"], ["trainjobs"])


def start_nodes(folder: Path, behaviour: str) -> list[subprocess.Popen[bytes]]:
    """The rendered command once for each of two nodes, with a job that tells who it is."""
    manifest = manifest_of(job_template(rendered(*JOB_SET, SHARED)), folder)
    command = pod_of(manifest)["spec"]["containers"][0]["command"]
    here = f"--rdzv-endpoint=127.0.0.1:{free_port()}"
    assert command[:3] == ["python3", "-m", "learnback.retraining.several"]
    options = [here if option.startswith("--rdzv-endpoint") else option for option in command[3:]]
    told = f"several.main({options!r}, module='tests.distributed_job')"
    script = f"import sys; from learnback.retraining import several; sys.exit({told})"
    environment = os.environ | {"DISTRIBUTED_JOB": behaviour, "OMP_NUM_THREADS": "1"}
    nodes = range(manifest["spec"]["replicatedJobs"][0]["template"]["spec"]["parallelism"])
    return [subprocess.Popen([sys.executable, "-c", script], env=environment) for _ in nodes]


@pytest.mark.parametrize(
    ("behaviour", "status"),
    [("bad_data", ExitCode.BAD_DATA), ("wait", ExitCode.INTERRUPTED)],
)
async def test_the_rendered_command_of_two_nodes_is_one_run_with_the_jobs_own_end(
    tmp_path: Path, behaviour: str, status: int
) -> None:
    folder = tmp_path / "run_01ab"
    folder.mkdir()
    nodes = start_nodes(folder, behaviour)

    def met() -> bool:
        return len(list(folder.glob("rank-*"))) == len(nodes)

    await wait_until(met, "both nodes run the job", 120)
    if behaviour == "wait":
        for node in nodes:
            node.send_signal(signal.SIGTERM)
    assert [await asyncio.to_thread(node.wait, 60) for node in nodes] == [status, status]
    assert {f.name: f.read_text() for f in folder.glob("rank-*")} == {"rank-0": "2", "rank-1": "2"}
