"""The chart as real Helm renders it: objects, and the pods in them."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from tests.kubernetes_tools import tool

CHART = Path(__file__).parents[2] / "charts" / "learnback"
RELEASE, NAMESPACE = "demo", "loop"
OLDEST, NEWEST = "1.30", "1.37"
"""The range that the chart supports: Chart.yaml's kubeVersion, and the newest with schemas."""
NEEDS = re.compile(r"^# kubernetes: (\S+)$", re.MULTILINE)

Object = dict[str, Any]


def scenarios() -> list[str]:
    """The names of all files `ci/<name>-values.yaml`."""
    return sorted(p.name.removesuffix("-values.yaml") for p in (CHART / "ci").glob("*-values.yaml"))


def values_file(scenario: str) -> Path:
    return CHART / "ci" / f"{scenario}-values.yaml"


def versions(scenario: str) -> tuple[str, str]:
    """The oldest and the newest Kubernetes that a scenario is for."""
    needs = NEEDS.search(values_file(scenario).read_text())
    return (needs.group(1) if needs else OLDEST), NEWEST


POD = ("spec", "template")
"""Where the template of a pod is in what makes pods."""


class HelmFailed(Exception):
    """What Helm said on its way out."""


def helm(*arguments: str) -> str:
    """Helm's standard output."""
    done = subprocess.run(
        [tool("helm"), *arguments], capture_output=True, text=True, check=False, timeout=60
    )
    if done.returncode != 0:
        raise HelmFailed(done.stderr + done.stdout)
    return done.stdout


def template(*arguments: str, kube: str = NEWEST) -> str:
    """The manifests of the chart as text."""
    named = [RELEASE, str(CHART), "--namespace", NAMESPACE]
    return helm("template", *named, "--kube-version", kube, *arguments)


@cache
def manifests(scenario: str, kube: str = NEWEST) -> str:
    return template("--values", str(values_file(scenario)), kube=kube)


def objects(text: str) -> list[Object]:
    return [found for found in yaml.safe_load_all(text) if found]


@cache
def _rendered(scenario: str) -> str:
    return json.dumps(objects(manifests(scenario)))


def render(scenario: str) -> list[Object]:
    """The objects of a scenario; a fresh copy each time."""
    found: list[Object] = json.loads(_rendered(scenario))
    return found


def render_with(*settings: str, scenario: str = "minimal", json_settings: bool = False) -> Any:
    """The objects of a scenario with `--set` or `--set-json`."""
    flag = "--set-json" if json_settings else "--set"
    return objects(
        template("--values", str(values_file(scenario)), *(f"{flag}={s}" for s in settings))
    )


def component(found: Object) -> str:
    return str(found["metadata"]["labels"]["app.kubernetes.io/component"])


def of_kind(found: list[Object], kind: str) -> list[Object]:
    return [one for one in found if one["kind"] == kind]


def by_component(found: list[Object], kind: str) -> dict[str, Object]:
    """The objects of a kind by component; there may be one of each only."""
    chosen = {component(one): one for one in of_kind(found, kind)}
    assert len(chosen) == len(of_kind(found, kind)), f"two of kind {kind} in one component"
    return chosen


@dataclass(frozen=True)
class Pod:
    """A pod or the template of one."""

    owner: Object
    metadata: Object
    spec: Object

    @property
    def labels(self) -> dict[str, str]:
        found: dict[str, str] = self.metadata.get("labels", {})
        return found

    @property
    def name(self) -> str:
        # a training run's object gets its name from the retraining process
        return f"{self.owner['kind']}/{self.owner['metadata'].get('name', 'of a run')}"

    @property
    def containers(self) -> list[Object]:
        return [*self.spec.get("initContainers", []), *self.spec["containers"]]


def pods(found: list[Object]) -> Iterator[Pod]:
    """Every pod that the objects make, also those of Jobs in ConfigMaps."""
    for one in [*found, *objects_in_config_maps(found)]:
        spec = one.get("spec", {})
        if one["kind"] == "JobSet":
            templates = [_deep(job, "template", *POD) for job in spec["replicatedJobs"]]
        elif one["kind"] == "TrainJob":
            templates = [_patched(spec)]
        else:
            path = {"Pod": (), "CronJob": ("spec", "jobTemplate", *POD)}.get(one["kind"], POD)
            templates = [_deep(one, *path)]
        for template in templates:
            if isinstance(template, dict) and "containers" in template.get("spec", {}):
                yield Pod(one, template.get("metadata", {}), template["spec"])


def _patched(spec: Object) -> Object:
    """The pod of a TrainJob, as far as that says: what it patches, with what it says of the trainer
    in the one container. The rest is the runtime's; no more can be patched."""
    (patch,) = spec["runtimePatches"]
    (job,) = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    pod: Object = _deep(job, "template", *POD)
    (container,) = pod["spec"]["containers"]
    trainer = spec["trainer"]
    told = {key: trainer[key] for key in ("image", "command", "env") if key in trainer}
    whole = {**container, **told, "resources": trainer["resourcesPerNode"]}
    return {**pod, "spec": {**pod["spec"], "containers": [whole]}}


def has_token(pod: Pod, found: list[Object]) -> bool:
    """Whether it gets a token: as it says, else as its account says."""
    own = pod.spec.get("automountServiceAccountToken")
    accounts = {one["metadata"]["name"]: one for one in of_kind(found, "ServiceAccount")}
    given = accounts[pod.spec["serviceAccountName"]]["automountServiceAccountToken"]
    return bool(given if own is None else own)


def _deep(found: Any, *path: str) -> Any:
    for key in path:
        found = found.get(key, {}) if isinstance(found, dict) else {}
    return found


def objects_in_config_maps(found: list[Object]) -> Iterator[Object]:
    for config in of_kind(found, "ConfigMap"):
        for name, text in config.get("data", {}).items():
            if name.endswith((".yaml", ".yml", ".json")):
                for inner in objects(text):
                    if isinstance(inner, dict) and "kind" in inner:
                        yield inner


def environment(container: Object) -> dict[str, str | None]:
    """A container's environment; None where a value comes from elsewhere."""
    return {entry["name"]: entry.get("value") for entry in container.get("env", [])}
