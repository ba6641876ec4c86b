"""Training jobs as Kubernetes Jobs (or JobSets, or TrainJobs), one a run, made from a template.

The object's name is the run's, so whoever comes after a crash of this process finds it, and two of
one run can't be. Its pods share the run's folder with us on a volume: progress and results come
through the files of plan.py as everywhere, and the pods need no credentials. Kubernetes tries
again by itself; what it gives up is final. See decision 0010.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from learnback.core.clock import now
from learnback.core.errors import Conflict
from learnback.core.kubernetes import JOB, JOB_SET, POD, TRAIN_JOB, Cluster, Kind, Object
from learnback.retraining.launcher import JobStatus, Vital, meant, read_progress
from learnback.retraining.plan import RESULT_FILE, ExitCode, is_final

log = logging.getLogger(__name__)

RUN_LABEL = "learnback.dev/run"
"""On the object and on its pods: the object's name."""
KINDS = {(kind.api_version, kind.name): kind for kind in (JOB, JOB_SET, TRAIN_JOB)}
DONE, FAILED = ("Complete", "Completed"), ("Failed",)
"""Conditions that end an object: Jobs and TrainJobs complete, JobSets are completed."""
RESULT_WAIT_S = 120.0
"""How long the result of a complete Job may take to show here: NFS caches for up to a minute."""
DNS_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


class KubernetesLauncher:
    """Jobs as objects of the cluster that this process runs in."""

    def __init__(self, cluster: Cluster, template: Path) -> None:
        self.cluster = cluster
        self.template = template

    async def start(self, folder: Path) -> None:
        """Make the run's object, unless it is there. An ended one is removed first; the next
        call makes it anew.
        """
        manifest = manifest_of(self._read(), folder)
        kind, name = _kind_of(manifest), object_name(folder)
        there = await self.cluster.find(kind, name)
        if there is None:
            try:
                await self.cluster.create(kind, manifest)
                log.info("%s %s is made", kind.name, name)
            except Conflict:
                log.info("%s %s is there already", kind.name, name)
        elif _ended(there) and not _deleting(there):
            await self.cluster.delete(kind, name)

    async def status(self, folder: Path) -> JobStatus:
        """How the job of that folder fares, whoever started it."""
        progress, done = read_progress(folder), (folder / RESULT_FILE).is_file()
        name = object_name(folder)
        found = await self.cluster.find(self._kind(), name)
        if found is not None and _deleting(found):
            return JobStatus(Vital.ALIVE, progress=progress, note="the object is being removed")
        if done:
            return JobStatus(Vital.ENDED, ExitCode.DONE, progress, note="complete")
        if found is None:
            return JobStatus(Vital.ABSENT, progress=progress)
        if failed := _condition(found, FAILED):
            code = meant(exit_code(await self._pods(name)) or ExitCode.INTERNAL, progress)
            return JobStatus(Vital.ENDED, code, progress, note=_said(failed), final=True)
        if complete := _condition(found, DONE):
            if _age_s(complete) > RESULT_WAIT_S:
                note = f"complete, but {RESULT_FILE} is not on the volume"
                return JobStatus(Vital.ENDED, ExitCode.INTERNAL, progress, note=note, final=True)
            return JobStatus(Vital.ALIVE, progress=progress, note="complete; waiting for its files")
        note = "suspended: it waits in its queue"
        if not _suspended(found):
            note = waiting_for(await self._pods(name))
        return JobStatus(Vital.ALIVE, progress=progress, note=note)

    async def stop(self, folder: Path, *, grace_s: float) -> None:
        """Remove the object and its pods, which save within their own grace period. Idempotent.

        `grace_s` is not used: the template's terminationGracePeriodSeconds is what pods get.
        """
        await self.cluster.delete(self._kind(), object_name(folder))

    async def leave(self, folder: Path, *, grace_s: float) -> None:
        """Nothing: the job goes on without us, and our next start finds it by its name."""
        await asyncio.sleep(0)

    def _read(self) -> Object:
        """The template; read each time, so that an upgrade's takes effect with the next run."""
        template: Object = json.loads(self.template.read_text())
        return template

    def _kind(self) -> Kind:
        return _kind_of(self._read())

    async def _pods(self, name: str) -> list[Object]:
        return await self.cluster.list(POD, {RUN_LABEL: name})


def object_name(folder: Path) -> str:
    """The name of a run's object: `run_0193...` is `run-0193...`. ValueError if none can be."""
    name = folder.name.lower().replace("_", "-")
    if not DNS_LABEL.fullmatch(name):
        raise ValueError(f"{folder.name!r} can't name a Kubernetes object")
    return name


def manifest_of(template: Object, folder: Path) -> Object:
    """The template with `${RUN_ID}`, `${RUN_FOLDER}` and `${RUN_NAME}` (the id as a DNS label)
    filled in, and named and labelled.
    """
    name = object_name(folder)
    words = {"${RUN_ID}": folder.name, "${RUN_NAME}": name, "${RUN_FOLDER}": str(folder.absolute())}
    manifest: Object = _filled(template, words)
    metadata = manifest.setdefault("metadata", {})
    metadata["name"] = name
    metadata["labels"] = {**metadata.get("labels", {}), RUN_LABEL: name}
    return manifest


def _filled(value: Any, words: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _filled(inner, words) for key, inner in value.items()}
    if isinstance(value, list):
        return [_filled(inner, words) for inner in value]
    if isinstance(value, str):
        for word, text in words.items():
            value = value.replace(word, text)
    return value


def _kind_of(manifest: Object) -> Kind:
    named = str(manifest.get("apiVersion")), str(manifest.get("kind"))
    if named not in KINDS:
        known = ", ".join(f"{version} {kind}" for version, kind in KINDS)
        raise ValueError(f"The job template is a {' '.join(named)}; it must be one of: {known}")
    return KINDS[named]


def exit_code(pods: Iterable[Object]) -> int | None:
    """How the pod that failed last ended; what is final counts before all, as its Job's policy
    does.

    None if no pod says: it never ran, or it is gone.
    """
    ends = [end for pod in pods for end in _ends(pod) if end["exitCode"] != ExitCode.DONE]
    for end in ends:
        if is_final(end["exitCode"]):
            return int(end["exitCode"])
    last = max(ends, key=lambda end: str(end.get("finishedAt") or ""), default=None)
    return None if last is None else int(last["exitCode"])


def _ends(pod: Object) -> list[Object]:
    statuses = pod.get("status", {}).get("containerStatuses") or []
    ended = (status.get("state", {}).get("terminated") for status in statuses)
    return [end for end in ended if end]


def waiting_for(pods: Iterable[Object]) -> str:
    """What a job that has not ended is doing, by its newest pod, in one line."""
    newest = max(pods, key=lambda pod: str(pod["metadata"].get("creationTimestamp")), default=None)
    if newest is None:
        return "it waits for its pod"
    status = newest.get("status", {})
    if status.get("phase") == "Running":
        return f"running on {newest.get('spec', {}).get('nodeName', 'a node')}"
    for container in status.get("containerStatuses") or []:
        waiting = container.get("state", {}).get("waiting")
        if waiting:
            return f"its pod waits: {_said(waiting)}"
    unscheduled = _condition(newest, ("PodScheduled",), wanted="False")
    return f"its pod waits: {_said(unscheduled)}" if unscheduled else "its pod starts"


def _condition(found: Object, types: Iterable[str], *, wanted: str = "True") -> Object | None:
    for condition in found.get("status", {}).get("conditions") or []:
        if condition["type"] in types and condition["status"] == wanted:
            return dict(condition)
    return None


def _ended(found: Object) -> bool:
    return _condition(found, (*DONE, *FAILED)) is not None


def _suspended(found: Object) -> bool:
    return bool(found.get("spec", {}).get("suspend"))


def _deleting(found: Object) -> bool:
    return "deletionTimestamp" in found["metadata"]


def _said(condition: Object) -> str:
    return ": ".join(str(condition[key]) for key in ("reason", "message") if condition.get(key))


def _age_s(condition: Object) -> float:
    at = condition.get("lastTransitionTime")
    return (now() - datetime.fromisoformat(at)).total_seconds() if at else 0.0
