"""Metrics of our own HTTP APIs, and of the readiness checks of every process."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from time import perf_counter

from prometheus_client import Counter, Gauge, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

REQUESTS = Counter(
    "learnback_http_requests_total",
    "Requests answered, but those for health and metrics.",
    ["method", "route", "status"],
)
SECONDS = Histogram(
    "learnback_http_request_seconds",
    "Time from a request's headers to the end of its answer.",
    ["method", "route"],
    buckets=(0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
CHECK = Gauge(
    "learnback_health_check_passed",
    "1 for each readiness check that passed when /readyz was asked last, else 0.",
    ["check"],
)

UNWATCHED = frozenset({"/healthz", "/readyz", "/metrics"})
"""Machines ask these all the time; among people's requests they would hide what people see."""
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
"""Anybody may send any word as a method, and a label must stay bounded."""


def checked(reasons: Mapping[str, str | None]) -> None:
    """Readiness was asked for; a check without a reason passed."""
    for name, reason in reasons.items():
        CHECK.labels(name).set(reason is None)


@cache
def _requests(method: str, route: str, status: int) -> Counter:
    return REQUESTS.labels(method, route, str(status))


@cache
def _seconds(method: str, route: str) -> Histogram:
    return SECONDS.labels(method, route)


class Measured:
    """ASGI middleware: counts and times requests by the route's template, never by its path."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on; one that the app raised on counts as the 500 that it becomes."""
        if scope["type"] != "http" or scope["path"] in UNWATCHED:
            await self.app(scope, receive, send)
            return
        status = 500
        start = perf_counter()

        async def watching(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, watching)
        finally:
            method = scope["method"] if scope["method"] in METHODS else "other"
            route = getattr(scope.get("route"), "path", "unknown")
            _requests(method, route, status).inc()
            _seconds(method, route).observe(perf_counter() - start)
