"""`learnback ladder`: measures every way of learning on one model, and writes the page."""

from __future__ import annotations

import json
import os
import platform
import shlex
import sys
import time
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from learnback.core.errors import BadRequest
from learnback.local.default_model import resolve_model
from learnback.local.ladder.ladder import Ladder
from learnback.local.ladder.page import COLUMNS, LadderResult, page_of, row
from learnback.local.show import say
from learnback_simulator.load import PreferenceError, load_preference

STEM = "ladder"


def run_ladder(
    *,
    budget: float,
    seed: int,
    json_file: Path | None,
    preference: str,
    model: str | None,
    out: Path,
) -> int:
    """Measure, and write ladder.md, ladder.html and the pictures into `out`; 1 if a rung failed."""
    console = Console()
    try:
        score = load_preference(preference, seed)
    except PreferenceError as error:
        raise BadRequest(str(error), field="--preference") from error
    chosen = resolve_model(model, console)
    out.mkdir(parents=True, exist_ok=True)
    result = LadderResult(
        model=Path(chosen).name,
        preference=preference,
        seed=seed,
        budget_minutes=budget,
        machine=describe_machine(),
        command=shlex.join(["learnback", *sys.argv[1:]]),
    )
    started = time.monotonic()

    def write() -> None:
        """After every stage: who ends a ladder early has what was measured by then."""
        result.total_seconds = round(time.monotonic() - started, 1)
        page_of(result).write(out, STEM)
        if json_file is not None:
            json_file.parent.mkdir(parents=True, exist_ok=True)
            json_file.write_text(json.dumps(asdict(result), indent=2, ensure_ascii=False) + "\n")

    Ladder(out, chosen, score, result, console).run(write)
    _show(result, console)
    say(console, f"\n{out / STEM}.md and .html hold the table, the pictures and some answers.")
    return 1 if result.failed else 0


def describe_machine() -> str:
    """Its cores and processor, as far as the system tells."""
    name = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                name = line.partition(":")[2].strip()
                break
    except OSError:
        pass
    return f"{len(os.sched_getaffinity(0))} cores, {name}"


def _show(result: LadderResult, console: Console) -> None:
    table = Table(title=f"The ladder: {result.preference}", title_justify="left")
    for column in COLUMNS:
        table.add_column(column, overflow="fold")
    for rung in result.rungs:
        table.add_row(*map(str, row(rung)))
    console.print(table)
    for name, why in result.failed.items():
        say(console, f"{name} could not be made: {why}")
