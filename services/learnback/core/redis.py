"""How we connect to Redis or Valkey."""

from __future__ import annotations

from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff

CONNECT_TIMEOUT_S = 5.0
SOCKET_TIMEOUT_S = 15.0
"""Longer than any blocking read (`Consumer.block`), so that a silent server is noticed."""


def connect(url: str) -> Redis:
    """A client for `url` that answers bytes; it connects on first use.

    No retries of its own: whoever calls decides, since a repeated XADD would be a second message.
    RESP2 whatever the URL says: stream answers have another shape in RESP3, which gains nothing.
    """
    return Redis.from_url(
        _without_protocol(url),
        protocol=2,
        socket_connect_timeout=CONNECT_TIMEOUT_S,
        socket_timeout=SOCKET_TIMEOUT_S,
        health_check_interval=30,
        retry=Retry(ExponentialBackoff(), 0),
    )


def _without_protocol(url: str) -> str:
    """redis-py lets the URL's options win over arguments."""
    parts = urlsplit(url)
    options = [(name, value) for name, value in parse_qsl(parts.query) if name != "protocol"]
    return urlunsplit(parts._replace(query=urlencode(options)))
