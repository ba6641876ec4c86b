"""The objects of a Kubernetes cluster: named, versioned, stamped, and kept as its API server does.

Taken names and stale versions are refused (409), as is what the kind's admission refuses (422);
status is kept apart where a kind has that subresource; patches are merged (RFC 7386); objects with
finalizers stay until those are gone.
"""

from __future__ import annotations

import copy
import re
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

Object = dict[str, Any]
Admission = Callable[[Object | None, Object], str | None]
"""Gets the old object (None: a new one) and the new; why it is refused, or None."""

NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
REASONS = {400: "BadRequest", 401: "Unauthorized", 403: "Forbidden", 404: "NotFound"} | {
    409: "Conflict",
    410: "Expired",
    415: "UnsupportedMediaType",
    422: "Invalid",
}
FOREGROUND = "foregroundDeletion"


@dataclass
class Served:
    """A kind that the server knows."""

    kind: str
    status: bool = True
    """Whether status is a subresource."""
    namespaced: bool = True
    admission: Admission | None = None
    objects: dict[tuple[str, str], Object] = field(default_factory=dict)
    events: list[tuple[int, str, Object]] = field(default_factory=list)


class Refused(Exception):
    """An answer that is no success."""

    def __init__(self, code: int, message: str, reason: str | None = None) -> None:
        super().__init__(message)
        self.code, self.message, self.reason = code, message, reason or REASONS[code]


class FakeKubernetes:
    """The state. `roles`: the RBAC rules of each token's holder; empty: everybody may do all."""

    def __init__(self) -> None:
        self.kinds: dict[tuple[str, str], Served] = {}
        self.roles: dict[str, list[Object]] = {}
        self.version = 100
        self.url = ""
        self.away = False
        """The server answers 503 to everything."""
        self.lock = threading.RLock()
        self.asked: list[tuple[str, str]] = []
        self.watching: set[str] = set()
        """Kinds that somebody watched."""
        crd = ("apiextensions.k8s.io/v1", "customresourcedefinitions", "CustomResourceDefinition")
        self.serve("v1", "namespaces", "Namespace", namespaced=False)
        self.serve(*crd, namespaced=False)

    def serve(self, api_version: str, plural: str, kind: str, **options: Any) -> Served:
        """Let the server know a kind."""
        self.kinds[api_version, plural] = Served(kind, **options)
        return self.kinds[api_version, plural]

    def all(self, plural: str) -> list[Object]:
        """All objects of a kind, oldest first."""
        with self.lock:
            return [
                copy.deepcopy(found)
                for (_, name), served in self.kinds.items()
                if name == plural
                for found in served.objects.values()
            ]

    def one(self, plural: str, name: str) -> Object:
        """An object that must be there."""
        return next(found for found in self.all(plural) if found["metadata"]["name"] == name)

    # What tests and the fake kubelet do behind the clients' backs.

    def create(self, api_version: str, plural: str, namespace: str, body: Object) -> Object:
        """Make an object."""
        served = self.served(api_version, plural)
        with self.lock:
            made = copy.deepcopy(body)
            metadata = made.setdefault("metadata", {})
            if "name" not in metadata and "generateName" in metadata:
                metadata["name"] = metadata["generateName"] + uuid.uuid4().hex[:5]
            name = metadata.get("name", "")
            if not NAME.fullmatch(name):
                raise Refused(422, f"{plural} {name!r} is invalid: metadata.name")
            if (namespace, name) in served.objects:
                raise Refused(409, f'{plural} "{name}" already exists', "AlreadyExists")
            if served.status:
                made.pop("status", None)
            self._admit(served, None, made)
            stamp = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            metadata |= {"namespace": namespace, "uid": str(uuid.uuid4()), "generation": 1}
            metadata["creationTimestamp"] = stamp
            made |= {"apiVersion": api_version, "kind": served.kind}
            return self._store(served, "ADDED", made)

    def change(
        self,
        api_version: str,
        plural: str,
        namespace: str,
        name: str,
        patch: Object,
        *,
        subresource: str = "",
    ) -> Object:
        """Merge a patch into an object or its subresource."""
        served = self.served(api_version, plural)
        with self.lock:
            old = self.get(served, plural, namespace, name)
            wanted = patch.get("metadata", {}).get("resourceVersion")
            if wanted is not None and wanted != old["metadata"]["resourceVersion"]:
                raise Refused(409, f'{plural} "{name}": the object has been modified')
            new = merged(copy.deepcopy(old), patch)
            if subresource == "status":
                new = {**copy.deepcopy(old), "status": new.get("status", {})}
            elif served.status:
                new.pop("status", None)
                if "status" in old:
                    new["status"] = old["status"]
            self._admit(served, old, new)
            for key in ("name", "namespace", "uid", "creationTimestamp", "deletionTimestamp"):
                if key in old["metadata"]:
                    new["metadata"][key] = old["metadata"][key]
            new["metadata"]["generation"] = old["metadata"]["generation"]
            if new == old:
                return copy.deepcopy(old)
            if new.get("spec") != old.get("spec"):
                new["metadata"]["generation"] += 1
            if "deletionTimestamp" in new["metadata"] and not new["metadata"].get("finalizers"):
                return self._remove(served, namespace, name)
            return self._store(served, "MODIFIED", new)

    def delete(
        self, api_version: str, plural: str, namespace: str, name: str, policy: str = "Background"
    ) -> Object:
        """Delete an object, or mark it where finalizers hold it."""
        served = self.served(api_version, plural)
        with self.lock:
            found = copy.deepcopy(self.get(served, plural, namespace, name))
            metadata = found["metadata"]
            if policy == "Foreground" and FOREGROUND not in metadata.get("finalizers", []):
                metadata["finalizers"] = [*metadata.get("finalizers", []), FOREGROUND]
            if not metadata.get("finalizers"):
                return self._remove(served, namespace, name)
            metadata.setdefault("deletionTimestamp", datetime.now(UTC).isoformat())
            return self._store(served, "MODIFIED", found)

    def release(self, api_version: str, plural: str, namespace: str, name: str) -> None:
        """What the garbage collector does once all that an object owns is gone."""
        served = self.served(api_version, plural)
        with self.lock:
            found = self.get(served, plural, namespace, name)
            kept = [f for f in found["metadata"].get("finalizers", []) if f != FOREGROUND]
            self.change(
                api_version, plural, namespace, name, {"metadata": {"finalizers": kept or None}}
            )

    def served(self, api_version: str, plural: str) -> Served:
        served = self.kinds.get((api_version, plural))
        if served is None:
            raise Refused(404, "the server could not find the requested resource")
        return served

    def get(self, served: Served, plural: str, namespace: str, name: str) -> Object:
        found = served.objects.get((namespace, name))
        if found is None:
            raise Refused(404, f'{plural} "{name}" not found')
        return found

    def _admit(self, served: Served, old: Object | None, new: Object) -> None:
        why = served.admission(old, new) if served.admission else None
        if why:
            raise Refused(422, why)

    def _store(self, served: Served, event: str, new: Object) -> Object:
        self.version += 1
        new["metadata"]["resourceVersion"] = str(self.version)
        served.objects[new["metadata"]["namespace"], new["metadata"]["name"]] = new
        served.events.append((self.version, event, copy.deepcopy(new)))
        return copy.deepcopy(new)

    def _remove(self, served: Served, namespace: str, name: str) -> Object:
        gone = served.objects.pop((namespace, name))
        self.version += 1
        served.events.append((self.version, "DELETED", copy.deepcopy(gone)))
        return copy.deepcopy(gone)


def merged(target: Any, patch: Any) -> Any:
    """RFC 7386."""
    if not isinstance(patch, dict):
        return patch
    target = target if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            target.pop(key, None)
        else:
            target[key] = merged(target.get(key), value)
    return target
