"""Which files answer somebody now, and when each did last: what is in use is never unloaded."""

from __future__ import annotations

import time
from collections.abc import Iterable

IDLE_S = 600.0
"""What nobody has used for so long may go: pinned versions are asked in bursts."""


class Uses:
    """Counts running answers by adapter or example bank. Called for each request."""

    def __init__(self, idle_s: float = IDLE_S) -> None:
        self.idle_s = idle_s
        self._running: dict[str, int] = {}
        self._last: dict[str, float] = {}

    def touch(self, adapter: str) -> None:
        """Somebody is about to use it."""
        self._last[adapter] = time.monotonic()

    def begin(self, adapter: str) -> None:
        """An answer begins."""
        self._running[adapter] = self._running.get(adapter, 0) + 1

    def end(self, adapter: str) -> None:
        """An answer has ended, however it did."""
        self._running[adapter] -= 1
        self.touch(adapter)

    def idle(self, adapters: Iterable[str]) -> list[str]:
        """Those that answer nobody and have not for a while."""
        before = time.monotonic() - self.idle_s
        return [
            name
            for name in adapters
            if not self._running.get(name) and self._last.get(name, before + 1) <= before
        ]

    def forget(self, adapter: str) -> None:
        """It is unloaded."""
        self._running.pop(adapter, None)
        self._last.pop(adapter, None)
