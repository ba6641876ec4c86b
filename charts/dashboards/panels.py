"""What a dashboard is made of, as Grafana's JSON.

A query names its metrics with `{job="$job"}`: the variable holds one installation, as the chart's
PodMonitor labels it (`<namespace>/<name>`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
COLUMNS = 24
"""Grafana's grid."""
HEIGHTS = {"timeseries": 8, "stat": 4}
SCHEMA_VERSION = 39
"""Grafana 10.2 and newer read it."""
ANY_JOB = "label_values(learnback_health_check_passed, job)"
"""The installations: every process of ours exports this metric."""


@dataclass(frozen=True)
class Query:
    """A PromQL expression, and the name of its lines with labels in `{{}}`."""

    expr: str
    legend: str = ""


@dataclass(frozen=True)
class Panel:
    """One picture. `unit` is one of Grafana's names; the description says what to make of it."""

    title: str
    description: str
    unit: str
    queries: Sequence[Query]
    kind: Literal["timeseries", "stat"] = "timeseries"
    width: int = 8
    stacked: bool = False
    thresholds: Sequence[tuple[str, float]] = ()
    """Colours above green, each from a value on."""
    text: Literal["auto", "name"] = "auto"
    """What a stat shows: its value, or the name of its line."""


@dataclass(frozen=True)
class Row:
    """Panels under a heading, laid out from left to right."""

    title: str
    panels: Sequence[Panel] = field(default_factory=tuple)


def lines(title: str, description: str, unit: str, *queries: Query, **how: Any) -> Panel:
    """A panel of lines over time."""
    return Panel(title, description, unit, queries, **how)


def stat(title: str, description: str, unit: str, expr: str, **how: Any) -> Panel:
    """A panel of one number."""
    how = {"width": 4} | how
    return Panel(title, description, unit, [Query(expr, how.pop("legend", ""))], "stat", **how)


def quantiles(metric: str, labels: str = 'job="$job"', by: str = "") -> list[Query]:
    """Median, 95th and 99th percentile of a histogram, for each value of the label `by`."""
    groups = f"le, {by}" if by else "le"
    name = f" {{{{{by}}}}}" if by else ""
    rate = f"sum by ({groups}) (rate({metric}_bucket{{{labels}}}[$__rate_interval]))"
    return [Query(f"histogram_quantile({q / 100:g}, {rate})", f"p{q}{name}") for q in (50, 95, 99)]


def rate(metric: str, by: str, labels: str = 'job="$job"') -> Query:
    """Events a second by one label or several."""
    legend = " ".join(f"{{{{{name.strip()}}}}}" for name in by.split(","))
    return Query(f"sum by ({by}) (rate({metric}{{{labels}}}[$__rate_interval]))", legend)


def dashboard(name: str, title: str, description: str, rows: Sequence[Row]) -> dict[str, Any]:
    """A whole dashboard; its address in Grafana is `learnback-<name>` for ever."""
    return {
        "uid": f"learnback-{name}",
        "title": f"Learnback: {title}",
        "description": description,
        "tags": ["learnback"],
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "schemaVersion": SCHEMA_VERSION,
        "time": {"from": "now-6h", "to": "now"},
        "timezone": "browser",
        "links": [_siblings()],
        "templating": {"list": [_datasource(), _job()]},
        "annotations": {"list": []},
        "panels": list(_laid_out(rows)),
    }


def _siblings() -> dict[str, Any]:
    """A menu of all our dashboards, keeping time and variables."""
    return {
        "type": "dashboards",
        "title": "Learnback",
        "tags": ["learnback"],
        "asDropdown": True,
        "includeVars": True,
        "keepTime": True,
    }


def _datasource() -> dict[str, Any]:
    return {
        "name": "datasource",
        "label": "Data source",
        "type": "datasource",
        "query": "prometheus",
    }


def _job() -> dict[str, Any]:
    return {
        "name": "job",
        "label": "Installation",
        "type": "query",
        "datasource": DATASOURCE,
        "definition": ANY_JOB,
        "query": {"query": ANY_JOB, "refId": "job"},
        "refresh": 2,
        "sort": 1,
    }


def _laid_out(rows: Sequence[Row]) -> Iterator[dict[str, Any]]:
    """Headings and panels with their places and numbers."""
    number, top = 1, 0
    for row in rows:
        yield _heading(row.title, number, top)
        number, top, left, tallest = number + 1, top + 1, 0, 0
        for panel in row.panels:
            if left + panel.width > COLUMNS:
                top, left, tallest = top + tallest, 0, 0
            height = HEIGHTS[panel.kind]
            place = {"x": left, "y": top, "w": panel.width, "h": height}
            yield _panel(panel, number, place)
            number, left, tallest = number + 1, left + panel.width, max(tallest, height)
        top += tallest


def _heading(title: str, number: int, top: int) -> dict[str, Any]:
    place = {"x": 0, "y": top, "w": COLUMNS, "h": 1}
    return {"id": number, "type": "row", "title": title, "gridPos": place, "panels": []}


def _panel(panel: Panel, number: int, place: dict[str, int]) -> dict[str, Any]:
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": DATASOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": _defaults(panel), "overrides": []},
        "options": _options(panel),
        "targets": [
            {
                "refId": chr(ord("A") + at),
                "datasource": DATASOURCE,
                "expr": query.expr,
                "legendFormat": query.legend,
                "instant": panel.kind == "stat",
                "range": panel.kind != "stat",
            }
            for at, query in enumerate(panel.queries)
        ],
    }


def _defaults(panel: Panel) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [{"color": "green", "value": None}]
    steps += [{"color": color, "value": value} for color, value in panel.thresholds]
    defaults: dict[str, Any] = {
        "unit": panel.unit,
        "thresholds": {"mode": "absolute", "steps": steps},
    }
    if panel.kind == "timeseries":
        stacking = {"mode": "normal" if panel.stacked else "none", "group": "A"}
        defaults["min"] = None if panel.unit == "none" else 0
        defaults["custom"] = {"fillOpacity": 10, "showPoints": "never", "stacking": stacking}
    return defaults


def _options(panel: Panel) -> dict[str, Any]:
    if panel.kind == "stat":
        reduced = {"calcs": ["lastNotNull"], "fields": "", "values": False}
        return {"reduceOptions": reduced, "textMode": panel.text, "graphMode": "none"}
    return {
        "legend": {"displayMode": "list", "placement": "bottom"},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
