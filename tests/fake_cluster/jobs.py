"""The Job controller and the kubelet: pods of Jobs as processes of this machine.

Follows the Job's own rules: suspend, backoffLimit, podFailurePolicy (FailJob and Ignore, by exit
code and DisruptionTarget), podReplacementPolicy Failed, foreground deletion, SIGTERM and grace.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from tests.fake_cluster.state import FOREGROUND, FakeKubernetes, Object

JOBS, PODS = ("batch/v1", "jobs"), ("v1", "pods")
TICK_S = 0.02


@dataclass
class Running:
    """A pod's process."""

    process: subprocess.Popen[bytes]
    terminated_at: float | None = None


class JobController:
    """Runs the Jobs of a FakeKubernetes until it is closed; `python3` in them is this Python."""

    def __init__(self, state: FakeKubernetes, env: dict[str, str] | None = None) -> None:
        self.state = state
        self.env = env or {}
        self.running: dict[str, Running] = {}
        self.closed = threading.Event()
        self.errors: list[Exception] = []
        self.thread = threading.Thread(target=self._run, daemon=True)
        state.serve(*JOBS, "Job")
        state.serve(*PODS, "Pod")
        self.thread.start()

    def close(self) -> None:
        """Stop, and kill what runs. Raises what went wrong in here."""
        self.closed.set()
        self.thread.join(10)
        for running in self.running.values():
            running.process.kill()
            running.process.wait()
        if self.errors:
            raise self.errors[0]

    def evict(self, pod: Object) -> None:
        """What a node's drain does to a pod: DisruptionTarget, then SIGTERM."""
        condition = {
            "type": "DisruptionTarget",
            "status": "True",
            "reason": "EvictionByEvictionAPI",
        }
        self._set_status(PODS, pod, {"conditions": [condition]})
        self.running[pod["metadata"]["name"]].process.send_signal(signal.SIGTERM)

    def _run(self) -> None:
        while not self.closed.wait(TICK_S):
            try:
                for job in self.state.all("jobs"):
                    self._sync(job)
            except Exception as error:
                self.errors.append(error)
                return

    def _sync(self, job: Object) -> None:
        pods = self._pods(job)
        live = [pod for pod in pods if pod["metadata"]["name"] in self.running]
        for pod in live:
            self._look(pod)
        if "deletionTimestamp" in job["metadata"]:
            self._take_down(job, live)
        elif ended(job):
            return
        elif job["spec"].get("suspend"):
            self._terminate(live)
        elif not live:
            self._decide(job, pods)

    def _decide(self, job: Object, pods: list[Object]) -> None:
        """Nothing runs: the Job is over, or gets its next pod."""
        pods = self._pods(job)  # one may have ended a moment ago
        if any(pod["status"]["phase"] == "Succeeded" for pod in pods):
            self._end(job, "Complete", "CompletionsReached", "")
            return
        failures = 0
        for pod in pods:
            action, why = judged(job, pod)
            if action == "FailJob":
                self._end(job, "Failed", "PodFailurePolicy", why)
                return
            failures += action == "Count"
        if failures > job["spec"].get("backoffLimit", 6):
            why = "Job has reached the specified backoff limit"
            self._end(job, "Failed", "BackoffLimitExceeded", why)
            return
        self._start(job)

    def _start(self, job: Object) -> None:
        template = job["spec"]["template"]
        labels = template.get("metadata", {}).get("labels", {})
        pod = self.state.create(
            *PODS,
            job["metadata"]["namespace"],
            {
                "metadata": {
                    "generateName": f"{job['metadata']['name']}-",
                    "labels": labels | {"batch.kubernetes.io/job-name": job["metadata"]["name"]},
                },
                "spec": template["spec"] | {"nodeName": "node-1"},
            },
        )
        container = template["spec"]["containers"][0]
        command = [*container.get("command", []), *container.get("args", [])]
        given = {e["name"]: e["value"] for e in container.get("env", []) if "value" in e}
        self.running[pod["metadata"]["name"]] = Running(
            subprocess.Popen(
                [sys.executable if part == "python3" else part for part in command],
                env=os.environ | given | self.env,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        )
        self._set_status(PODS, pod, {"phase": "Running"})

    def _look(self, pod: Object) -> None:
        """Note how a pod ended; kill it after its grace period."""
        name = pod["metadata"]["name"]
        running = self.running[name]
        code = running.process.poll()
        if code is None:
            grace = pod["spec"].get("terminationGracePeriodSeconds", 30)
            at = running.terminated_at
            if at is not None and datetime.now(UTC).timestamp() - at > grace:
                running.process.kill()
            return
        del self.running[name]
        end = {"exitCode": code if code >= 0 else 128 - code, "finishedAt": now()}
        container = {"name": pod["spec"]["containers"][0]["name"], "state": {"terminated": end}}
        phase = "Failed" if code else "Succeeded"
        self._set_status(PODS, pod, {"phase": phase, "containerStatuses": [container]})

    def _take_down(self, job: Object, live: list[Object]) -> None:
        self._terminate(live)
        if self._pods_running(job):
            return
        where = job["metadata"]["namespace"]
        for pod in self._pods(job):
            self.state.delete(*PODS, where, pod["metadata"]["name"])
        if FOREGROUND in job["metadata"].get("finalizers", []):
            self.state.release(*JOBS, where, job["metadata"]["name"])

    def _terminate(self, live: list[Object]) -> None:
        for pod in live:
            running = self.running.get(pod["metadata"]["name"])
            if running is not None and running.terminated_at is None:
                running.terminated_at = datetime.now(UTC).timestamp()
                running.process.send_signal(signal.SIGTERM)

    def _pods(self, job: Object) -> list[Object]:
        label, name = "batch.kubernetes.io/job-name", job["metadata"]["name"]
        return [p for p in self.state.all("pods") if p["metadata"]["labels"].get(label) == name]

    def _pods_running(self, job: Object) -> bool:
        return any(pod["metadata"]["name"] in self.running for pod in self._pods(job))

    def _end(self, job: Object, kind: str, reason: str, message: str) -> None:
        condition = {"type": kind, "status": "True", "reason": reason, "message": message}
        self._set_status(JOBS, job, {"conditions": [condition | {"lastTransitionTime": now()}]})

    def _set_status(self, kind: tuple[str, str], found: Object, status: Object) -> None:
        at = found["metadata"]["namespace"], found["metadata"]["name"]
        self.state.change(*kind, *at, {"status": status}, subresource="status")


def judged(job: Object, pod: Object) -> tuple[str, str]:
    """What the podFailurePolicy says of a failed pod (Count without one), and why."""
    end: Any = pod["status"]["containerStatuses"][0]["state"]["terminated"]
    conditions = {c["type"] for c in pod["status"].get("conditions", []) if c["status"] == "True"}
    for index, rule in enumerate(job["spec"].get("podFailurePolicy", {}).get("rules", [])):
        codes = rule.get("onExitCodes")
        by_code = codes is not None and (end["exitCode"] in codes["values"]) == (
            codes["operator"] == "In"
        )
        by_condition = any(c["type"] in conditions for c in rule.get("onPodConditions", []))
        if by_code or by_condition:
            code, at = end["exitCode"], f"{rule['action']} rule at index {index}"
            return rule["action"], f"Container failed with exit code {code} matching {at}"
    return "Count", ""


def ended(job: Object) -> bool:
    """Whether the Job is over."""
    return bool(job.get("status", {}).get("conditions"))


def now() -> str:
    """The time as Kubernetes writes it, finer than it does."""
    return datetime.now(UTC).isoformat()
