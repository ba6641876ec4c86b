"""How operators' commands answer: a table for people, JSON for programs."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table


def as_data(value: Any) -> Any:
    """Dataclasses, models, times and paths as what JSON knows."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: as_data(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    if isinstance(value, Mapping):
        return {str(key): as_data(entry) for key, entry in value.items()}
    if isinstance(value, str | int | float | bool | None):
        return value.value if isinstance(value, Enum) else value
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Path):
        return str(value)
    return [as_data(entry) for entry in value]


def show_json(value: Any) -> None:
    """One JSON document on standard output."""
    click.echo(json.dumps(as_data(value), indent=2, ensure_ascii=False))


def show_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """A table on standard output; a line that says so where there are no rows."""
    if not rows:
        click.echo(f"{title}: none")
        return
    table = Table(title=title, title_justify="left", box=None, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*("-" if cell is None else str(as_data(cell)) for cell in row))
    Console().print(table)


def say(console: Console, text: str) -> None:
    """A line as it stands: no markup, no colours, no breaks of ours."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)
