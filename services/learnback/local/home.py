"""The folder of one machine's platform, and what a running `learnback up` says of itself there."""

from __future__ import annotations

import fcntl
import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO

from learnback.core.errors import Conflict, Unavailable
from learnback.core.settings import CommonSettings


@dataclass(frozen=True)
class Running:
    """Where a running platform listens."""

    pid: int
    redis_url: str
    urls: dict[str, str] = field(default_factory=dict)
    """HTTP base URL by process."""
    public_name: str = "learnback"


def _file(home: Path) -> Path:
    return home / "up.json"


def write_running(home: Path, running: Running) -> None:
    """Say where the platform listens; readers see the old file or the new one, never half."""
    scratch = _file(home).with_suffix(".tmp")
    scratch.write_text(json.dumps(asdict(running), indent=2))
    os.replace(scratch, _file(home))


def forget_running(home: Path) -> None:
    """The platform has stopped."""
    _file(home).unlink(missing_ok=True)


def read_running(home: Path) -> Running | None:
    """The platform that runs in `home`; None if there is none or its process is gone."""
    try:
        running = Running(**json.loads(_file(home).read_text()))
        os.kill(running.pid, 0)
    except (FileNotFoundError, ProcessLookupError):
        return None
    return running


def operator_settings(home: Path | None) -> CommonSettings:
    """Settings for an operator's command: of the environment, else of the platform in `home`."""
    settings = CommonSettings(home=home) if home else CommonSettings()
    if "LEARNBACK_REDIS_URL" in os.environ:
        return settings
    running = read_running(settings.home)
    if running is None:
        return settings
    return settings.model_copy(update={"redis_url": running.redis_url})


def require_running(home: Path) -> Running:
    """The running platform; Unavailable with the way out otherwise."""
    running = read_running(home)
    if running is None:
        raise Unavailable(
            f"No platform runs in {home}. Start one with `learnback up`, or name its folder "
            "with --home."
        )
    return running


def lock(home: Path) -> IO[str]:
    """Take the folder for one platform until the file is closed; Conflict if it is taken."""
    home.mkdir(parents=True, exist_ok=True)
    file = (home / "lock").open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise Conflict(
            f"A platform runs in {home} already. Stop it, or name another folder with --home."
        ) from None
    return file
