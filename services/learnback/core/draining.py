"""How a server goes: it says so, serves a while longer, and ends what it began."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import sys
from contextlib import suppress
from datetime import timedelta
from typing import Any

import uvicorn

log = logging.getLogger(__name__)

STARTUP_FAILURE = 3
"""Exit code of a server that never listened, as uvicorn's own."""


class Draining:
    """The end of one server, from SIGTERM or SIGINT on.

    At once readiness says no, and each answer closes its connection (RFC 9112, 9.6), so that
    clients who keep theirs go elsewhere. New connections are served for `linger`, since who routes
    here learns it late. Then nobody is listened to any more, and answers under way have their time.
    """

    def __init__(self, linger: timedelta = timedelta(0)) -> None:
        self.linger = linger
        self.begun = False

    @property
    def problem(self) -> str | None:
        """Why the server is not ready; None if it stays."""
        return "it was told to stop and serves what still comes" if self.begun else None

    def watch(self, server: uvicorn.Server) -> None:
        """Obey signals from here on, whoever did before."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.told, server, number)

    def told(self, server: uvicorn.Server, number: signal.Signals = signal.SIGTERM) -> None:
        """A signal came; a second SIGINT hurries, a third waits for no answer."""
        if not self.begun:
            self.begun = True
            seconds = self.linger.total_seconds()
            log.info("told to stop: connections are closed, new ones are served for %g s", seconds)
            for connection in server.server_state.connections:
                cycle = getattr(connection, "cycle", None)  # the answer under way, or the last one
                if cycle is not None:
                    cycle.keep_alive = False
            asyncio.get_running_loop().call_later(seconds, _stop, server)
        elif number == signal.SIGINT:
            server.force_exit = server.should_exit
            _stop(server)


def _stop(server: uvicorn.Server) -> None:
    """Listen no longer, let answers end, then the lifespan."""
    server.should_exit = True


class DrainingServer(uvicorn.Server):
    """A server of our own that goes in this way, and with exit code 0."""

    def __init__(self, config: uvicorn.Config, draining: Draining) -> None:
        super().__init__(config)
        self.draining = draining

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Until the server listens, a signal ends it at once."""
        await super().startup(sockets)
        self.draining.watch(self)


def run(app: Any, draining: Draining, **options: Any) -> None:
    """Serve `app` until it is told to stop; uvicorn's options."""
    server = DrainingServer(uvicorn.Config(app, **options), draining)
    with suppress(KeyboardInterrupt):
        server.run()
    if not server.started:
        sys.exit(STARTUP_FAILURE)
