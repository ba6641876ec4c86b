"""A queue of lines on disk, for the time that Redis is away: bounded, in order, crash-safe.

A process owns a folder with a locked `lock` file and segments `<uuid7>.jsonl`. A segment is read
whole before it is removed, so a crash repeats lines and loses none. A folder whose owner died is
taken over at the next start. Everything here blocks: call it from a thread.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import shutil
from collections.abc import Sequence
from io import FileIO
from pathlib import Path

from learnback.core.ids import uuid7

log = logging.getLogger(__name__)

SEGMENT_BYTES = 4 << 20
"""At most this much is published twice after a crash."""
SUFFIX = ".jsonl"


class SpoolFull(Exception):
    """The lines do not fit."""


class Spool:
    """A folder of segments, oldest first by name."""

    def __init__(self, root: Path, limit_bytes: int) -> None:
        self.folder = root / uuid7()
        self.limit_bytes = limit_bytes
        self._lock = _claim(self.folder)
        self._adopt(root)
        self._sizes = {path: path.stat().st_size for path in self._segments()}
        self._open: tuple[Path, FileIO] | None = None

    @property
    def size(self) -> int:
        """Bytes that wait."""
        return sum(self._sizes.values())

    @property
    def empty(self) -> bool:
        """Whether nothing waits."""
        return not self._sizes

    def append(self, lines: Sequence[bytes]) -> None:
        """Add lines; on disk when this returns. Raises SpoolFull or OSError, and adds none then."""
        block = b"".join(line + b"\n" for line in lines)
        if self.size + len(block) > self.limit_bytes:
            raise SpoolFull
        path, file = self._writable()
        start = self._sizes[path]
        try:
            if file.write(block) != len(block):
                raise OSError(errno.ENOSPC, "the disk took only a part")
            os.fsync(file.fileno())
        except OSError:
            self._discard_tail(path, start)
            raise
        self._sizes[path] = start + len(block)

    def oldest(self) -> tuple[Path, list[bytes]] | None:
        """The oldest segment and its lines; None if nothing waits."""
        if not self._sizes:
            return None
        path = min(self._sizes)
        if self._open is not None and self._open[0] == path:
            self._close_open()
        return path, path.read_bytes().splitlines()

    def remove(self, segment: Path) -> None:
        """The lines of a segment are elsewhere now."""
        segment.unlink(missing_ok=True)
        self._sizes.pop(segment, None)

    def close(self) -> None:
        """Give the folder up; what is left in it waits for the next process."""
        self._close_open()
        if not self._sizes:
            shutil.rmtree(self.folder, ignore_errors=True)
        self._lock.close()

    def _segments(self) -> list[Path]:
        return sorted(self.folder.glob(f"*{SUFFIX}"))

    def _writable(self) -> tuple[Path, FileIO]:
        if self._open is not None and self._sizes[self._open[0]] < SEGMENT_BYTES:
            return self._open
        self._close_open()
        path = self.folder / f"{uuid7()}{SUFFIX}"
        self._open = path, path.open("ab", buffering=0)
        self._sizes[path] = 0
        _sync_folder(self.folder)
        return self._open

    def _discard_tail(self, path: Path, size: int) -> None:
        """After a failed write: nothing of it may stay, and the handle is not to be trusted."""
        self._close_open()
        try:
            os.truncate(path, size)
        except OSError as error:
            log.error("%s: a torn line could not be cut off: %s", path, error)

    def _close_open(self) -> None:
        opened, self._open = self._open, None
        if opened is not None:
            try:
                opened[1].close()
            except OSError as error:  # what was acknowledged has been synced before
                log.error("%s: not closed cleanly: %s", opened[0], error)

    def _adopt(self, root: Path) -> None:
        """Take over the segments of processes that are gone."""
        for folder in sorted(root.iterdir()):
            if folder == self.folder or folder.name.startswith(".") or not folder.is_dir():
                continue
            try:
                lock = _locked(folder)
            except OSError:  # its owner lives
                continue
            segments = sorted(folder.glob(f"*{SUFFIX}"))
            for segment in segments:
                os.replace(segment, self.folder / segment.name)
            _sync_folder(self.folder)
            if segments:
                log.warning("%s: took over %d files of a dead process", root, len(segments))
            lock.close()
            shutil.rmtree(folder, ignore_errors=True)


def _claim(folder: Path) -> FileIO:
    """Make a folder that is locked before anybody can see it."""
    hidden = folder.with_name(f".{folder.name}")
    hidden.mkdir(parents=True)
    lock = _locked(hidden)
    os.replace(hidden, folder)
    return lock


def _locked(folder: Path) -> FileIO:
    file = (folder / "lock").open("ab", buffering=0)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise
    return file


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
