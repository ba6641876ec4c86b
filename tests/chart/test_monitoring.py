"""What is scraped, and that everything that is asked for is really exported."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from charts.dashboards.__main__ import written
from tests.chart.exported import TARGET, exported, ours
from tests.chart.expressions import (
    DASHBOARDS,
    Selector,
    alert_expressions,
    dashboard_expressions,
    groupings,
    panels,
    scaler_expressions,
    selectors,
)
from tests.chart.label_values import LABEL_VALUES
from tests.chart.promtool import check_expressions
from tests.chart.watched import rendered, watched

PROCESSES = {
    *("inference", "feedback", "reward", "reward-engine", "retraining", "release"),
    "operator",
}


EXPRESSIONS = {**alert_expressions(), **dashboard_expressions()}


@pytest.mark.parametrize("place", EXPRESSIONS)
def test_every_metric_that_is_asked_for_is_exported_with_these_labels(place: str) -> None:
    check_exported(EXPRESSIONS[place])


def test_what_scales_inference_is_exported_too() -> None:
    queries = scaler_expressions(list(rendered()))
    assert queries, "no ScaledObject asks Prometheus"
    for query in queries.values():
        check_exported(query)


def check_exported(expression: str) -> None:
    there = exported()
    for selector in selectors(expression):
        assert selector.metric in there, f"nobody exports {selector.metric}"
        asked = {label for label, _, _ in selector.matchers}
        assert asked <= there[selector.metric], f"{selector.metric} has no such label"
    for grouping in groupings(expression):
        known = frozenset().union(*(there[metric] for metric in grouping.metrics))
        assert grouping.labels <= known, f"none of {sorted(grouping.metrics)} has such a label"


@pytest.mark.parametrize("place", EXPRESSIONS)
def test_every_label_value_that_is_asked_for_exists(place: str) -> None:
    for selector in selectors(EXPRESSIONS[place]):
        for label, value in _plain_values(selector):
            assert value in LABEL_VALUES[label], f"{selector.metric}: no {label} is {value!r}"


def _plain_values(selector: Selector) -> list[tuple[str, str]]:
    """Label and value, one for each alternative; other patterns and the release's name left out."""
    found = []
    for label, _, value in selector.matchers:
        if label in TARGET - {"process"} or label == "persistentvolumeclaim":
            continue
        if re.fullmatch(r"[a-z_|-]+", value):
            found += [(label, alternative) for alternative in value.split("|")]
        else:
            assert (label, value) == ("status", "5.."), f"say how to check {label}={value!r}"
    return found


def test_every_metric_of_ours_is_shown_or_watched() -> None:
    asked = {s.metric for text in EXPRESSIONS.values() for s in selectors(text)}
    unseen = {name for name, series in ours().items() if not series & asked}
    assert not unseen, "add panels in charts/dashboards"


def test_vllms_metrics_are_never_mixed_with_those_of_the_reward_engine() -> None:
    for place, text in EXPRESSIONS.items():
        for selector in selectors(text):
            if selector.metric.startswith("vllm:"):
                assert "process" in {label for label, _, _ in selector.matchers}, place


def test_expressions_are_promql(tmp_path: Path) -> None:
    check_expressions(tmp_path, EXPRESSIONS | scaler_expressions(list(rendered())))


@pytest.mark.parametrize("metric", ["vllm:num_requests_waiting", "learnback_bus_handled_total"])
def test_a_metric_that_nobody_exports_is_found(metric: str) -> None:
    assert metric in exported()
    assert f"{metric}_renamed" not in exported()


def test_the_dashboards_are_what_their_code_says() -> None:
    files = written()
    assert sorted(files) == DASHBOARDS
    for path, text in files.items():
        assert path.read_text() == text, "run `python -m charts.dashboards`"


@pytest.mark.parametrize("file", DASHBOARDS, ids=lambda file: file.stem)
def test_every_panel_explains_itself_and_asks_the_chosen_source(file: Path) -> None:
    source = {"type": "prometheus", "uid": "${datasource}"}
    for panel in panels(file):
        assert panel["title"]
        assert panel["description"].endswith(".")
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["datasource"] == source
        assert panel["targets"]
        assert {json.dumps(t["datasource"]) for t in panel["targets"]} == {json.dumps(source)}
        legends = [t["legendFormat"] for t in panel["targets"]]
        assert all(legends) or panel["type"] == "stat", panel["title"]


@pytest.mark.parametrize("file", DASHBOARDS, ids=lambda file: file.stem)
def test_a_dashboard_shows_one_installation_and_overlaps_nowhere(file: Path) -> None:
    board = json.loads(file.read_text())
    assert [v["name"] for v in board["templating"]["list"]] == ["datasource", "job"]
    assert board["uid"] == f"learnback-{file.stem}"
    for panel in panels(file):
        for target in panel["targets"]:
            assert 'job="$job"' in target["expr"], panel["title"]
    cells = [cell for panel in board["panels"] for cell in _cells(panel["gridPos"])]
    assert len(cells) == len(set(cells)), "two panels in one place"
    assert max(x for x, _ in cells) < 24
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])


def _cells(place: dict[str, int]) -> list[tuple[int, int]]:
    across = range(place["x"], place["x"] + place["w"])
    return [(x, y) for x in across for y in range(place["y"], place["y"] + place["h"])]


def test_grafana_gets_every_dashboard_whole() -> None:
    maps = [m for m in watched("ConfigMap") if "-dashboard-" in m["metadata"]["name"]]
    contents = [text for found in maps for text in found["data"].values()]
    assert sorted(contents) == sorted(file.read_text() for file in DASHBOARDS)
    assert all(m["metadata"]["labels"]["grafana_dashboard"] == "1" for m in maps)
    names = [name for found in maps for name in found["data"]]
    assert len(set(names)) == len(DASHBOARDS), "the sidecar writes all into one folder"


def test_every_process_is_scraped_on_a_port_that_it_has() -> None:
    (monitor,) = watched("PodMonitor")
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    found = set()
    for deployment in watched("Deployment"):
        template = deployment["spec"]["template"]
        if _selects(monitor["spec"]["selector"], template["metadata"]["labels"]):
            ports = [p for c in template["spec"]["containers"] for p in c.get("ports", [])]
            assert endpoint["port"] in {port["name"] for port in ports}
            found.add(template["metadata"]["labels"]["app.kubernetes.io/component"])
    assert found == PROCESSES


def test_nothing_without_metrics_is_scraped() -> None:
    (monitor,) = watched("PodMonitor")
    for kind in ("StatefulSet", "Job", "CronJob"):
        for found in watched(kind):
            spec = found["spec"]
            spec = spec["jobTemplate"]["spec"] if kind == "CronJob" else spec
            labels = spec["template"]["metadata"]["labels"]
            assert not _selects(monitor["spec"]["selector"], labels), found["metadata"]["name"]


def test_series_carry_the_labels_that_alerts_go_by() -> None:
    (monitor,) = watched("PodMonitor")
    place = monitor["metadata"]
    assert monitor["spec"].get("jobLabel") is None, "else job is not <namespace>/<name>"
    (rule,) = watched("PrometheusRule")
    assert f'job="{place.get("namespace", "chats")}/{place["name"]}"' in json.dumps(
        rule["spec"]
    ).replace('\\"', '"')
    (relabeling,) = monitor["spec"]["podMetricsEndpoints"][0]["relabelings"]
    assert relabeling == {
        "sourceLabels": ["__meta_kubernetes_pod_label_app_kubernetes_io_component"],
        "targetLabel": "process",
    }
    assert place["labels"]["team"] == "chats"


def _selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    for wanted in selector["matchExpressions"]:
        assert wanted["operator"] == "In"
        if labels.get(wanted["key"]) not in wanted["values"]:
            return False
    return selector["matchLabels"].items() <= labels.items()
