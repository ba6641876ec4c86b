"""How a process lives: it serves HTTP, runs its workers beside, and drains on SIGTERM."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI

from learnback.core import draining, wire
from learnback.core.bus import Consumer
from learnback.core.http import problem_document
from learnback.core.settings import CommonSettings

log = logging.getLogger(__name__)

DRAIN_S = 20.0
"""Longest wait for open requests and batches after SIGTERM; Kubernetes gives 30 by default."""


def serve(app: FastAPI, host: str, port: int, common: CommonSettings) -> None:
    """Serve `app` until SIGTERM or SIGINT; open requests get `DRAIN_S` to finish."""
    app.state.draining = drains = draining.Draining(common.linger)
    draining.run(
        app,
        drains,
        host=host,
        port=port,
        http=wire.protocol(common.head_timeout, problem_document, drains),
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=int(DRAIN_S),
        server_header=False,
    )


Loop = Callable[[], Awaitable[None]]


@asynccontextmanager
async def running(
    *, consumers: Sequence[Consumer[Any]] = (), loops: Sequence[Loop] = ()
) -> AsyncIterator[None]:
    """Run consumers and endless loops beside the block.

    At the end consumers finish their batch, loops are cancelled. A loop that dies of an error
    takes the process down, so that whoever supervises it restarts it.
    """
    reading = [
        asyncio.create_task(c.run_forever(), name=f"{c.stream.name}/{c.group}") for c in consumers
    ]
    looping = [asyncio.create_task(_run(loop), name=loop.__qualname__) for loop in loops]
    tasks = [*reading, *looping]
    for task in tasks:
        task.add_done_callback(_die_on_error)
    try:
        yield
    finally:
        for consumer in consumers:
            consumer.stop()
        for task in looping:
            task.cancel()
        late = (await asyncio.wait(tasks, timeout=DRAIN_S))[1] if tasks else set()
        for task in late:
            log.warning("%s did not finish in %s s", task.get_name(), DRAIN_S)
            task.cancel()


async def _run(loop: Loop) -> None:
    await loop()


def _die_on_error(task: asyncio.Task[Any]) -> None:
    if task.cancelled() or task.exception() is None:
        return
    log.critical("%s died; the process ends", task.get_name(), exc_info=task.exception())
    os.kill(os.getpid(), signal.SIGTERM)


def consumers_ready(consumers: Sequence[Consumer[Any]]) -> Callable[[], Awaitable[str | None]]:
    """A readiness check: every consumer reached Redis in its last round."""

    async def check() -> str | None:
        away = [f"{c.stream.name}/{c.group}" for c in consumers if not c.healthy]
        return f"not consuming: {', '.join(away)}" if away else None

    return check
