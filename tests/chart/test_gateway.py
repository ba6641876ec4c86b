"""Gateway API: each path goes to the process that has it, and no admin path goes anywhere."""

from __future__ import annotations

from typing import Any

import pytest
from tests.chart.rendering import by_component, of_kind, pods, render, render_with

FEEDBACK, INFERENCE = "demo-learnback-feedback", "demo-learnback-inference"


def backend(route: Any, method: str, path: str) -> str | None:
    """Where a Gateway sends a request: the longest path wins, then the one with a method."""
    best: tuple[int, bool] | None = None
    chosen = None
    for rule in route["spec"]["rules"]:
        for match in rule["matches"]:
            prefix = match["path"]["value"]
            fits = path == prefix or path.startswith(f"{prefix}/")
            if fits and match.get("method", method) == method:
                rank = (len(prefix), "method" in match)
                if best is None or rank > best:
                    best, chosen = rank, rule["backendRefs"][0]["name"]
    return chosen


@pytest.mark.parametrize(
    ("method", "path", "to"),
    [
        ("POST", "/v1/feedback", FEEDBACK),
        ("POST", "/v1/feedback/batch", FEEDBACK),
        ("DELETE", "/v1/feedback/fb_1", FEEDBACK),
        ("GET", "/v1/completions/chatcmpl-1", FEEDBACK),
        ("DELETE", "/v1/completions/chatcmpl-1", FEEDBACK),
        ("POST", "/v1/completions", INFERENCE),
        ("POST", "/v1/chat/completions", INFERENCE),
        ("POST", "/v1/responses", INFERENCE),
        ("GET", "/v1/models", INFERENCE),
        ("GET", "/metrics", None),
        ("GET", "/healthz", None),
        ("POST", "/admin/v1/runs", None),
    ],
)
def test_each_path_goes_where_it_is_served(method: str, path: str, to: str | None) -> None:
    found = render_with("gateway.inferencePool.enabled=false", scenario="gateway")
    (route,) = of_kind(found, "HTTPRoute")
    assert backend(route, method, path) == to
    services = {one["metadata"]["name"]: one for one in of_kind(found, "Service")}
    for rule in route["spec"]["rules"]:
        for target in rule["backendRefs"]:
            ports = services[target["name"]]["spec"]["ports"]
            assert target["port"] in {port["port"] for port in ports}


def test_the_feedback_paths_are_those_of_its_api() -> None:
    from learnback.feedback import completion_routes, routes

    (route,) = of_kind(
        render_with("gateway.inferencePool.enabled=false", scenario="gateway"), "HTTPRoute"
    )
    for router in (routes.router, completion_routes.router):
        for one in router.routes:
            for method in one.methods:  # type: ignore[attr-defined]
                assert backend(route, method, one.path) == FEEDBACK, (method, one.path)  # type: ignore[attr-defined]


def test_the_pool_is_the_inference_pods_at_their_port() -> None:
    found = render("gateway")
    (pool,) = of_kind(found, "InferencePool")
    chosen = [
        p
        for p in pods(found)
        if pool["spec"]["selector"]["matchLabels"].items() <= p.labels.items()
    ]
    assert [p.labels["app.kubernetes.io/component"] for p in chosen] == ["inference"]
    ports = [port["containerPort"] for port in chosen[0].containers[0]["ports"]]
    assert [target["number"] for target in pool["spec"]["targetPorts"]] == ports
    (route,) = of_kind(found, "HTTPRoute")
    reference = route["spec"]["rules"][1]["backendRefs"][0]
    assert (reference["kind"], reference["name"]) == ("InferencePool", pool["metadata"]["name"])


def test_services_are_of_the_type_that_you_ask_for() -> None:
    services = by_component(render("no-network-policy"), "Service")
    assert services["inference"]["spec"]["type"] == "LoadBalancer"
    assert services["inference"]["metadata"]["annotations"] == {"example.com/scheme": "internal"}
    assert services["feedback"]["spec"]["type"] == "NodePort"
    assert services["reward"]["spec"]["type"] == "ClusterIP"
