"""Rate limits: a token bucket for each caller, in this process's memory."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

from fastapi import FastAPI
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from learnback.core.errors import TooManyRequests
from learnback.core.http import problem
from learnback.core.http_metrics import UNWATCHED
from learnback.core.ids import digest_text
from learnback.core.settings import CommonSettings

MOST_CALLERS = 10_000
"""Buckets kept; the one used longest ago goes first, which at worst forgives its caller."""


REQUESTS_AT_ONCE_S, FAILURES_AT_ONCE_S = 5.0, 30.0
"""Seconds' worth of tokens that a full bucket holds: a page that loads, a key that was mistyped."""


class RateLimiter:
    """`rate` a second for each caller, `burst` at once; `what` are counted."""

    def __init__(
        self,
        rate: float,
        burst: float,
        clock: Callable[[], float] = time.monotonic,
        what: str = "signals",
    ) -> None:
        self.what = what
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
                f"Over {self.rate:g} {self.what} a second; try again as Retry-After says.",
                retry_after_s=(cost - tokens) / self.rate,
            )


def limit_requests(app: FastAPI, common: CommonSettings) -> None:
    """Answer 429 to who asks `app` too often; before `add_health_routes`, which counts it too."""
    rate, failed = common.requests_per_s, common.failed_keys_per_s
    app.add_middleware(
        RequestLimits,
        requests=RateLimiter(rate, rate * REQUESTS_AT_ONCE_S, what="requests"),
        failures=RateLimiter(failed, failed * FAILURES_AT_ONCE_S, what="wrong keys"),
    )


class RequestLimits:
    """ASGI middleware: limits requests by API key, or by address without one, and wrong keys by
    address.

    An address that was wrong too often gets 429 in place of 401. Its right keys pass: behind a
    proxy that hides them, one caller must not lock the others out.
    """

    def __init__(self, app: ASGIApp, *, requests: RateLimiter, failures: RateLimiter) -> None:
        self.app = app
        self.requests = requests
        self.failures = failures

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or say when to come again."""
        if scope["type"] != "http" or scope["path"] in UNWATCHED:
            await self.app(scope, receive, send)
            return
        address = scope["client"][0] if scope.get("client") else "unknown"
        try:
            self.requests.take(_key_in(scope) or address)
        except TooManyRequests as error:
            await problem(error, instance=scope["path"])(scope, receive, send)
            return
        refused: TooManyRequests | None = None

        async def counting(message: Message) -> None:
            """Let no 401 out that is one too many; an error here would be a bug to the app."""
            nonlocal refused
            if message["type"] == "http.response.start" and message["status"] == 401:
                refused = self._too_many(address)
            if refused is None:
                await send(message)

        await self.app(scope, receive, counting)
        if refused is not None:
            await problem(refused, instance=scope["path"])(scope, receive, send)

    def _too_many(self, address: str) -> TooManyRequests | None:
        """Count a wrong key of an address."""
        try:
            self.failures.take(address)
        except TooManyRequests as error:
            return error
        return None


def _key_in(scope: Scope) -> str | None:
    """The key that a request shows, as a digest: buckets outlive the request."""
    for name, value in scope["headers"]:
        if name == b"authorization":
            return digest_text(value.decode("latin-1"))
    return None
