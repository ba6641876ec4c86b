"""The values: described, closed, used, and refused where they can't work."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

import jsonschema
import pytest
import yaml
from tests.chart.rendering import CHART, HelmFailed, manifests, scenarios, template, values_file


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


write_schema = _load(CHART.parent / "write_schema.py")
VALUES = write_schema.read((CHART / "values.yaml").read_text())
LEAVES = list(write_schema.leaves(VALUES))

CONTEXTS = {
    "image": ["minimal", "gpu"],
    "migrate": ["minimal"],
    "externalRedis": ["external", "keda-external-redis", "existing-secrets"],
    "externalDatabase": ["external", "existing-secrets"],
    "artifacts": ["minimal", "existing-secrets"],
    "model": ["gpu", "many-gpus", "image-volume"],
    "gateway": ["gateway", "cpu"],
    "inference": ["minimal", "gpu", "external-engine", "keda", "hpa", "many-gpus"],
    "feedback": ["keda", "cpu"],
    "reward": ["keda", "cpu"],
    "training": ["many-gpus", "minimal", "gpu", "trainjob"],
    "operator": ["operator", "minimal"],
    "monitoring": ["monitoring"],
    "judge": ["judge"],
    "release": ["minimal", "policy-judge"],
    "neuralRewards": ["judge"],
    "rewardEngine": ["reward-engine", "many-gpus"],
    "networkPolicy": ["minimal", "external", "keda", "external-engine", "operator", "judge"],
}
"""Scenarios in which a block's values can be seen at work; else the smallest one."""
CHANGED = {
    "training.schedule": "@hourly",
    "training.jobSet.replicas": 3,
    "training.trainJob.nodes": 3,
    "valkey.enabled": False,
    "model.volume.image": "other:2",
    "model.volume.existingClaim": "other",
    "artifacts.persistence.accessModes": ["ReadWriteMany"],
    "podSecurityContext": {"runAsUser": 7},
    "model.cache.accessModes": ["ReadWriteMany"],
    "training.checkpoint.accessModes": ["ReadWriteMany"],
    "nameOverride": "other",
    "inference.replicas": 3,
    "inference.engine": "gpu",
    "inference.autoscaling.hpaMetric": "vllm_num_requests_waiting",
    "feedback.autoscaling.enabled": False,
    "reward.autoscaling.enabled": False,
    "neuralRewards.enabled": False,
    "rewardEngine.enabled": False,
    "rewardEngine.gpus": 3,
    "rewardEngine.models.accessModes": ["ReadWriteOnce"],
    "networkPolicy.redis.port": 7777,
    "networkPolicy.database.port": 7777,
    "feedback.replicas": 3,
    "reward.replicas": 3,
    "externalRedis.tls": False,
    "monitoring.podMonitor.enabled": False,
    "monitoring.prometheusRule.enabled": False,
    "monitoring.dashboards.enabled": False,
    "gateway.httpRoute.enabled": False,
    "gateway.inferencePool.enabled": False,
    "heldOutShare": 0.3,
    "release.policyFiles.inline": {"golden.yaml": "[]", "rubric.txt": "short"},
    "monitoring.prometheusRule.disabledAlerts": ["LearnbackNotReady"],
    "monitoring.prometheusRule.severities": {"LearnbackNotReady": "info"},
}
"""Values to try where one can't be made up from the default."""
WITH_GPU = {"resources": {"limits": {"memory": "9Gi", "nvidia.com/gpu": 1}}}
TOGETHER: dict[str, dict[str, Any]] = {
    "valkey.enabled": {"externalRedis": {"url": "redis://elsewhere"}},
    "training.device": {"training": WITH_GPU},
    "neuralRewards.device": {"reward": WITH_GPU, "release": WITH_GPU},
    "networkPolicy.more.to": {"networkPolicy": {"more": {"ports": [4317]}}},
}
"""What must be set beside a value, so that the chart takes it or that it has something to say."""


def test_schema_and_readme_are_written_from_the_values() -> None:
    for path, text in write_schema.render().items():
        assert path.read_text() == text, f"run charts/write_schema.py: {path.name}"


@pytest.mark.parametrize("value", LEAVES, ids=lambda v: ".".join(v.path))
def test_every_value_is_described(value: Any) -> None:
    assert value.description
    assert f"`{'.'.join(value.path)}`" in (CHART / "README.md").read_text()


def test_every_object_of_the_schema_is_closed_or_free_on_purpose() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    free = {".".join(v.path) for v in LEAVES if isinstance(v.default, dict)} | {"global"}
    assert set(_open_objects(schema)) <= free
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"inference": {"replica": 2}}, schema)


def _open_objects(schema: Any, path: str = "") -> list[str]:
    found = [] if schema.get("additionalProperties") is False else [path]
    for name, inner in schema.get("properties", {}).items():
        if inner.get("type") == "object":
            found += _open_objects(inner, f"{path}.{name}".lstrip("."))
    return found


@pytest.mark.parametrize("value", LEAVES, ids=lambda v: ".".join(v.path))
def test_every_value_changes_what_is_rendered(value: Any) -> None:
    name = ".".join(value.path)
    for scenario in CONTEXTS.get(value.path[0], ["minimal"]):
        values = _merged(yaml.safe_load(values_file(scenario).read_text()), TOGETHER.get(name, {}))
        after = _render(_set(values, value.path, CHANGED.get(name, _other(value))))
        # alone, what stands beside the value may be refused
        before = (_render(values) if name in TOGETHER else None) or manifests(scenario)
        if after is not None and _stable(after) != _stable(before):
            return
    pytest.fail(f"nothing changes with {name}")


def _other(value: Any) -> Any:
    """Another value of the same type."""
    for hint in value.hints:
        word, _, rest = hint.partition(" ")
        if word == "enum":
            return next(choice for choice in reversed(rest.split()) if choice != value.default)
        if word == "pattern":
            return f"sha256:{'e' * 64}"
        if word == "list":
            return {"string": ["other"], "integer": [7], "object": [{"name": "other"}]}[rest]
    if isinstance(value.default, bool):
        return not value.default
    if isinstance(value.default, int):
        return value.default + 1
    return {"other": "1"} if isinstance(value.default, dict) else "7Gi"


def _merged(values: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    """Values with more values, as Helm merges them."""
    found = dict(values)
    for name, value in more.items():
        inner = found.get(name)
        nested = isinstance(value, dict) and isinstance(inner, dict)
        found[name] = _merged(inner, value) if nested else value
    return found


def _set(values: dict[str, Any], path: tuple[str, ...], to: Any) -> dict[str, Any]:
    """The one value that is changed, beside what the scenario sets."""
    head, *rest = path
    inner = values.get(head)
    below = inner if isinstance(inner, dict) else {}
    return {**values, head: _set(below, tuple(rest), to) if rest else to}


def _render(values: dict[str, Any]) -> str | None:
    """The manifests; None for a combination that the chart refuses."""
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        yaml.safe_dump(values, file)
        file.flush()
        try:
            return template("--values", file.name)
        except HelmFailed as error:
            if "These values can't work" not in str(error):
                raise
            return None


def _stable(text: str) -> str:
    """Without what is made anew by each rendering: it would differ whatever was changed."""
    made = "release|check|admin|operator|schedule|password|key"
    return re.sub(rf"^  ({made}): [A-Za-z0-9+/=]{{30,}}$", "", text, flags=re.M)


def test_equal_values_are_rendered_alike(scenario: str) -> None:
    """Else the test above could not fail."""
    again = template("--values", str(values_file(scenario)))
    assert again != manifests(scenario) or "existing-secrets" in scenario
    assert _stable(again) == _stable(manifests(scenario))


def test_what_the_chart_does_not_know_is_refused() -> None:
    with pytest.raises(HelmFailed, match="additional properties 'replica' not allowed"):
        template("--set", "feedback.replica=2")
    with pytest.raises(HelmFailed, match=r"/inference/engine"):
        template("--set", "inference.engine=tpu")


REFUSED = {
    "model.name=": "model.name is empty",
    "model.name=/models/x": "nothing is mounted there",
    "model.name=/models/x,model.volume.existingClaim=c,model.volume.image=i": "keep one of",
    "model.volume.existingClaim=c": "must begin with /models",
    "valkey.enabled=false": "There are no streams",
    "externalRedis.url=redis://x": "two places for streams",
    "artifacts.url=file:///tmp": "a folder of a container",
    "artifacts.persistence.accessModes={ReadWriteOncePod}": "shuts out all pods but one",
    "inference.replicas=2": "inference has more than one replica, but the ledger is SQLite",
    "feedback.replicas=2": "feedback has more than one replica, but the ledger is SQLite",
    "reward.autoscaling.enabled=true": "reward has more than one replica",
    "inference.engine=external": "has no engines",
    "inference.externalEngineUrls={http://x}": "set inference.engine=external",
    "inference.rollout.maxUnavailable=0": "lets no pod come and none go",
    "inference.engine=gpu,inference.resources.limits.nvidia\\.com/gpu=1": "set inference.gpus",
    "inference.autoscaling.by=hpa,inference.replicas=1": "would fight inference.autoscaling",
    "inference.autoscaling.by=keda": "set inference.autoscaling.prometheusUrl",
    "inference.autoscaling.minReplicas=9": "minReplicas is above maxReplicas",
    "reward.autoscaling.enabled=true,reward.replicas=1": "would fight reward.autoscaling",
    "feedback.autoscaling.enabled=true,feedback.autoscaling.minReplicas=9": "minReplicas is above",
    "gateway.httpRoute.enabled=true": "belongs to no Gateway",
    "gateway.inferencePool.enabled=true": "needs an endpoint picker",
    "inference.nodeSelector.a=x,training.nodeSelector.a=y": "must share a node with others",
    "release.settings.api_key=x": "release.settings.api_key is set by the chart",
    "release.settings.Policy=x": "names are in lower case, policy",
    "commonLabels.app\\.kubernetes\\.io/instance=x": "use one of your own",
    "commonLabels.learnback\\.dev/data=x": "use one of your own",
    "extraEnv[0].name=LEARNBACK_REDIS_URL": "LEARNBACK_REDIS_URL is in an extraEnv",
    "extraEnv[0].name=HF_HOME": "HF_HOME is in an extraEnv",
    "extraEnv[0].name=LEARNBACK_FEEDBACK_PORT": "LEARNBACK_FEEDBACK_PORT is in an extraEnv",
    "inference.extraEnv[0].name=VLLM_CPU_KVCACHE_SPACE": "VLLM_CPU_KVCACHE_SPACE is in an extraEnv",
    "training.extraEnv[0].name=HF_HOME": "HF_HOME is in an extraEnv",
    "listenHost=127.0.0.1": "use 0.0.0.0 or ::",
    "listenHost=::1": "use 0.0.0.0 or ::",
    "valkey.resources.limits=null": "of which its maxmemory is a share",
    "training.device=gpu": "training.resources.limits has none",
    "neuralRewards.enabled=true,neuralRewards.device=gpu": "release.resources.limits has none",
    "model.cache.enabled=true,model.cache.accessModes={ReadWriteOncePod}": "shuts out every other",
    "training.jobSet.enabled=true,training.jobSet.replicas=2": "mounted on one only",
    "training.jobSet.enabled=true,training.enabled=false": "training.jobSet needs",
    "judge.url=http://j": "set judge.model",
    "judge.rubric=short": "set it, or remove the rest",
    "release.policy.judge.rubric=r.txt": "names r.txt, which nothing brings",
    "release.policy.golden.file=sets/g.yaml": "files lie beside the policy",
    "release.policyFiles.inline.release\\.yaml=x": "which is the policy itself",
    "release.policyFiles.existingSecret=s": "no policy names them",
    "release.judgeKey.existingSecret=s": "told to nobody",
    "training.trainJob.enabled=true,training.trainJob.nodes=2": "mounted on one only",
    "training.trainJob.enabled=true,training.enabled=false": "training.trainJob needs",
    "training.trainJob.enabled=true,training.priorityClassName=p": "set it in the runtime",
    "training.trainJob.enabled=true,training.jobSet.enabled=true": "a run is one of the two",
    "training.schedule=@daily,training.enabled=false": "training.schedule needs",
    "training.checkpoint.accessModes={ReadWriteOncePod}": "shuts out the training Job",
}


@pytest.mark.parametrize("settings", REFUSED)
def test_what_cannot_work_is_refused_with_the_way_out(settings: str) -> None:
    with pytest.raises(HelmFailed, match=re.escape(REFUSED[settings])):
        template("--set", settings)


def test_an_image_volume_is_refused_where_kubernetes_has_none() -> None:
    with pytest.raises(HelmFailed, match=r"needs Kubernetes 1\.33"):
        template("--values", str(values_file("image-volume")), kube="1.32")


@pytest.mark.parametrize("more", ["inference.replicas=2", "inference.rollout.maxSurge=1"])
def test_a_cache_of_one_node_is_refused_for_more_pods_than_one(more: str) -> None:
    apart = "model.cache.enabled=true,externalDatabase.existingSecret=x,artifacts.url=s3://b"
    template("--set", apart)
    with pytest.raises(HelmFailed, match=r"model\.cache can be mounted on one node only"):
        template("--set", f"{apart},{more}")


def test_pods_of_one_node_share_its_cache_while_they_are_replaced() -> None:
    template("--set", "model.cache.enabled=true,inference.rollout.maxSurge=1")


def test_a_runtime_class_may_show_the_gpus_that_no_limit_counts() -> None:
    template("--set", "training.device=gpu,training.runtimeClassName=nvidia")


def test_keda_without_an_address_is_refused() -> None:
    outside = (
        "valkey.enabled=false,externalRedis.existingSecret=r,externalDatabase.existingSecret=d"
    )
    with pytest.raises(HelmFailed, match=r"set externalRedis\.address"):
        template("--set", f"{outside},feedback.autoscaling.enabled=true")


def test_everything_wrong_is_said_at_once() -> None:
    with pytest.raises(HelmFailed) as failed:
        template("--set", "valkey.enabled=false,inference.engine=external,feedback.replicas=3")
    for part in ("no streams", "has no engines", "feedback has more than one replica"):
        assert part in str(failed.value)


def test_scenarios_say_in_their_first_line_what_they_are() -> None:
    for scenario in scenarios():
        text = values_file(scenario).read_text()
        assert text.startswith("# "), scenario
        assert isinstance(yaml.safe_load(text), dict)
