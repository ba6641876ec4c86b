"""What an installation keeps through an upgrade and a rollback, and what its accounts may do."""

from __future__ import annotations

import json

import pytest
from tests.chart.rendering import component, objects
from tests.e2e.cluster.kube import RELEASE, Kube, as_list

pytestmark = [pytest.mark.timeout(600), pytest.mark.xdist_group("cluster")]


def test_an_upgrade_after_a_scale_from_outside_succeeds_and_leaves_it(installed: Kube) -> None:
    """Helm applies server-side: with the field in the chart it would fail."""
    for name in ("feedback", "inference"):
        installed.kubectl("scale", f"deployment/{RELEASE}-{name}", "--replicas=3")
    installed.install("--set", "operator.enabled=true", "--set", "logLevel=DEBUG")
    for name in ("feedback", "inference"):
        deployment = installed.get("deployment", f"{RELEASE}-{name}")
        assert deployment["spec"]["replicas"] == 3
        assert "DEBUG" in json.dumps(deployment["spec"]["template"])


def test_an_upgrade_and_a_rollback_keep_what_was_generated(installed: Kube) -> None:
    names = (f"{RELEASE}-api-keys", f"{RELEASE}-valkey")
    before = [installed.get("secret", name)["data"] for name in names]
    installed.install("--set", "operator.enabled=true", "--set", "podAnnotations.again=yes")
    installed.helm("rollback", RELEASE, "1", "--no-hooks")
    assert [installed.get("secret", name)["data"] for name in names] == before
    deployment = installed.get("deployment", f"{RELEASE}-feedback")
    assert "again" not in deployment["spec"]["template"]["metadata"]["annotations"]


def test_what_was_applied_is_what_the_chart_says(installed: Kube) -> None:
    """The server drops no field of ours: applying the same again would change nothing."""
    found = objects(installed.helm("get", "manifest", RELEASE))
    again = installed.kubectl(
        *("apply", "--server-side", "--force-conflicts", "--dry-run=server", "-o", "json"),
        *("-f", "-"),
        text=as_list(found),
    )
    for one in json.loads(again)["items"]:
        there = installed.get(one["kind"], one["metadata"]["name"])
        assert one.get("spec") == there.get("spec"), one["metadata"]["name"]
        assert one.get("data") == there.get("data"), one["metadata"]["name"]
    assert {component(o) for o in found if o["kind"] == "Deployment"} >= {"inference", "operator"}


MAY = {
    "retraining": {"create jobs.batch", "get jobs.batch", "delete jobs.batch", "list pods"},
    "operator": {
        *(f"{verb} modelreleases.learnback.dev" for verb in ("get", "list", "watch", "create")),
        *("patch modelreleases.learnback.dev --subresource=status",),
    },
}
MAY_NOT = {
    *(
        "list secrets",
        "get secrets",
        "create pods",
        "delete pods",
        "create pods --subresource=exec",
    ),
    *("list jobs.batch", "patch deployments.apps", "create roles.rbac.authorization.k8s.io"),
    *("delete modelreleases.learnback.dev", "list nodes"),
}


@pytest.mark.parametrize("process", MAY)
def test_an_account_may_do_its_work_and_nothing_else(installed: Kube, process: str) -> None:
    account = f"system:serviceaccount:{installed.namespace}:{RELEASE}-{process}"

    def may(what: str) -> bool:
        command = ("auth", "can-i", *what.split(), f"--as={account}")
        return installed.kubectl(*command, check=False).strip() == "yes"

    assert {what for what in MAY[process] | MAY_NOT if may(what)} == MAY[process]
