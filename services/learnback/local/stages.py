"""Progress of a long job in stages: bars on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from learnback.local.show import say

LINE_EVERY_S = 10.0
"""Often enough to see that it lives, rare enough for a log file."""


@dataclass
class Stage:
    """One stage: `advance` it as it goes."""

    name: str
    _stages: Stages = field(repr=False)
    started: float = field(default_factory=time.monotonic)
    done: float = 0.0
    total: float | None = None
    note: str = ""
    shown: float = 0.0
    moved: float = field(default_factory=time.monotonic)
    """When there was last more done than before, or of something else."""

    def advance(self, done: float, total: float | None = None, note: str = "") -> None:
        """So much is done, of so much; `note` says what is going on."""
        if (done, total) != (self.done, self.total):
            self.moved = time.monotonic()
        self.done, self.total, self.note = done, total, note
        self._stages.show(self)

    @property
    def seconds(self) -> float:
        """Since the stage began."""
        return time.monotonic() - self.started

    @property
    def still(self) -> float:
        """Seconds since it last moved."""
        return time.monotonic() - self.moved


class Stages:
    """All stages of a job, with the seconds that each took."""

    def __init__(self, console: Console, count: int) -> None:
        self.console = console
        self.count = count
        self.seconds: dict[str, float] = {}
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description:<34}"),
            BarColumn(bar_width=24),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
            transient=True,
        )

    @contextmanager
    def stage(self, name: str, about: str) -> Iterator[Stage]:
        """Run one stage; its seconds are kept under `name`."""
        stage = Stage(name, self)
        number = f"[{len(self.seconds) + 1}/{self.count}]"
        if not self.console.is_terminal:
            say(self.console, f"{number} {about}")
        with self._progress if self.console.is_terminal else _nothing():
            self._task = self._progress.add_task(f"{number} {about}", total=None, note="")
            try:
                yield stage
            finally:
                self.seconds[name] = round(stage.seconds, 2)
                self._progress.remove_task(self._task)
        note = f", {stage.note}" if stage.note else ""
        say(self.console, f"{number} {about}: {stage.seconds:.0f} s{note}")

    def show(self, stage: Stage) -> None:
        """Show how far `stage` is."""
        if self.console.is_terminal:
            self._progress.update(
                self._task, completed=stage.done, total=stage.total, note=stage.note
            )
            return
        if time.monotonic() - stage.shown >= LINE_EVERY_S:
            stage.shown = time.monotonic()
            share = f"{stage.done / stage.total:.0%}" if stage.total else "..."
            say(self.console, f"      {stage.seconds:.0f} s  {share}  {stage.note}")


@contextmanager
def _nothing() -> Iterator[None]:
    yield
