"""Admission by a CustomResourceDefinition: its structural schema, and its CEL rules."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import cel
import jsonschema
from tests.fake_cluster.state import Admission, Object

TRANSITION = "oldSelf"
"""A rule that names it is checked on updates only, of what was there before."""


def admission_of(crd: Object) -> Admission:
    """What the API server refuses for the first version of a CRD."""
    schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]

    def admit(old: Object | None, new: Object) -> str | None:
        try:
            jsonschema.validate(new, schema)
        except jsonschema.ValidationError as error:
            return f"{error.json_path}: {error.message}"
        return next(broken(schema, old, new), None)

    return admit


def broken(schema: Object, old: Any, new: Any) -> Iterator[str]:
    """Messages of the CEL rules that do not hold, from the outside in."""
    for rule in schema.get("x-kubernetes-validations", []):
        transition = TRANSITION in rule["rule"]
        if transition and old is None:
            continue
        context = {"self": new} | ({TRANSITION: old} if transition else {})
        if cel.evaluate(rule["rule"], context) is not True:
            yield rule["message"]
    for name, inner in schema.get("properties", {}).items():
        if isinstance(new, dict) and name in new:
            before = old.get(name) if isinstance(old, dict) else None
            yield from broken(inner, before, new[name])


def unstructural(schema: Object, path: str = "") -> Iterator[str]:
    """Where a schema is not structural: every place has a type, no boolean schemas, no $ref."""
    if not isinstance(schema, dict) or "$ref" in schema:
        yield path
        return
    if "type" not in schema and not schema.get("x-kubernetes-int-or-string"):
        yield path
    if "properties" in schema and "additionalProperties" in schema:
        yield f"{path}: both properties and additionalProperties"
    for name, inner in schema.get("properties", {}).items():
        yield from unstructural(inner, f"{path}.{name}")
    if schema.get("type") == "array":
        yield from unstructural(schema.get("items", {}), f"{path}[]")
