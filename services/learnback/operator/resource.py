"""ModelRelease objects: how a version becomes one, and what one wishes. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from learnback.core.kubernetes import Kind, Object
from learnback.operator.releases import AWAITING_APPROVAL, PROMOTED, Line

GROUP, VERSION, PLURAL = "learnback.dev", "v1alpha1", "modelreleases"
MODEL_RELEASE = Kind(f"{GROUP}/{VERSION}", "ModelRelease", PLURAL)
MIRRORED = "learnback.dev/mirrored"
"""Label of objects that the operator made: of these nobody asked for a canary."""
ACCEPTED, READY = "Accepted", "Ready"
LONGEST_REASON = 1000


@dataclass(frozen=True)
class Condition:
    """One condition, before it has its time."""

    type: str
    status: bool
    reason: str
    message: str


def object_of(line: Line) -> Object:
    """The object that mirrors a version which has none."""
    return {
        "apiVersion": MODEL_RELEASE.api_version,
        "kind": MODEL_RELEASE.name,
        "metadata": {"name": object_name(line.name), "labels": {MIRRORED: "true"}},
        "spec": {"version": line.name},
    }


def object_name(version: str) -> str:
    """A version's name as the name of an object (RFC 1123, at most 253 characters)."""
    return re.sub(r"[^a-z0-9.-]", "-", version.lower()).strip(".-")[:253]


def wants_canary(found: Object) -> bool:
    """Whether somebody made the object, and the release process has not been asked yet."""
    mirrored = found["metadata"].get("labels", {}).get(MIRRORED) == "true"
    return not mirrored and not _accepted(found)


def decision(found: Object, line: Line | None) -> tuple[bool, str] | None:
    """The yes or no of an object to a version that waits for one, and its reason."""
    approval = found["spec"].get("approval") or {}
    if line is None or line.phase != AWAITING_APPROVAL or "approved" not in approval:
        return None
    by = f" (by {approval['by']})" if approval.get("by") else ""
    reason = f"{approval.get('reason') or 'no reason given'}{by}, in ModelRelease"
    return bool(approval["approved"]), f"{reason} {found['metadata']['name']}"[:LONGEST_REASON]


def status_of(found: Object, line: Line | None, accepted: Condition, at: datetime) -> Object:
    """The whole status of an object, after the conventions of the Kubernetes API."""
    if line is None:
        ready = Condition(READY, False, "Unknown", "The release process knows no such version.")
        told: Object = dict.fromkeys(("phase", "verdict", "track", "weight", "reasons"))
    else:
        message = "; ".join(line.reasons)[:LONGEST_REASON] or f"It is {line.phase}."
        ready = Condition(READY, line.phase == PROMOTED, line.phase, message)
        told = {
            "phase": line.phase,
            "verdict": line.verdict,
            "track": line.track,
            "weight": f"{100 * line.weight:g}%",
            "reasons": list(line.reasons) or None,
        }
    generation = found["metadata"]["generation"]
    before = {c["type"]: c for c in found.get("status", {}).get("conditions") or []}
    conditions = [_stamped(c, before.get(c.type), generation, at) for c in (accepted, ready)]
    return {**told, "observedGeneration": generation, "conditions": conditions}


def changed(found: Object, status: Object) -> bool:
    """Whether a status says something new; None stands for a field that is not there."""
    there = found.get("status") or {}
    return any(there.get(key) != value for key, value in status.items())


def earlier(found: Object) -> Condition:
    """What the object says of its acceptance already; before anything was asked: mirrored."""
    for condition in found.get("status", {}).get("conditions") or []:
        if condition["type"] == ACCEPTED:
            told = condition["reason"], condition["message"]
            return Condition(ACCEPTED, condition["status"] == "True", *told)
    return Condition(ACCEPTED, True, "Mirrored", "It shows a version; nobody asked for it here.")


def _accepted(found: Object) -> bool:
    return any(
        c["type"] == ACCEPTED and c["status"] == "True"
        for c in found.get("status", {}).get("conditions") or []
    )


def _stamped(
    condition: Condition, before: Mapping[str, Any] | None, generation: int, at: datetime
) -> Object:
    """The time moves only when the condition's status does."""
    status = "True" if condition.status else "False"
    same = before is not None and before["status"] == status
    stamp = at.strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "type": condition.type,
        "status": status,
        "reason": condition.reason,
        "message": condition.message,
        "observedGeneration": generation,
        "lastTransitionTime": before["lastTransitionTime"] if before and same else stamp,
    }
