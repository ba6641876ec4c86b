"""Secrets: yours where you name one, made once where you don't, and never in plain elsewhere."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
import yaml
from tests.chart.fake_api import FakeApi
from tests.chart.rendering import (
    CHART,
    HelmFailed,
    Object,
    by_component,
    environment,
    helm,
    manifests,
    objects,
    of_kind,
    pods,
    render,
    render_with,
    values_file,
)

from learnback.ledger.keys import KEY_SHAPE

MADE = {"demo-learnback-api-keys", "demo-learnback-valkey"}


def secrets(found: list[Object]) -> dict[str, Any]:
    return {one["metadata"]["name"]: one for one in of_kind(found, "Secret")}


def decoded(secret: Object) -> dict[str, str]:
    return {name: base64.b64decode(v).decode() for name, v in secret["data"].items()}


def references(found: list[Object]) -> set[str]:
    """The names of all Secrets that pods and scalers use."""
    names = set()
    for pod in pods(found):
        for one in pod.containers:
            for entry in one.get("env", []):
                names.add(entry.get("valueFrom", {}).get("secretKeyRef", {}).get("name"))
        for volume in pod.spec.get("volumes", []):
            names.add(volume.get("secret", {}).get("secretName"))
            for source in volume.get("projected", {}).get("sources", []):
                names.add(source.get("secret", {}).get("name"))
        names |= {secret["name"] for secret in pod.spec.get("imagePullSecrets", [])}
    return names - {None}


def test_with_secrets_of_yours_the_chart_makes_none() -> None:
    found = render("existing-secrets")
    assert secrets(found) == {}
    assert references(found) == {
        "my-api-keys",
        "my-valkey",
        "my-postgres",
        "my-s3",
        "my-hub",
        "my-registry",
    }


def test_every_secret_that_is_used_is_made_or_yours(scenario: str) -> None:
    found = render(scenario)
    for name in references(found):
        assert name in secrets(found) or not name.startswith(("demo-learnback", "lb-")), name


def test_a_password_given_as_a_value_is_in_a_secret_only() -> None:
    for one in render("external"):
        if one["kind"] != "Secret":
            assert "inline-redis-password" not in json.dumps(one), one["metadata"]
            assert "inline-database-password" not in json.dumps(one), one["metadata"]
    assert manifests("external").count("inline-redis-password") == 2  # the release's, the hook's


def test_the_hook_before_an_upgrade_brings_its_own_copy_of_the_urls() -> None:
    found = render("external")
    own = secrets(found)
    copy = own["demo-learnback-connections-migrate"]
    assert copy["stringData"] == own["demo-learnback-connections"]["stringData"]
    assert "pre-upgrade" in copy["metadata"]["annotations"]["helm.sh/hook"]
    (job,) = of_kind(found, "Job")
    used = {
        entry["valueFrom"]["secretKeyRef"]["name"]
        for entry in job["spec"]["template"]["spec"]["initContainers"][0]["env"]
        if "valueFrom" in entry
    }
    assert used == {"demo-learnback-connections-migrate"}


def test_a_changed_url_restarts_the_pods_that_read_it() -> None:
    def annotations(found: list[Object]) -> set[str]:
        deployments = by_component(found, "Deployment").values()
        return {
            d["spec"]["template"]["metadata"]["annotations"]["checksum/connections"]
            for d in deployments
        }

    (before,) = annotations(render("external"))
    (after,) = annotations(render_with("externalRedis.url=redis://other", scenario="external"))
    assert before != after


def test_keys_that_are_made_are_keys_that_the_ledger_takes() -> None:
    keys = decoded(secrets(render("minimal"))["demo-learnback-api-keys"])
    assert keys.keys() == {"release", "check", "admin", "schedule", "operator"}
    assert all(KEY_SHAPE.fullmatch(key) for key in keys.values())
    assert len(set(keys.values())) == len(keys)


def test_the_valkey_password_fits_into_a_url() -> None:
    assert decoded(secrets(render("minimal"))["demo-learnback-valkey"])["password"].isalnum()


def test_what_is_made_is_kept_when_the_release_goes() -> None:
    found = secrets(render("minimal"))
    for name in MADE:
        kept = found[name]["metadata"]["annotations"]
        assert kept["helm.sh/resource-policy"] == "keep", name
    for claim in of_kind(render("minimal"), "PersistentVolumeClaim"):
        assert claim["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"


@pytest.mark.parametrize(
    ("scenario_name", "made"),
    [("minimal", MADE), ("reward-engine", MADE | {"demo-learnback-reward-engine"})],
)
def test_secrets_survive_an_upgrade(scenario_name: str, made: set[str]) -> None:
    # Helm asks a Kubernetes API, which has the Secrets of the first rendering
    first = secrets(render(scenario_name))
    assert first.keys() == made | {"demo-learnback-api-keys-migrate"}  # a copy for the hook
    with FakeApi(list(first.values())) as api:
        upgraded = _render_against(api, scenario_name)
        assert {n: s["data"] for n, s in secrets(upgraded).items()} == {
            n: s["data"] for n, s in first.items()
        }
        assert {f"/api/v1/namespaces/loop/secrets/{name}" for name in made} <= set(api.asked)


def test_a_secret_that_lacks_a_key_gets_it_and_keeps_the_others() -> None:
    first = secrets(render("minimal"))
    removed = first["demo-learnback-api-keys"]["data"].pop("admin")
    with FakeApi(list(first.values())) as api:
        data = secrets(_render_against(api))["demo-learnback-api-keys"]["data"]
    assert data["release"] == first["demo-learnback-api-keys"]["data"]["release"]
    assert data["admin"] != removed


def test_the_hook_before_an_upgrade_registers_also_keys_that_come_with_it() -> None:
    first = secrets(render("minimal"))
    for secret in first.values():
        secret["data"].pop("schedule", None)
    with FakeApi(list(first.values())) as api:
        found = _render_against(api)
    copy = secrets(found)["demo-learnback-api-keys-migrate"]
    assert "schedule" in copy["data"]
    assert copy["data"] == secrets(found)["demo-learnback-api-keys"]["data"]
    (job,) = of_kind(found, "Job")
    ours, its = copy["metadata"]["annotations"], job["metadata"]["annotations"]
    assert ours["helm.sh/hook"] == its["helm.sh/hook"]
    assert int(ours["helm.sh/hook-weight"]) < int(its["helm.sh/hook-weight"])
    mounted = {v["name"]: v for v in job["spec"]["template"]["spec"]["volumes"]}
    assert mounted["keys"]["secret"]["secretName"] == copy["metadata"]["name"]


def _render_against(api: FakeApi, scenario: str = "minimal") -> list[Object]:
    try:
        return objects(
            helm(
                "template",
                "demo",
                str(CHART),
                "--values",
                str(values_file(scenario)),
                "--namespace",
                "loop",
                "--dry-run=server",
                "--disable-openapi-validation",
                "--kube-apiserver",
                api.url,
                "--kubeconfig",
                "/dev/null",
            )
        )
    except HelmFailed as error:
        raise AssertionError(f"{error}\nasked: {api.asked}") from error


def test_the_registered_keys_have_the_scopes_that_their_users_need() -> None:
    (job,) = of_kind(render("minimal"), "Job")
    assert registered(job) == {
        "release": ["infer", "evaluate"],
        "check": ["infer", "feedback"],
        "admin": ["admin"],
        "schedule": ["train"],
        "operator": ["release"],
    }
    hooks = job["metadata"]["annotations"]["helm.sh/hook"].split(",")
    assert set(hooks) == {"post-install", "pre-upgrade"}


def registered(job: Object) -> dict[str, list[str]]:
    """The keys that the Job makes the ledger know, with their scopes."""
    return {
        one["name"].removeprefix("key-"): [
            a.partition("=")[2] for a in one["command"] if a.startswith("--scope=")
        ]
        for one in job["spec"]["template"]["spec"]["containers"]
    }


def test_an_older_secret_without_keys_of_their_own_serves_the_schedule_and_the_operator() -> None:
    older = ("apiKeys.scheduleKey=admin", "apiKeys.operatorKey=admin")
    found = [
        *render_with(*older, "training.schedule=0 3 * * *", scenario="operator"),
    ]
    (job,) = of_kind(found, "Job")
    assert registered(job).keys() == {"release", "check", "admin"}
    used = {
        entry["valueFrom"]["secretKeyRef"]["key"]
        for pod in pods(found)
        for one in pod.containers
        for entry in one.get("env", [])
        if entry["name"] in {"LEARNBACK_API_KEY", "LEARNBACK_OPERATOR_API_KEY"}
    }
    assert used == {"check", "admin"}


def test_no_password_stands_in_an_environment_or_a_command(scenario: str) -> None:
    for pod in pods(render(scenario)):
        for one in pod.containers:
            for name, value in environment(one).items():
                if name.endswith(("PASSWORD", "_TOKEN", "_SECRET", "_KEY", "_KEY_ID")):
                    assert value is None, (pod.name, name)
            assert "lb_" not in yaml.safe_dump(one.get("command", []))
