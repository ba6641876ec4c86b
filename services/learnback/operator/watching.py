"""Watches ModelRelease objects with kopf, so that an edit is acted on at once.

kopf runs in a thread with an event loop of its own: in the main one it would take the signals away
from the server. Its handler only wakes the mirror, so it writes nothing into any object.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import kopf

from learnback.operator.resource import GROUP, PLURAL, VERSION

Login = Callable[[], kopf.ConnectionInfo]
STOP_S = 15.0


async def watch(login: Login, namespace: str, wake: Callable[[], None]) -> None:
    """Call `wake` on every event of the namespace's objects until cancelled.

    Raises RuntimeError if kopf ends by itself.
    """
    loop, stop = asyncio.get_running_loop(), threading.Event()
    ended = asyncio.Event()

    def woken() -> None:
        loop.call_soon_threadsafe(wake)

    registry = _registry(login, woken)

    def work() -> None:
        try:
            asyncio.run(_operate(registry, namespace, stop))
        finally:
            if not stop.is_set():
                loop.call_soon_threadsafe(ended.set)

    thread = threading.Thread(target=work, name="kopf", daemon=True)
    thread.start()
    try:
        await ended.wait()
        raise RuntimeError("the watch of ModelRelease objects ended")
    finally:
        stop.set()
        await asyncio.to_thread(thread.join, STOP_S)


def _registry(login: Login, wake: Callable[[], None]) -> kopf.OperatorRegistry:
    registry = kopf.OperatorRegistry()

    def logged_in(**_: Any) -> kopf.ConnectionInfo:
        return login()

    def seen(**_: Any) -> None:
        wake()

    kopf.on.login(registry=registry)(logged_in)
    kopf.on.event(GROUP, VERSION, PLURAL, registry=registry)(seen)
    return registry


async def _operate(registry: kopf.OperatorRegistry, namespace: str, stop: threading.Event) -> None:
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.scanning.disabled = True
    await kopf.operator(
        registry=registry,
        settings=settings,
        namespaces=[namespace],
        standalone=True,
        stop_flag=stop,
    )
