"""Writes the dashboards; `--check` only says whether they are current."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from charts.dashboards import loop, overview, serving, training

TARGET = Path(__file__).parents[1] / "learnback" / "dashboards"
DASHBOARDS: dict[str, dict[str, Any]] = {
    "overview": overview.DASHBOARD,
    "serving": serving.DASHBOARD,
    "loop": loop.DASHBOARD,
    "training": training.DASHBOARD,
}


def written() -> dict[Path, str]:
    """Each file with what belongs into it."""
    return {
        TARGET / f"{name}.json": json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        for name, content in DASHBOARDS.items()
    }


def main() -> None:
    """Write all files, or exit with the names of those that are not current."""
    files = written()
    if "--check" in sys.argv[1:]:
        stale = [p.name for p, text in files.items() if not p.is_file() or p.read_text() != text]
        sys.exit(f"run `python -m charts.dashboards`: {', '.join(stale)}" if stale else 0)
    for path, text in files.items():
        path.write_text(text)


if __name__ == "__main__":
    main()
