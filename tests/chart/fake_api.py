"""As much of a Kubernetes API as `helm template --dry-run=server` asks for: kinds and Secrets."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

KINDS = {
    "v1": ("ConfigMap", "PersistentVolumeClaim", "Pod", "Secret", "Service", "ServiceAccount"),
    "apps/v1": ("Deployment", "StatefulSet"),
    "batch/v1": ("CronJob", "Job"),
    "networking.k8s.io/v1": ("NetworkPolicy",),
    "policy/v1": ("PodDisruptionBudget",),
    "rbac.authorization.k8s.io/v1": ("Role", "RoleBinding"),
    "apiextensions.k8s.io/v1": ("CustomResourceDefinition",),
}
CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"


def _resource(kind: str) -> dict[str, Any]:
    plural = "networkpolicies" if kind == "NetworkPolicy" else f"{kind.lower()}s"
    verbs = ["get", "list", "create", "patch"]
    namespaced = kind != "CustomResourceDefinition"
    described = {"singularName": "", "namespaced": namespaced, "verbs": verbs}
    return {"name": plural, "kind": kind, **described}


def _discovery() -> dict[str, Any]:
    """What the API says of its kinds."""
    groups = [version for version in KINDS if "/" in version]
    found: dict[str, Any] = {
        "/version": {"major": "1", "minor": "37", "gitVersion": "v1.37.0"},
        "/api": {"kind": "APIVersions", "versions": ["v1"]},
        "/apis": {
            "kind": "APIGroupList",
            "apiVersion": "v1",
            "groups": [_group(g) for g in groups],
        },
    }
    for version, kinds in KINDS.items():
        found[f"/apis/{version}" if "/" in version else f"/api/{version}"] = {
            "kind": "APIResourceList",
            "groupVersion": version,
            "resources": [_resource(kind) for kind in kinds],
        }
    return found


def _group(version: str) -> dict[str, Any]:
    one = {"groupVersion": version, "version": version.partition("/")[2]}
    return {"name": version.partition("/")[0], "versions": [one], "preferredVersion": one}


def _owned(secret: dict[str, Any]) -> dict[str, Any]:
    """A Secret as Helm leaves it; without the annotations Helm would not take it for its own."""
    owner = {"meta.helm.sh/release-name": "demo", "meta.helm.sh/release-namespace": "loop"}
    metadata = secret["metadata"]
    annotations = {**metadata.get("annotations", {}), **owner}
    return {**secret, "metadata": {**metadata, "namespace": "loop", "annotations": annotations}}


class FakeApi:
    """Serves `secrets` of the namespace `loop`, and `crds`; `asked` holds what was read."""

    def __init__(self, secrets: list[dict[str, Any]], crds: Sequence[dict[str, Any]] = ()) -> None:
        self.asked: list[str] = []
        self.answers = _discovery()
        for secret in secrets:
            path = f"/api/v1/namespaces/loop/secrets/{secret['metadata']['name']}"
            self.answers[path] = _owned(secret)
        for crd in crds:
            self.answers[f"{CRDS}/{crd['metadata']['name']}"] = crd
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        api = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                path = self.path.split("?")[0]
                api.asked.append(path)
                found = api.answers.get(path)
                missing = {
                    "kind": "Status",
                    "apiVersion": "v1",
                    "status": "Failure",
                    "reason": "NotFound",
                    "code": 404,
                }
                body = json.dumps(found or missing).encode()
                self.send_response(200 if found else 404)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                return

        return Handler
