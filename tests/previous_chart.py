"""The chart as an earlier version of this repository has it."""

from __future__ import annotations

import io
import subprocess
import tarfile
from pathlib import Path

import pytest
from tests.conftest import NOT_RUN
from tests.rendered import CHART, ROOT

PLACE = CHART.relative_to(ROOT).as_posix()
CHANGES = 20
"""Without a release yet, the chart before its last changes, so many."""


def _git(*arguments: str) -> bytes:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, check=False)
    return done.stdout if done.returncode == 0 else b""


def version() -> str:
    """The last release; before the first one, a commit. Empty where git has no history here."""
    released = _git("describe", "--tags", "--abbrev=0", "HEAD~1").decode().strip()
    changes = _git("log", f"-{CHANGES}", "--format=%H", "--", PLACE).decode().split()
    return released or (changes[-1] if len(changes) == CHANGES else "")


def previous_chart(folder: Path) -> Path:
    """Write that chart into a folder; skips, loudly, without history (a shallow clone)."""
    archive = _git("archive", version(), PLACE) if version() else b""
    if not archive:
        pytest.skip(f"{NOT_RUN}upgrades from the chart before: git has no earlier version here")
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        files.extractall(folder, filter="data")
    return folder / PLACE
