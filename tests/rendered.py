"""The chart as Helm renders it, for tests of what runs on it."""

from __future__ import annotations

import json
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from tests.kubernetes_tools import tool

ROOT = Path(__file__).parents[1]
CHART = ROOT / "charts" / "learnback"


@cache
def _render(arguments: tuple[str, ...]) -> str:
    command = [str(tool("helm")), "template", "lb", str(CHART), "--namespace", "learnback"]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def rendered(*arguments: str) -> list[dict[str, Any]]:
    """All objects, with values as arguments of Helm (`--set=...`, `--values=...`)."""
    return [found for found in yaml.safe_load_all(_render(arguments)) if found]


def one(objects: list[dict[str, Any]], kind: str, name: str) -> dict[str, Any]:
    """The object of a kind and a name."""
    found = [o for o in objects if o["kind"] == kind and o["metadata"]["name"] == name]
    assert len(found) == 1, f"{len(found)} of {kind} {name}"
    return found[0]


def job_template(objects: list[dict[str, Any]]) -> dict[str, Any]:
    """What training runs are made from."""
    found: dict[str, Any] = json.loads(
        one(objects, "ConfigMap", "lb-learnback-training")["data"]["job.json"]
    )
    return found
