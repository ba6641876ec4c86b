"""Verified copies of artifacts on a disk of processes that use them: those that nobody uses go.

A copy is a folder that `ArtifactStore.fetch` made. Processes may share the folder of copies, so its
time says when somebody held it last: fetching sets it, and whoever holds a copy for longer sets it
again and again.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

UNUSED = timedelta(days=1)
"""From the last sign that somebody holds a copy until it goes: a process that hangs for hours still
finds its files, and fetching one again takes seconds."""


def tidy(cache: Path, held: Iterable[Path] = ()) -> list[str]:
    """Sign what this process holds, and remove what nobody has signed for long; their names.

    What a killed process left half-way goes as well. Safe beside others; never raises OSError for
    what it can't remove.
    """
    for copy in held:
        with suppress(OSError):
            os.utime(copy)
    if not cache.is_dir():
        return []
    oldest = time.time() - UNUSED.total_seconds()
    return sorted(entry.name for entry in cache.iterdir() if _removed(entry, oldest))


def _removed(copy: Path, oldest: float) -> bool:
    """Whether it was old, and is gone: it disappears whole. What another removes is no trouble."""
    with suppress(OSError):
        if copy.stat().st_mtime < oldest:
            grave = Path(tempfile.mkdtemp(prefix=".unused-", dir=copy.parent))
            try:
                os.replace(copy, grave / "old")
            finally:
                shutil.rmtree(grave, ignore_errors=True)
            return True
    return False
