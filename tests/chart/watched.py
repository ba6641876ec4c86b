"""What the chart renders for watching, as a release `shop` in the namespace `chats`."""

from __future__ import annotations

import subprocess
from functools import cache
from typing import Any

import yaml
from tests.chart.expressions import CHART
from tests.kubernetes_tools import tool

SETTINGS = (
    "monitoring.podMonitor.enabled=true",
    "monitoring.podMonitor.labels.team=chats",
    "monitoring.prometheusRule.enabled=true",
    "monitoring.prometheusRule.runbookBaseUrl=https://books.example/run/",
    "monitoring.dashboards.enabled=true",
    "externalDatabase.url=postgresql://ledger",
    "artifacts.url=s3://versions",
    "rewardEngine.enabled=true",
    "rewardEngine.models.accessModes={ReadWriteMany}",
    "operator.enabled=true",
    "inference.autoscaling.by=keda",
    "inference.autoscaling.prometheusUrl=http://prometheus:9090",
)


@cache
def rendered() -> tuple[dict[str, Any], ...]:
    """All objects, with monitoring and scaling by waiting requests."""
    command = [tool("helm"), "template", "shop", str(CHART), "--namespace", "chats"]
    for setting in SETTINGS:
        command += ["--set", setting]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return tuple(found for found in yaml.safe_load_all(done.stdout) if found)


def watched(kind: str) -> list[dict[str, Any]]:
    """The objects of a kind."""
    return [found for found in rendered() if found["kind"] == kind]
