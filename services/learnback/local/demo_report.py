"""What the demo found, as a table and as data."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from learnback.local.show import say


@dataclass
class DemoResult:
    """Everything that the demo measured; `--json` writes it as it stands."""

    preference: str
    seed: int
    model: str
    promoted: bool = False
    """The gate passed the new version and it answers under the public name."""
    verdict: str = "not judged"
    reasons: list[str] = field(default_factory=list)
    old_version: str | None = None
    new_version: str | None = None
    win_rate: float | None = None
    """Of the new version against the old by the hidden preference, on prompts that nobody asked
    before; a tie counts one half."""
    win_rate_low: float | None = None
    win_rate_high: float | None = None
    held_out_prompts: int = 0
    gate: dict[str, Any] | None = None
    """The gate's own report."""
    signals: dict[str, int] = field(default_factory=dict)
    """Feedback by status."""
    seconds: dict[str, float] = field(default_factory=dict)
    total_seconds: float = 0.0
    """After set-up, which is the preparation of the model."""
    examples: list[dict[str, str]] = field(default_factory=list)


def write_json(result: DemoResult, path: Path) -> None:
    """The result as data."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(asdict(result), indent=2, ensure_ascii=False) + "\n")


def show(result: DemoResult, console: Console) -> None:
    """The result as a table."""
    table = Table(title=f"What people who like '{result.preference}' got", title_justify="left")
    table.add_column("")
    table.add_column("", overflow="fold")
    for name, value in _rows(result):
        table.add_row(name, value)
    console.print(table)
    for example in result.examples[:3]:
        say(console, f"\nQ    {example['prompt']}")
        say(console, f"old  {example['old']}")
        say(console, f"new  {example['new']}")
    say(console, _conclusion(result))


def _rows(result: DemoResult) -> list[tuple[str, str]]:
    rows = [
        ("old version", result.old_version or "-"),
        ("new version", result.new_version or "-"),
        ("gate", result.verdict),
    ]
    if result.win_rate is not None:
        said = _rate(
            result.win_rate, result.win_rate_low, result.win_rate_high, result.held_out_prompts
        )
        rows.append(("preference win rate, new over old", said))
    elif judged := ((result.gate or {}).get("evaluation") or {}).get("win_rate"):
        said = _rate(judged["rate"], judged["low"], judged["high"], judged["n"])
        rows.append(("win rate by the gate's reward model", said))
    received = sum(result.signals.values())
    by_status = ", ".join(f"{count} {status}" for status, count in sorted(result.signals.items()))
    rows.append(("signals", f"{received}: {by_status}"))
    rows += [(f"seconds: {name}", f"{seconds:.0f}") for name, seconds in result.seconds.items()]
    rows.append(("seconds in all, after set-up", f"{result.total_seconds:.0f}"))
    return rows


def _rate(rate: float, low: float | None, high: float | None, prompts: int) -> str:
    return f"{rate:.2f} (95% interval {low:.2f} to {high:.2f}, {prompts} held-out prompts)"


def _conclusion(result: DemoResult) -> str:
    if result.promoted:
        return "\nThe new version passed the gate and answers everybody now."
    reasons = "".join(f"\n  - {reason}" for reason in result.reasons)
    kept = f"\nThe old version goes on answering. The gate said: {result.verdict}.{reasons}"
    if result.preference == "noise":
        return kept + "\nThat is right: nobody can learn what people like if they like nothing."
    return kept
