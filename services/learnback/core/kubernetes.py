"""The Kubernetes API as far as we use it: objects of the namespace that this process runs in.

Plain HTTP with the service account's token: six verbs on a few kinds need no client library
(decision 0010). Every object is JSON as the API gives it.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from learnback.core.errors import (
    Conflict,
    Forbidden,
    LearnbackError,
    NotFound,
    Unavailable,
    Unprocessable,
)

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where Kubernetes mounts the token, the namespace and the certificate authority."""
TIMEOUT_S = 10.0
"""The API answers in milliseconds; slower than this it is as good as away."""
MERGE_PATCH = "application/merge-patch+json"

Object = dict[str, Any]


@dataclass(frozen=True)
class Kind:
    """A namespaced kind: `Kind("batch/v1", "Job", "jobs")`."""

    api_version: str
    name: str
    plural: str


JOB = Kind("batch/v1", "Job", "jobs")
JOB_SET = Kind("jobset.x-k8s.io/v1alpha2", "JobSet", "jobsets")
TRAIN_JOB = Kind("trainer.kubeflow.org/v1alpha1", "TrainJob", "trainjobs")
POD = Kind("v1", "Pod", "pods")


class Cluster:
    """The API server, asked as the holder of a token, for one namespace."""

    def __init__(
        self,
        url: str,
        namespace: str,
        *,
        token: Path | None = None,
        verify: ssl.SSLContext | bool = True,
    ) -> None:
        self.namespace = namespace
        self.token = token
        self.http = httpx.AsyncClient(
            base_url=url, timeout=TIMEOUT_S, verify=verify, trust_env=False
        )

    @classmethod
    def around_us(cls, account: Path = ACCOUNT) -> Cluster:
        """The cluster that this process runs in. Raises Unavailable outside of one."""
        host, port = (os.environ.get(f"KUBERNETES_SERVICE_{part}") for part in ("HOST", "PORT"))
        if not host or not (account / "token").is_file():
            raise Unavailable(
                "This process is not in a Kubernetes pod with a service account's token; "
                "set automountServiceAccountToken on its pod."
            )
        host = f"[{host}]" if ":" in host else host
        verify = ssl.create_default_context(cafile=account / "ca.crt")
        namespace = (account / "namespace").read_text().strip()
        return cls(
            f"https://{host}:{port or 443}", namespace, token=account / "token", verify=verify
        )

    async def close(self) -> None:
        """Close its connections."""
        await self.http.aclose()

    async def create(self, kind: Kind, body: Object) -> Object:
        """Make an object. Conflict if one of its name is there."""
        return await self._ask("POST", self._path(kind), json=body)

    async def find(self, kind: Kind, name: str) -> Object | None:
        """An object; None if there is none of that name."""
        try:
            return await self._ask("GET", self._path(kind, name))
        except NotFound:
            return None

    async def list(self, kind: Kind, labels: Mapping[str, str]) -> list[Object]:
        """All objects with these labels."""
        selector = ",".join(f"{key}={value}" for key, value in labels.items())
        found = await self._ask("GET", self._path(kind), params={"labelSelector": selector})
        return list(found["items"])

    async def patch(
        self, kind: Kind, name: str, change: Object, *, subresource: str = ""
    ) -> Object:
        """Merge `change` into an object, or into its status (RFC 7386). NotFound without one."""
        path = self._path(kind, name) + (f"/{subresource}" if subresource else "")
        return await self._ask("PATCH", path, json=change, headers={"Content-Type": MERGE_PATCH})

    async def delete(self, kind: Kind, name: str) -> None:
        """Remove an object after all that it owns is gone; nothing if there is none."""
        body = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Foreground"}
        try:
            await self._ask("DELETE", self._path(kind, name), json=body)
        except NotFound:
            return

    def _path(self, kind: Kind, name: str = "") -> str:
        root = "/api" if "/" not in kind.api_version else "/apis"
        path = f"{root}/{kind.api_version}/namespaces/{self.namespace}/{kind.plural}"
        return f"{path}/{name}" if name else path

    async def _ask(self, method: str, path: str, **request: Any) -> Object:
        headers = {**request.pop("headers", {}), **self._authorization()}
        try:
            answer = await self.http.request(method, path, headers=headers, **request)
        except httpx.HTTPError as error:
            raise Unavailable(f"The Kubernetes API can't be reached: {error!r}") from error
        if answer.is_success:
            found: Object = answer.json()
            return found
        raise _error(answer, f"{method} {path}")

    def _authorization(self) -> dict[str, str]:
        """Read each time: Kubernetes changes the token within the hour."""
        if self.token is None:
            return {}
        return {"Authorization": f"Bearer {self.token.read_text().strip()}"}


def _error(answer: httpx.Response, asked: str) -> LearnbackError:
    """Its Status object as one of our errors; what time may mend is Unavailable."""
    try:
        message = str(answer.json()["message"])
    except (ValueError, KeyError, TypeError):
        message = answer.text[:300]
    said = f"Kubernetes answered {answer.status_code} to {asked}: {message}"
    errors: dict[int, type[LearnbackError]] = {
        400: Unprocessable,
        403: Forbidden,
        404: NotFound,
        409: Conflict,
        422: Unprocessable,
    }
    return errors.get(answer.status_code, Unavailable)(said)
