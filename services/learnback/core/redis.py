"""How we connect to Redis or Valkey."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff

from learnback.core.errors import Conflict

OLDEST = 7
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


async def check_server(redis: Redis) -> None:
    """Raises Conflict unless the server is Redis 7 or newer, or Valkey (which began as Redis 7.2):
    older ones can't tell how far a group is behind.
    """
    told: dict[str, Any] = await redis.info("server")
    version = str(told.get("redis_version", "0"))
    if int(version.partition(".")[0] or 0) < OLDEST:
        raise Conflict(
            f"The server is Redis {version}; Learnback needs Redis {OLDEST} or newer, or Valkey 8 "
            "or newer. Upgrade it, or point LEARNBACK_REDIS_URL at another one."
        )


def _without_protocol(url: str) -> str:
    """redis-py lets the URL's options win over arguments."""
    parts = urlsplit(url)
    options = [(name, value) for name, value in parse_qsl(parts.query) if name != "protocol"]
    return urlunsplit(parts._replace(query=urlencode(options)))
