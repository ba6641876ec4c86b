"""NetworkPolicies: everything is denied, and what is allowed is the table of the design."""

from __future__ import annotations

from typing import Any

import pytest
from tests.chart.rendering import Object, component, of_kind, pods, render, render_with

HTTP = {"inference": 8000, "feedback": 8001, "reward": 8002, "retraining": 8003, "release": 8004}
PROCESSES = set(HTTP)

ARROWS = {
    # the only HTTP between processes: release evaluates over the public API (decision 0003)
    ("release", "inference", 8000),
    # helm test asks as a client does
    ("test", "inference", 8000),
    ("test", "feedback", 8001),
    # streams
    *((process, "valkey", 6379) for process in PROCESSES | {"migrate"}),
}
"""Who may open a connection to whom, among our own pods, with all defaults."""
OPEN = {("inference", 8000), ("feedback", 8001)}
"""Ports that anybody may reach, with all defaults; an API key is asked for."""


def policies(found: list[Object]) -> dict[str, Object]:
    """The policies by the component that they select; the default one under ''."""
    return {
        one["spec"]["podSelector"]["matchLabels"].get("app.kubernetes.io/component", ""): one[
            "spec"
        ]
        for one in of_kind(found, "NetworkPolicy")
    }


def components(rule: Object, side: str) -> list[str]:
    """The components of ours that a rule names."""
    named = [peer.get("podSelector", {}).get("matchLabels", {}) for peer in rule.get(side, [])]
    label = "app.kubernetes.io/component"
    return [labels[label] for labels in named if label in labels]


def arrows(found: list[Object], direction: str) -> set[tuple[str, str, int]]:
    """Who talks to whom at which port, as the egress or the ingress rules say."""
    seen = set()
    side = "to" if direction == "egress" else "from"
    for name, spec in policies(found).items():
        for rule in spec.get(direction, []):
            for peer in components(rule, side):
                for port in rule.get("ports", [{"port": 0}]):
                    pair = (name, peer) if direction == "egress" else (peer, name)
                    seen.add((*pair, port["port"]))
    return seen


def outside(found: list[Object], name: str) -> set[Any]:
    """Ports to which a component may go outside of this release."""
    rules = [r for r in policies(found)[name].get("egress", []) if not components(r, "to")]
    return {port["port"] for rule in rules for port in rule["ports"]}


def test_the_default_denies_everything_to_every_pod(scenario: str) -> None:
    found = render(scenario)
    if scenario == "no-network-policy":
        assert not of_kind(found, "NetworkPolicy")
        return
    default = policies(found)[""]
    assert set(default["policyTypes"]) == {"Ingress", "Egress"}
    assert default.keys() == {"podSelector", "policyTypes"}
    for pod in pods(found):
        assert default["podSelector"]["matchLabels"].items() <= pod.labels.items(), pod.name


def test_every_pod_has_a_policy_of_its_own(scenario: str) -> None:
    found = render(scenario)
    if scenario == "no-network-policy":
        return
    for pod in pods(found):
        assert pod.labels["app.kubernetes.io/component"] in policies(found), pod.name


@pytest.mark.parametrize("scenario_name", ["minimal", "external", "cpu"])
def test_the_hook_before_an_upgrade_brings_its_own_policy(scenario_name: str) -> None:
    # the release's objects are those of the version before, which may not let it out
    found = render(scenario_name)
    (job,) = of_kind(found, "Job")
    (policy,) = (p for p in of_kind(found, "NetworkPolicy") if component(p) == "migrate")
    ours, its = policy["metadata"]["annotations"], job["metadata"]["annotations"]
    assert ours["helm.sh/hook"] == its["helm.sh/hook"]
    assert int(ours["helm.sh/hook-weight"]) < int(its["helm.sh/hook-weight"])


def test_arrows_between_our_pods_are_those_of_the_design() -> None:
    found = render("minimal")
    assert arrows(found, "egress") == ARROWS
    # inference and feedback are open to all, so they name nobody
    assert arrows(found, "ingress") | {a for a in ARROWS if a[1:] in OPEN} == ARROWS | {
        ("training-schedule", "retraining", 8003),
        ("operator", "release", 8004),
    }


def test_a_reward_engine_is_asked_by_who_judges_and_asks_nobody_of_ours() -> None:
    found = render("reward-engine")
    added = {(process, "reward-engine", 8010) for process in ("reward", "release")}
    assert arrows(found, "egress") - ARROWS == added
    assert added < arrows(found, "ingress")
    assert outside(found, "reward-engine") == {53, 443}, "DNS, and the hub for the base model"
    assert outside(render("many-gpus"), "reward-engine") == {53}, "the model is on a volume"


def test_only_inference_and_feedback_are_open_and_no_more_once_clients_are_named() -> None:
    def open_to_all(found: list[Object]) -> set[tuple[str, int]]:
        return {
            (name, port["port"])
            for name, spec in policies(found).items()
            for rule in spec.get("ingress", [])
            if not rule.get("from")
            for port in rule["ports"]
        }

    assert open_to_all(render("minimal")) == OPEN
    assert open_to_all(render("restricted")) == set()


def test_both_ends_of_an_arrow_allow_it(scenario: str) -> None:
    if scenario == "no-network-policy":
        return
    found = render(scenario)
    receiving = arrows(found, "ingress")
    opened = {
        (name, port["port"])
        for name, spec in policies(found).items()
        for rule in spec.get("ingress", [])
        if not rule.get("from")
        for port in rule.get("ports", [])
    }
    for source, target, port in arrows(found, "egress"):
        assert (source, target, port) in receiving or (target, port) in opened, (source, target)


def test_what_may_leave_this_release_with_everything_inside() -> None:
    found = render("minimal")
    assert {name: outside(found, name) for name in policies(found) if name} == {
        "inference": {53, 443},  # the model hub
        "feedback": {53},
        "reward": {53},
        "retraining": {53, 443, 6443},  # the Kubernetes API
        "release": {53},
        "migrate": {53},
        "test": {53},
        "training": {53, 443},  # the model hub
        "valkey": set(),
    }


def test_what_may_leave_this_release_with_everything_outside() -> None:
    found = render_with(
        "valkey.enabled=false",
        "externalRedis.existingSecret=r",
        "artifacts.url=s3://bucket",
        "externalDatabase.existingSecret=d",
    )
    assert {name: outside(found, name) for name in PROCESSES | {"migrate"}} == {
        "inference": {53, 443, 5432, 6379},
        "feedback": {53, 5432, 6379},
        "reward": {53, 443, 5432, 6379},
        "retraining": {53, 443, 5432, 6379, 6443},
        "release": {53, 443, 5432, 6379},
        "migrate": {53, 5432, 6379},
    }


@pytest.mark.parametrize(
    ("scenario_name", "port", "asks"),
    [("judge", 8443, "reward"), ("policy-judge", 8000, "release")],
)
def test_a_judge_is_reached_by_who_asks_it_and_by_nobody_else(
    scenario_name: str, port: int, asks: str
) -> None:
    found = render_with(
        "networkPolicy.judge.to[0].ipBlock.cidr=10.0.2.0/24", scenario=scenario_name
    )
    rules = {
        name: [r for r in spec.get("egress", []) if port in [p["port"] for p in r["ports"]]]
        for name, spec in policies(found).items()
    }
    (rule,) = (r for r in rules[asks] if not components(r, "to"))
    assert rule["to"] == [{"ipBlock": {"cidr": "10.0.2.0/24"}}]
    reaching = {name for name in rules if name and port in outside(found, name)}
    assert reaching == {asks}


def test_neural_reward_models_load_the_base_from_the_hub() -> None:
    for name in ("reward", "release"):
        assert 443 in outside(render("judge"), name)


def test_admin_apis_are_closed_to_all_but_admins_and_scrapers() -> None:
    admins = {"namespaceSelector": {"matchLabels": {"team": "language"}}}
    for name in ("reward", "retraining", "release"):
        (rule,) = policies(render("restricted"))[name]["ingress"]
        assert rule["ports"] == [{"port": HTTP[name], "protocol": "TCP"}]
        assert admins in rule["from"]
        (default,) = policies(render("minimal"))[name]["ingress"]
        assert admins not in default["from"]


def test_scrapers_reach_every_process() -> None:
    scraper = {
        "podSelector": {"matchLabels": {"app": "prometheus"}},
        "namespaceSelector": {"matchLabels": {"team": "watch"}},
    }
    watched = {**HTTP, "operator": 8005, "reward-engine": 8010}
    on = ("operator.enabled=true", "rewardEngine.enabled=true")
    found = policies(render_with(*on, scenario="restricted"))
    for name, port in watched.items():
        rules = found[name]["ingress"]
        assert any(scraper in r["from"] and r["ports"][0]["port"] == port for r in rules), name


def test_keda_reaches_valkey_only_where_it_scales() -> None:
    keda = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "keda"}}}
    (scaled,) = policies(render("keda"))["valkey"]["ingress"]
    (alone,) = policies(render("minimal"))["valkey"]["ingress"]
    assert keda in scaled["from"]
    assert keda not in alone["from"]


LEADING = {
    # a URL of the values, and who goes where it leads
    "externalDatabase.url=postgresql://u:p/w?@db:6432/x,valkey.enabled=true": ("feedback", 6432),
    "externalDatabase.url=postgresql+psycopg://u:p@a:5001\\,b:5002/x": ("release", 5002),
    "valkey.enabled=false,externalRedis.url=rediss://:p@redis:6390/1": ("reward", 6390),
    "valkey.enabled=false,externalRedis.existingSecret=r,externalRedis.address=r:6391": (
        ("migrate", 6391)
    ),
    "artifacts.url=s3://b,artifacts.s3.endpoint=http://minio:9000": ("release", 9000),
    "model.hub.endpoint=http://hub.example.com": ("training", 80),
    "inference.engine=external,inference.externalEngineUrls={http://a:8080/v1}": (
        ("inference", 8080)
    ),
    "judge.url=http://judge:8001,judge.model=m": ("reward", 8001),
    "release.policy.judge.url=http://judge:8002": ("release", 8002),
    "extraEnv[0].name=HTTPS_PROXY,extraEnv[0].value=http://proxy:3128": ("training-schedule", 3128),
    "inference.engineArgs={--otlp-traces-endpoint,grpc://collector}": ("inference", 4317),
    "inference.engineArgs={--otlp-traces-endpoint=http://collector:4318}": ("inference", 4318),
    "rewardEngine.extraEnv[0].name=A,rewardEngine.extraEnv[0].value=http://a:9": (
        ("reward-engine", 9)
    ),
    "training.extraEnv[0].name=A,training.extraEnv[0].value=http://tracker:5000": (
        ("training", 5000)
    ),
    # what no URL says
    "externalDatabase.existingSecret=d,networkPolicy.database.port=6543": ("migrate", 6543),
    "valkey.enabled=false,externalRedis.existingSecret=r,networkPolicy.redis.port=6544": (
        ("retraining", 6544)
    ),
    "judge.url=http://judge,judge.model=m,networkPolicy.judge.ports={8000}": ("reward", 8000),
    "networkPolicy.more.ports={8125}": ("operator", 8125),
}


@pytest.mark.parametrize("settings", LEADING)
def test_pods_may_go_where_the_urls_of_the_values_lead(settings: str) -> None:
    name, port = LEADING[settings]
    on = ("operator.enabled=true", "rewardEngine.enabled=true", "training.schedule=@daily")
    assert port in outside(render_with(*on, settings), name)


def test_dns_is_asked_where_and_how_the_values_say(scenario: str) -> None:
    ports = [53, 5353] if scenario == "restricted" else [53]
    for name, spec in policies(render(scenario)).items():
        for rule in spec.get("egress", []):
            asked = [(p["port"], p["protocol"]) for p in rule.get("ports", [])]
            if "UDP" in {protocol for _, protocol in asked}:
                assert rule["to"], name
                assert asked == [(port, p) for port in ports for p in ("UDP", "TCP")], name


def test_no_rule_is_about_all_ports_of_everybody(scenario: str) -> None:
    for name, spec in policies(render(scenario)).items():
        for rule in spec.get("egress", []):
            assert rule.get("ports") or components(rule, "to"), name


def test_no_port_at_all_is_no_rule_and_not_one_about_every_port() -> None:
    found = render_with("networkPolicy.web.ports=[]", json_settings=True)
    assert outside(found, "training") == {53}


@pytest.mark.parametrize(
    ("target", "name", "port"), [("database", "feedback", 5433), ("redis", "reward", 6380)]
)
def test_peers_outside_are_those_of_the_values(target: str, name: str, port: int) -> None:
    rules = policies(render("external"))[name]["egress"]
    (rule,) = (r for r in rules if r["ports"][0]["port"] == port)
    cidr = {"database": "10.0.0.0/24", "redis": "10.0.1.0/24"}[target]
    assert rule["to"] == [{"ipBlock": {"cidr": cidr}}]
