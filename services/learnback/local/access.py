"""An operator's way into a platform: its ledger, its streams, and its HTTP admin API."""

from __future__ import annotations

import asyncio
import getpass
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import httpx
from redis.asyncio import Redis
from redis.exceptions import RedisError

from learnback.core.errors import LearnbackError, Unavailable, Unprocessable
from learnback.core.redis import connect
from learnback.core.settings import CommonSettings
from learnback.ledger.database import Database
from learnback.local.home import operator_settings, require_running

T = TypeVar("T")


@dataclass(frozen=True)
class Access:
    """Open connections of one command."""

    settings: CommonSettings
    database: Database
    redis: Redis


@asynccontextmanager
async def access(settings: CommonSettings) -> AsyncIterator[Access]:
    """Connections for one command, closed at its end."""
    database, redis = Database(settings.ledger_url), connect(settings.redis_url)
    try:
        yield Access(settings, database, redis)
    except (RedisError, OSError) as error:
        raise Unavailable(
            f"Redis can't be reached at {settings.redis_url}: {error}. Is the platform running? "
            "Set LEARNBACK_REDIS_URL or --home."
        ) from error
    finally:
        await redis.aclose()
        await database.close()


def run(home: Path | None, work: Callable[[Access], Awaitable[T]]) -> T:
    """Run one command's work with its connections."""

    async def inside() -> T:
        async with access(operator_settings(home)) as opened:
            return await work(opened)

    return asyncio.run(inside())


def actor() -> str:
    """Who gives a command, for the history."""
    return f"operator:{getpass.getuser()}"


def time_of(text: str, option: str) -> datetime:
    """A time as `option` was given it, by the clock here unless it names a zone."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError as error:
        raise Unprocessable(
            f"{text!r} is no time: write 2026-11-23T12:00:00Z.", field=option
        ) from error
    return at if at.tzinfo else at.astimezone()


def ask(
    home: Path | None,
    process: str,
    method: str,
    path: str,
    body: Any = None,
    *,
    base: str | None = None,
) -> Any:
    """The answer of a process's admin API, as data; its problem document as an error.

    `base` is its URL; None: that of the platform running here. `LEARNBACK_API_KEY` is sent where
    it is set.
    """
    return _request(home, process, method, path, body, base).json()


def read_page(home: Path | None, process: str, path: str, *, base: str | None = None) -> str:
    """A page of a process's admin API, as text; errors as with `ask`."""
    return _request(home, process, "GET", path, None, base).text


def _request(
    home: Path | None, process: str, method: str, path: str, body: Any, base: str | None
) -> httpx.Response:
    base = base or require_running(operator_settings(home).home).urls[process]
    key = os.environ.get("LEARNBACK_API_KEY")
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        answer = httpx.request(
            method, f"{base}{path}", json=body, headers=headers, timeout=30, trust_env=False
        )
    except httpx.HTTPError as error:
        raise Unavailable(f"{process} can't be reached at {base}: {error}") from error
    if answer.is_error:
        detail = answer.json().get("detail")
        raise LearnbackError(f"{process} answered {answer.status_code}: {detail}")
    return answer
