"""How far an evaluation is: for people who wait for it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from learnback.release import metrics


@dataclass
class Progress:
    """The evaluation of one version; `total` and `done` count answers."""

    version: str
    stage: str = "waiting"
    """waiting, loading (the engine loads the adapter), generating, scoring or done."""
    total: int = 0
    done: int = 0
    generated: int = 0
    """Of `done`, those that took time; the others were cached."""
    failed: int = 0
    started: float = field(default_factory=time.monotonic)
    clock: Callable[[], float] = time.monotonic

    def begin(self, stage: str, total: int | None = None) -> None:
        """Enter a stage."""
        self.stage = stage
        if total is not None:
            self.total, self.started = total, self.clock()
        self._publish()

    def step(self, *, generated: bool, failed: bool = False) -> None:
        """One answer more."""
        self.done += 1
        self.generated += generated
        self.failed += failed
        self._publish()

    @property
    def percent(self) -> float:
        """Of the answers, in [0, 100]."""
        if self.stage == "done":
            return 100.0
        return 100.0 * self.done / self.total if self.total else 0.0

    @property
    def eta_s(self) -> float | None:
        """Seconds to go at the speed so far; None before the first generated answer."""
        if not self.generated:
            return None
        return (self.clock() - self.started) / self.generated * (self.total - self.done)

    def as_data(self) -> dict[str, Any]:
        """For the API."""
        eta = self.eta_s
        return {
            "version": self.version,
            "stage": self.stage,
            "done": self.done,
            "total": self.total,
            "failed": self.failed,
            "percent": round(self.percent, 1),
            "seconds": round(self.clock() - self.started, 1),
            "eta_s": None if eta is None else round(eta, 1),
        }

    def _publish(self) -> None:
        metrics.EVALUATION_PROGRESS.set(self.percent / 100)
        metrics.EVALUATION_ETA.set(self.eta_s or 0)
