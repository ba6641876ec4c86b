"""When to try again, and after how long. Pure."""

from __future__ import annotations

from dataclasses import dataclass

RETRIED = frozenset({408, 429, 500, 502, 503, 504})
"""Every request is safe to repeat: signals carry idempotency keys, the rest is idempotent."""


@dataclass(frozen=True)
class RetryPolicy:
    """Exponential backoff with jitter; times in seconds."""

    max_retries: int = 3
    base_s: float = 0.5
    longest_s: float = 8.0
    longest_retry_after_s: float = 60.0
    """A service that asks for more is not waited for."""

    def delay(
        self, failures: int, chance: float, retry_after_s: float | None = None
    ) -> float | None:
        """Seconds until the next attempt after `failures` of them; None: give up.

        `chance` in [0, 1) spreads callers over the upper half of the delay.
        """
        if failures > self.max_retries:
            return None
        if retry_after_s is not None:
            return retry_after_s if retry_after_s <= self.longest_retry_after_s else None
        full: float = min(self.longest_s, self.base_s * 2.0 ** (failures - 1))
        return full * (0.5 + chance / 2)
