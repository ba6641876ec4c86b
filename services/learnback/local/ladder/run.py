"""`learnback ladder`: measures every way of learning on one model, and writes the page."""

from __future__ import annotations

import json
import os
import platform
import shlex
import sys
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
    resume: bool = False,
) -> int:
    """Measure, and write ladder.md, .html, .json and the pictures into `out`; 1 if a rung failed.

    With `resume` go on where one in `out` was ended: what it has is not measured again.
    """
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
    if resume:
        result = _earlier(out / f"{STEM}.json", result)

    def write() -> None:
        """After every stage: who ends a ladder early has what was measured by then."""
        result.total_seconds = round(sum(result.seconds.values()), 1)
        page_of(result).write(out, STEM)
        for file in filter(None, (out / f"{STEM}.json", json_file)):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(asdict(result), indent=2, ensure_ascii=False) + "\n")

    Ladder(out, chosen, score, result, console).run(write)
    _show(result, console)
    say(console, f"\n{out / STEM}.md and .html hold the table, the pictures and some answers.")
    return 1 if result.failed else 0


def _earlier(file: Path, asked: LadderResult) -> LadderResult:
    """What an earlier ladder has measured. Raises BadRequest if it is none, or of something else:
    rungs of two ladders can't be compared.
    """
    try:
        found = LadderResult.from_json(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise BadRequest(
            f"{file} can't be read ({error}): leave --resume away to begin a ladder.",
            field="--resume",
        ) from error
    for name in ("model", "preference", "seed", "budget_minutes"):
        then, now = getattr(found, name), getattr(asked, name)
        if then != now:
            raise BadRequest(
                f"The ladder in {file.parent} has {name} {then}, not {now}: give the same, or "
                "another --out.",
                field="--resume",
            )
    return found


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
