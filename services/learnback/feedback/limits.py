"""Rate limits: a token bucket for each caller, in this process's memory."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

from learnback.core.errors import TooManyRequests

MOST_CALLERS = 10_000
"""Buckets kept; the one used longest ago goes first, which at worst forgives its caller."""


class RateLimiter:
    """`rate` signals a second for each caller, `burst` at once."""

    def __init__(
        self, rate: float, burst: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.rate = rate
        self.burst = burst
        self.clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, caller: str, count: int = 1) -> None:
        """Spend `count` tokens; TooManyRequests if the caller has fewer, and none are spent.

        A batch larger than the burst passes with a full bucket, and empties it.
        """
        at = self.clock()
        tokens, since = self._buckets.pop(caller, (self.burst, at))
        tokens = min(self.burst, tokens + (at - since) * self.rate)
        cost = min(float(count), self.burst)
        enough = tokens >= cost
        self._buckets[caller] = (tokens - cost if enough else tokens, at)
        if len(self._buckets) > MOST_CALLERS:
            self._buckets.popitem(last=False)
        if not enough:
            raise TooManyRequests(
                f"Over {self.rate:g} signals a second; try again as Retry-After says.",
                retry_after_s=(cost - tokens) / self.rate,
            )
