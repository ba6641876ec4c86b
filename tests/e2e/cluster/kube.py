"""kubectl and Helm on the cluster that KUBECONFIG names."""

from __future__ import annotations

import base64
import json
import os
import ssl
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest
from tests.kubernetes_tools import tool
from tests.rendered import CHART, ROOT

from learnback.core.kubernetes import Cluster

T = TypeVar("T")
Object = dict[str, Any]

RELEASE = "learnback"
CRD = "modelreleases.learnback.dev"
VALUES = Path(os.environ.get("LEARNBACK_E2E_VALUES", ROOT / "k8s" / "values" / "kind.yaml"))
INSTALL_S = 2400
"""Two replicas that download and load a model on the CPU, one after the other."""


@dataclass(frozen=True)
class Kube:
    """One namespace of the cluster."""

    namespace: str
    controllers: bool = True
    """Whether controllers run beside the API server."""

    def kubectl(self, *arguments: str, text: str | None = None, check: bool = True) -> str:
        """What kubectl prints; fails the test with what it says."""
        return _run([str(tool("kubectl")), "-n", self.namespace, *arguments], text, check)

    def helm(self, *arguments: str) -> str:
        """What Helm prints, warnings of the API server included."""
        return _run([str(tool("helm")), "-n", self.namespace, *arguments], None, True)

    def refused(self, *arguments: str, text: str | None = None) -> str:
        """What kubectl says of something that the server must not take."""
        command = [str(tool("kubectl")), "-n", self.namespace, *arguments]
        done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
        assert done.returncode != 0, f"{arguments} was taken: {done.stdout}"
        return done.stderr

    def install(self, *arguments: str) -> str:
        """Install or upgrade as objects only: no hook runs, and nothing is waited for."""
        command = ["upgrade", "--install", RELEASE, str(CHART), "--no-hooks", *arguments]
        postgres = ["--set", "externalDatabase.existingSecret=postgres"]
        return self.helm(*command, *postgres)

    @property
    def server(self) -> Object:
        """The API server as the kubeconfig's current context names it."""
        view = self.kubectl("config", "view", "--raw", "--minify", "--flatten", "-o", "json")
        found: Object = json.loads(view)["clusters"][0]["cluster"]
        return found

    def trust(self) -> ssl.SSLContext | bool:
        """How to verify the server."""
        if self.server.get("insecure-skip-tls-verify"):
            return False
        authority = base64.b64decode(self.server["certificate-authority-data"]).decode()
        return ssl.create_default_context(cadata=authority)

    def token(self, account: str) -> str:
        """A token of a service account, as its pods get it."""
        return self.kubectl("create", "token", account).strip()

    def client(self, process: str, folder: Path) -> Cluster:
        """Our client with a token of the process's own service account."""
        (folder / f"{process}-token").write_text(self.token(f"{RELEASE}-{process}"))
        return Cluster(
            self.server["server"],
            self.namespace,
            token=folder / f"{process}-token",
            verify=self.trust(),
        )

    def upgrade(self, *arguments: str, chart: Path = CHART) -> str:
        """Install or upgrade and wait until everything is ready."""
        wait = ["--wait", "--timeout", f"{INSTALL_S}s"]
        command = ["upgrade", "--install", RELEASE, str(chart), "--values", str(VALUES), *wait]
        return self.helm(*command, *arguments)

    def get(self, kind: str, name: str) -> Object:
        """One object."""
        found: Object = json.loads(self.kubectl("get", kind, name, "-o", "json"))
        return found

    def all(self, kind: str, selector: str = "") -> list[Object]:
        """Objects by label selector."""
        found: list[Object] = json.loads(self.kubectl("get", kind, "-l", selector, "-o", "json"))[
            "items"
        ]
        return found

    def pods(self, component: str) -> list[Object]:
        """The pods of a component of ours."""
        return self.all("pods", f"app.kubernetes.io/component={component}")

    def apply(self, *objects: Object) -> None:
        """Apply objects."""
        self.kubectl("apply", "-f", "-", text=as_list(list(objects)))

    def inside(self, component: str, *command: str) -> str:
        """What a command prints in a pod of a Deployment of ours."""
        return self.kubectl("exec", f"deploy/{RELEASE}-{component}", "--", *command)

    def rolled_out(self, component: str, kind: str = "deployment") -> None:
        """Wait for a rollout."""
        name = f"{kind}/{RELEASE}-{component}"
        self.kubectl("rollout", "status", name, f"--timeout={INSTALL_S}s")


def as_list(found: list[Object]) -> str:
    """Objects as the one document that kubectl reads."""
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": found})


def until(look: Callable[[], T | None], what: str, timeout_s: float = 600.0) -> T:
    """The first truthy value of `look`; fails with what never happened."""
    deadline = time.monotonic() + timeout_s
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() > deadline:
            pytest.fail(f"never happened within {timeout_s:g} s: {what}")
        time.sleep(2.0)


def _run(command: list[str], text: str | None, check: bool) -> str:
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    if check and done.returncode != 0:
        pytest.fail(f"{' '.join(command)} failed: {done.stderr}")
    return done.stdout + done.stderr if "helm" in command[0] else done.stdout
