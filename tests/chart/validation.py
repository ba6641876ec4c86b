"""Objects against the schemas of Kubernetes, strictly; kinds of others against ours."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
from kubernetes_validate import utils
from tests.chart.rendering import Object, pods

SCHEMAS = Path(__file__).parent / "crd_schemas"
"""Written by hand from the reference of each custom resource: the fields that the chart uses."""

_read = utils.schema_contents


@cache
def _cached(filename: str, desired_version: str) -> Any:
    return _read(filename, desired_version)


utils.schema_contents = _cached  # it reads a megabyte of definitions for every object


def problem(found: Object, version: str) -> str | None:
    """What is wrong with an object for a version of Kubernetes; None if nothing is."""
    custom = SCHEMAS / f"{found['kind']}.json"
    try:
        if custom.is_file():
            jsonschema.Draft202012Validator(json.loads(custom.read_text())).validate(found)
        for one in _inner(found) if custom.is_file() else [found]:
            _validate(json.dumps(one, sort_keys=True), version)
    except (jsonschema.ValidationError, kubernetes_validate.ValidationError) as error:
        return f"{'.'.join(map(str, error.path))}: {error.message}"
    except kubernetes_validate.SchemaNotFoundError as error:
        return f"{error.message}: write one in {SCHEMAS.name}/"
    return None


def _inner(found: Object) -> Iterator[Object]:
    """Objects of Kubernetes' own kinds that custom ones make: their schemas are checked by that."""
    metadata = {"name": "made"}
    if found["kind"] == "JobSet":
        for job in found["spec"]["replicatedJobs"]:
            spec = job["template"]["spec"]
            yield {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": spec}
    elif found["kind"] == "TrainJob":
        for pod in pods([found]):
            whole = {**pod.metadata, **metadata}
            yield {"apiVersion": "v1", "kind": "Pod", "metadata": whole, "spec": pod.spec}


@cache
def _validate(text: str, version: str) -> None:
    kubernetes_validate.validate(json.loads(text), version, strict=True)
