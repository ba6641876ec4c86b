"""The load of the cluster tests, as far as it can be tried without a cluster."""

from __future__ import annotations

import json
import subprocess
import sys

import kubernetes_validate
from tests.e2e.cluster.kube import RELEASE
from tests.e2e.cluster.load import IMAGE, SCRIPT, load_pod
from tests.rendered import ROOT, one, rendered


def test_the_load_pod_is_valid_and_restricted() -> None:
    pod = load_pod("load", 10, 2)
    kubernetes_validate.validate(pod, "1.30", strict=True)
    container = pod["spec"]["containers"][0]
    assert pod["spec"]["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}


def test_it_asks_what_the_chart_installs() -> None:
    objects = rendered(f"--set=fullnameOverride={RELEASE}")
    env = {e["name"]: e for e in load_pod("load", 10, 2)["spec"]["containers"][0]["env"]}
    for process in ("inference", "feedback"):
        service = one(objects, "Service", f"{RELEASE}-{process}")
        port = service["spec"]["ports"][0]["port"]
        assert env[f"{process.upper()}_URL"]["value"] == f"http://{RELEASE}-{process}:{port}"
    wanted = env["LEARNBACK_API_KEY"]["valueFrom"]["secretKeyRef"]
    assert wanted["key"] in one(objects, "Secret", wanted["name"])["data"]
    deployment = one(objects, "Deployment", f"{RELEASE}-feedback")
    assert deployment["spec"]["template"]["spec"]["containers"][0]["image"] == IMAGE


def test_the_script_counts_what_it_can_not_reach() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, "0.5", "1"],
        env={
            "LEARNBACK_API_KEY": "x",
            "INFERENCE_URL": "http://127.0.0.1:9",
            "FEEDBACK_URL": "http://127.0.0.1:9",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    told = json.loads(done.stdout)
    assert (told["whole"], told["broken"]) == (0, 0)
    assert told["refused"] > 0


def test_the_folder_says_what_it_needs() -> None:
    text = (ROOT / "tests" / "e2e" / "cluster" / "README.md").read_text()
    assert "KUBECONFIG" in text
