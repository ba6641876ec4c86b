"""A training run as a Job: the template that tests make it from, and what they wait for."""

from __future__ import annotations

import json
from pathlib import Path

from tests.conftest import wait_until
from tests.fake_cluster.state import Object

from learnback.core.kubernetes import Cluster
from learnback.retraining.kubernetes_launcher import RUN_LABEL, KubernetesLauncher
from learnback.retraining.launcher import JobStatus, Vital

QUICK = str(Path(__file__).parent / "quick_job.py")
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
