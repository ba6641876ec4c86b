"""The load of the cluster tests, as far as it can be tried without a cluster."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import kubernetes_validate
from tests.e2e.cluster.kube import RELEASE
from tests.e2e.cluster.load import SCRIPT, load_pod
from tests.rendered import ROOT, one, rendered


def feedback(*arguments: str) -> Any:
    objects = rendered(f"--set=fullnameOverride={RELEASE}", *arguments)
    return one(objects, "Deployment", f"{RELEASE}-feedback")


def test_the_load_pod_is_valid_and_restricted() -> None:
    pod = load_pod(feedback(), "load", 10, 2)
    kubernetes_validate.validate(pod, "1.30", strict=True)
    container = pod["spec"]["containers"][0]
    assert pod["spec"]["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}


def test_it_asks_what_the_chart_installs() -> None:
    objects = rendered(f"--set=fullnameOverride={RELEASE}")
    env = {
        e["name"]: e for e in load_pod(feedback(), "load", 10, 2)["spec"]["containers"][0]["env"]
    }
    for process in ("inference", "feedback"):
        service = one(objects, "Service", f"{RELEASE}-{process}")
        port = service["spec"]["ports"][0]["port"]
        assert env[f"{process.upper()}_URL"]["value"] == f"http://{RELEASE}-{process}:{port}"
    wanted = env["LEARNBACK_API_KEY"]["valueFrom"]["secretKeyRef"]
    assert wanted["key"] in one(objects, "Secret", wanted["name"])["data"]


def test_its_image_is_of_the_registry_that_the_values_name() -> None:
    theirs = feedback("--set=image.registry=r.example.com", "--set=image.pullSecrets={mine}")
    pod = load_pod(theirs, "load", 10, 2)["spec"]
    assert pod["containers"][0]["image"] == "r.example.com/learnback:0.1.0"
    assert pod["imagePullSecrets"] == [{"name": "mine"}]


def run(seconds: str, stop: Path, inference: str = "http://127.0.0.1:9") -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, seconds, "1", str(stop)],
        env={
            "LEARNBACK_API_KEY": "x",
            "INFERENCE_URL": inference,
            "FEEDBACK_URL": "http://127.0.0.1:9",
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_the_script_counts_what_it_can_not_reach(tmp_path: Path) -> None:
    told = run("0.5", tmp_path / "stop")
    assert (told["whole"], told["broken"]) == (0, 0)
    assert told["refused"] > 0


def test_the_script_ends_when_it_is_told_to(tmp_path: Path) -> None:
    (tmp_path / "stop").touch()
    told = run("3600", tmp_path / "stop")
    assert (told["whole"], told["refused"], told["stopped"]) == (0, 0, True)
    assert run("0", tmp_path / "nobody")["stopped"] is False


def test_the_script_takes_an_error_in_a_stream_for_a_broken_one(tmp_path: Path) -> None:
    class Engine(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            (tmp_path / "stop").touch()
            self.send_response(200)
            self.end_headers()
            for event in ('{"id": "a\u2028b"}', '{"error": {"message": "aborted"}}', "[DONE]"):
                self.wfile.write(f"data: {event}\n\n".encode())

    with HTTPServer(("127.0.0.1", 0), Engine) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        told = run("30", tmp_path / "stop", f"http://127.0.0.1:{server.server_port}")
        server.shutdown()
    assert (told["whole"], told["broken"], told["feedback"]) == (0, 1, [])


def test_the_folder_says_what_it_needs() -> None:
    text = (ROOT / "tests" / "e2e" / "cluster" / "README.md").read_text()
    assert "KUBECONFIG" in text
