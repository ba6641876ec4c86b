"""Rights in the cluster: named one by one, in the own namespace only."""

from __future__ import annotations

from typing import Any

import pytest
from tests.chart.rendering import Object, has_token, of_kind, pods, render


def problems(found: list[Object]) -> list[str]:
    """What is too much in roles, or leads nowhere in their bindings."""
    wrong = [f"{one['kind']} is for the whole cluster" for one in found if "Cluster" in one["kind"]]
    for role in of_kind(found, "Role"):
        for rule in role.get("rules", []):
            listed = [*rule["apiGroups"], *rule["resources"], *rule["verbs"]]
            if "*" in listed:
                wrong.append(f"wildcard in {role['metadata']['name']}")
            if "secrets" in rule["resources"]:
                wrong.append(f"secrets in {role['metadata']['name']}")
    roles = {role["metadata"]["name"] for role in of_kind(found, "Role")}
    accounts = {one["metadata"]["name"] for one in of_kind(found, "ServiceAccount")}
    for binding in of_kind(found, "RoleBinding"):
        if binding["roleRef"]["name"] not in roles:
            wrong.append(f"no role {binding['roleRef']['name']}")
        wrong += [
            f"no account {s['name']}" for s in binding["subjects"] if s["name"] not in accounts
        ]
    return wrong


def test_rights_are_named_and_bound_to_accounts_that_are_there(scenario: str) -> None:
    assert problems(render(scenario)) == []


@pytest.mark.parametrize(
    "rule",
    [
        {"apiGroups": ["batch"], "resources": ["*"], "verbs": ["get"]},
        {"apiGroups": ["batch"], "resources": ["jobs"], "verbs": ["*"]},
        {"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]},
    ],
    ids=str,
)
def test_a_wildcard_would_be_found(rule: dict[str, Any]) -> None:
    assert problems([{"kind": "Role", "metadata": {"name": "x"}, "rules": [rule]}])


def test_a_binding_to_nobody_would_be_found() -> None:
    binding = {"kind": "RoleBinding", "roleRef": {"name": "x"}, "subjects": [{"name": "y"}]}
    assert problems([binding]) == ["no role x", "no account y"]


def test_only_pods_that_have_rights_get_a_token(scenario: str) -> None:
    found = render(scenario)
    bound = {s["name"] for b in of_kind(found, "RoleBinding") for s in b["subjects"]}
    for pod in pods(found):
        if pod.spec["serviceAccountName"] in bound:
            continue
        if pod.labels["app.kubernetes.io/component"] not in {"retraining", "operator"}:
            assert not has_token(pod, found), pod.name
