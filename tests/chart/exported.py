"""Every metric that there is to ask for: ours, vLLM's, and what a cluster adds."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import pkgutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.metrics import MetricWrapperBase

import learnback

TARGET = frozenset({"job", "instance", "namespace", "pod", "container", "endpoint", "process"})
"""Labels that the PodMonitor gives every series of ours; `process` by a relabeling of the chart."""
PLATFORM = {
    "up": TARGET,  # Prometheus itself
    "kubelet_volume_stats_used_bytes": frozenset({"namespace", "persistentvolumeclaim"}),
    "kubelet_volume_stats_capacity_bytes": frozenset({"namespace", "persistentvolumeclaim"}),
}
"""Not ours to import: the list of what else has to be scraped. docs/operating.md names it too."""
SUFFIXES: dict[str, dict[str, frozenset[str]]] = {
    "counter": {"_total": frozenset()},
    "gauge": {"": frozenset()},
    "histogram": {"_bucket": frozenset({"le"}), "_sum": frozenset(), "_count": frozenset()},
}
"""What Prometheus sees of each type, with the labels that are added."""


@cache
def exported() -> dict[str, frozenset[str]]:
    """Name of each series to the labels that it has."""
    found = dict(PLATFORM)
    for name, kind, labels in (*_ours(), *_of_vllm(), *_of_the_process()):
        for suffix, added in SUFFIXES[kind].items():
            found[name.removesuffix("_total") + suffix] = labels | added | TARGET
    return found


def ours() -> dict[str, set[str]]:
    """The series of each metric that we declare."""
    return {
        name: {name.removesuffix("_total") + suffix for suffix in SUFFIXES[kind]}
        for name, kind, _ in _ours()
    }


def our_modules() -> Iterator[ModuleType]:
    """The modules that declare metrics: `metrics.py` of each process, `*_metrics.py` of core."""
    for module in pkgutil.walk_packages(learnback.__path__, "learnback."):
        last = module.name.rpartition(".")[2]
        if last == "metrics" or last.endswith("_metrics"):
            yield importlib.import_module(module.name)


def _ours() -> Iterator[tuple[str, str, frozenset[str]]]:
    for module in our_modules():
        for value in vars(module).values():
            if isinstance(value, MetricWrapperBase):
                yield value._name, value._type, frozenset(value._labelnames)


def _of_the_process() -> Iterator[tuple[str, str, frozenset[str]]]:
    for family in ProcessCollector(registry=CollectorRegistry()).collect():
        yield family.name, family.type, frozenset()


def _of_vllm() -> Iterator[tuple[str, str, frozenset[str]]]:
    """Read from vLLM's source: importing it takes half a minute. tests/e2e asks a running one."""
    spec = importlib.util.find_spec("vllm")
    assert spec is not None
    assert spec.origin is not None
    source = Path(spec.origin).parent / "v1" / "metrics" / "loggers.py"
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            kind = node.func.attr.removeprefix("_").removesuffix("_cls")
            given = {k.arg: k.value for k in node.keywords}
            name = given.get("name")
            if kind in SUFFIXES and isinstance(name, ast.Constant) and "labelnames" in given:
                yield str(name.value), kind, _label_names(given["labelnames"])


def _label_names(node: ast.expr) -> frozenset[str]:
    """`labelnames` (the model and the engine), with literal ones added or alone."""
    names = {n.value for n in ast.walk(node) if isinstance(n, ast.Constant)}
    if any(isinstance(n, ast.Name) and n.id == "labelnames" for n in ast.walk(node)):
        names |= {"model_name", "engine"}
    return frozenset(map(str, names))
