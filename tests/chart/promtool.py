"""promtool for tests: it checks rules, and runs the unit tests of alerts."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest


def promtool(*arguments: str | Path) -> str:
    """What promtool says; fails the test with its words if it finds something wrong."""
    done = subprocess.run(
        [_path(), *map(str, arguments)], check=False, capture_output=True, text=True
    )
    if done.returncode != 0:
        pytest.fail(f"promtool {' '.join(map(str, arguments))}\n{done.stdout}{done.stderr}")
    return done.stdout


def check_expressions(folder: Path, expressions: Mapping[str, str]) -> None:
    """Fails with the name of each expression that is no PromQL."""
    rules = [
        {"record": f"checked:{number}", "expr": text, "labels": {"place": place}}
        for number, (place, text) in enumerate(expressions.items())
    ]
    file = folder / "expressions.yaml"  # JSON is YAML
    file.write_text(json.dumps({"groups": [{"name": "checked", "rules": rules}]}))
    promtool("check", "rules", file)


def _path() -> str:
    found = shutil.which("promtool", path=str(Path(sys.executable).parent)) or shutil.which(
        "promtool"
    )
    if found is None:
        pytest.fail(
            "promtool is missing: run `make dev`, which takes it out of Debian's package "
            "`prometheus`; where there is no apt, install Prometheus 2.42 or newer on PATH"
        )
    return found
