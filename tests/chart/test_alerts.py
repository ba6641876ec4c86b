"""The alerts: well formed, tested by promtool, with a runbook each, and bound to one release."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.chart.expressions import ALERTS, ROOT, alert
from tests.chart.promtool import promtool
from tests.chart.rendering import HelmFailed, of_kind, render_with
from tests.chart.watched import watched

RUNBOOKS = ROOT / "docs" / "runbooks"
OPERATING = ROOT / "docs" / "operating.md"
TESTS = Path(__file__).parent / "alerts"
NAMES = [file.stem for file in ALERTS]
HEADINGS = [
    "What it means",
    "What users notice",
    "What to look at",
    "How to mend it",
    "How to tell that it is mended",
]


def unit_tests(name: str) -> list[dict[str, Any]]:
    return yaml.safe_load((TESTS / f"{name}.test.yaml").read_text())["tests"]


@pytest.mark.parametrize("file", ALERTS, ids=NAMES)
def test_a_file_holds_one_alert_of_its_name_that_says_what_and_how_bad(file: Path) -> None:
    (group,) = yaml.safe_load(file.read_text())["groups"]
    assert group["name"] == file.stem, "groups of a PrometheusRule need names of their own"
    rule = alert(file)
    assert rule["alert"] == file.stem
    assert rule["labels"]["severity"] in {"critical", "warning"}
    assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
    assert rule["annotations"]["runbook_url"] == f"docs/runbooks/{file.stem}.md"


def test_promtool_reads_the_alerts_as_they_are() -> None:
    promtool("check", "rules", *ALERTS)


@pytest.mark.parametrize("name", NAMES)
def test_each_alert_fires_when_it_should_and_only_then(name: str) -> None:
    promtool("test", "rules", TESTS / f"{name}.test.yaml")


@pytest.mark.parametrize("name", NAMES)
def test_each_alert_has_a_test_in_which_it_fires_and_a_time_at_which_it_does_not(name: str) -> None:
    checks = [check for test in unit_tests(name) for check in test["alert_rule_test"]]
    assert {check["alertname"] for check in checks} == {name}
    assert {bool(check["exp_alerts"]) for check in checks} == {True, False}


def test_there_is_no_test_of_an_alert_that_is_gone() -> None:
    assert sorted(p.name.removesuffix(".test.yaml") for p in TESTS.iterdir()) == NAMES


def test_each_alert_has_one_runbook_and_each_runbook_an_alert() -> None:
    assert sorted(page.stem for page in RUNBOOKS.glob("*.md")) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_runbook_says_what_how_and_when_it_is_over(name: str) -> None:
    text = (RUNBOOKS / f"{name}.md").read_text()
    assert text.startswith(f"# {name}\n")
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == HEADINGS
    assert "```" in text.split("## What to look at")[1].split("## How to mend it")[0], "no command"


@pytest.mark.parametrize("name", NAMES)
def test_operating_leads_to_each_runbook(name: str) -> None:
    assert f"(runbooks/{name}.md)" in OPERATING.read_text()


def test_the_rules_of_a_release_are_about_that_release_alone(tmp_path: Path) -> None:
    (rendered,) = watched("PrometheusRule")
    rules = [rule for group in rendered["spec"]["groups"] for rule in group["rules"]]
    assert sorted(rule["alert"] for rule in rules) == NAMES
    file = tmp_path / "rules.json"
    file.write_text(json.dumps(rendered["spec"]))
    promtool("check", "rules", file)
    for rule in rules:
        expression = rule["expr"]
        assert "learnback/learnback" not in expression
        if "kubelet_" in expression:
            assert 'namespace="chats"' in expression
            assert "(data-)?shop-learnback-" in expression
        else:
            assert expression.count("{") == expression.count('job="chats/shop-learnback"')


def rules_with(*settings: str) -> dict[str, dict[str, Any]]:
    """The rendered alerts by name."""
    found = render_with("monitoring.prometheusRule.enabled=true", *settings, scenario="monitoring")
    (rendered,) = of_kind(found, "PrometheusRule")
    return {rule["alert"]: rule for group in rendered["spec"]["groups"] for rule in group["rules"]}


@pytest.mark.parametrize("name", NAMES)
def test_each_alert_can_be_turned_off_alone(name: str) -> None:
    left = rules_with(f"monitoring.prometheusRule.disabledAlerts={{{name}}}")
    assert sorted([*left, name]) == NAMES


def test_severities_and_labels_are_yours_and_the_rest_stays() -> None:
    chosen = rules_with(
        "monitoring.prometheusRule.severities.LearnbackNotReady=info",
        "monitoring.prometheusRule.alertLabels.team=models",
    )
    plain = rules_with()
    for name, rule in plain.items():
        severity = "info" if name == "LearnbackNotReady" else rule["labels"]["severity"]
        assert chosen[name]["labels"] == rule["labels"] | {"severity": severity, "team": "models"}
        assert chosen[name]["expr"] == rule["expr"]


@pytest.mark.parametrize(
    "setting",
    [
        "disabledAlerts={LearnbackNobody}",
        "severities.LearnbackNobody=info",
        "severities.LearnbackNotReady=loud",
    ],
)
def test_a_name_or_a_severity_that_is_none_is_refused(setting: str) -> None:
    with pytest.raises(HelmFailed, match="monitoring"):
        rules_with(f"monitoring.prometheusRule.{setting}")


def test_runbooks_are_where_the_values_say() -> None:
    (rendered,) = watched("PrometheusRule")
    for group in rendered["spec"]["groups"]:
        for rule in group["rules"]:
            url = rule["annotations"]["runbook_url"]
            assert url == f"https://books.example/run/{rule['alert']}.md"
