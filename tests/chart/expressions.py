"""Every PromQL expression of the chart, and what it asks for."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import promql_parser
import yaml

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "learnback"
ALERTS = sorted((CHART / "alerts").glob("*.yaml"))
DASHBOARDS = sorted((CHART / "dashboards").glob("*.json"))
GRAFANA = {"$__rate_interval": "5m", "$job": "learnback/learnback"}
"""What Grafana puts in for its variables."""
PARTS = ("expr", "lhs", "rhs", "args", "vector_selector")
"""Where the parser's nodes keep other nodes."""
OPERATORS = {
    "MatchOp.Equal": "=",
    "MatchOp.NotEqual": "!=",
    "MatchOp.Re": "=~",
    "MatchOp.NotRe": "!~",
}


@dataclass(frozen=True)
class Selector:
    """A metric as an expression asks for it: name, and matchers as (label, operator, value)."""

    metric: str
    matchers: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True)
class Grouping:
    """Labels that a part of an expression groups or joins by, and the metrics below it."""

    labels: frozenset[str]
    metrics: frozenset[str]


def selectors(expression: str) -> set[Selector]:
    """The metrics that an expression asks for."""
    return set(_selectors(promql_parser.parse(expression)))


def groupings(expression: str) -> set[Grouping]:
    """By what an expression groups and joins."""
    return {
        Grouping(labels, frozenset(s.metric for s in _selectors(node)))
        for node in _walk(promql_parser.parse(expression))
        if (labels := frozenset(_labels(getattr(node, "modifier", None))))
    }


def alert(file: Path) -> dict[str, Any]:
    """The one rule of a file of alerts."""
    (group,) = yaml.safe_load(file.read_text())["groups"]
    (rule,) = group["rules"]
    return rule


def alert_expressions() -> dict[str, str]:
    """Alert name to expression."""
    return {file.stem: alert(file)["expr"] for file in ALERTS}


def panels(file: Path) -> list[dict[str, Any]]:
    """The panels of a dashboard, without headings."""
    return [p for p in json.loads(file.read_text())["panels"] if p["type"] != "row"]


def dashboard_expressions() -> dict[str, str]:
    """Place to expression, with Grafana's variables filled in."""
    return {
        f"{file.stem}: {panel['title']} {target['refId']}": filled(target["expr"])
        for file in DASHBOARDS
        for panel in panels(file)
        for target in panel["targets"]
    }


def scaler_expressions(rendered: list[Mapping[str, Any]]) -> dict[str, str]:
    """Name of the ScaledObject to its Prometheus query."""
    return {
        item["metadata"]["name"]: trigger["metadata"]["query"]
        for item in rendered
        if item["kind"] == "ScaledObject"
        for trigger in item["spec"]["triggers"]
        if trigger["type"] == "prometheus"
    }


def filled(expression: str) -> str:
    """An expression of a dashboard as Prometheus gets it."""
    for variable, value in GRAFANA.items():
        expression = expression.replace(variable, value)
    return expression


def _walk(node: Any) -> Iterator[Any]:
    yield node
    for part in PARTS:
        inner = getattr(node, part, None)
        if inner is None:
            continue
        for child in inner if isinstance(inner, list) else [inner]:
            yield from _walk(child)


def _selectors(node: Any) -> Iterator[Selector]:
    for found in _walk(node):
        if isinstance(found, promql_parser.VectorSelector):
            matchers = found.matchers.matchers
            told = tuple((m.name, OPERATORS[str(m.op)], m.value) for m in matchers)
            yield Selector(str(found.name), told)


def _labels(modifier: Any) -> Iterator[str]:
    """Labels of `by`, `on` and `group_left`."""
    for holder in (modifier, getattr(modifier, "matching", None)):
        yield from getattr(holder, "labels", None) or ()
    yield from getattr(modifier, "group_labels", None) or ()
