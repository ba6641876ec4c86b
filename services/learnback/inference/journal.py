"""A queue of records on disk between two processes: one appends, the other reads and removes.

What was appended outlives a `kill -9` of the writer: it is in the kernel's hands when `append`
returns. The writer owns a folder with a locked `lock` file and segments `<uuid7>.journal`; a record
is its length in four bytes (little-endian) and its bytes. A segment is removed when it has been
read whole, so a crash of the reader repeats records and loses none. A folder whose processes are
gone is taken over by another reader.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import shutil
from io import FileIO
from pathlib import Path

from learnback.core.ids import uuid7

log = logging.getLogger(__name__)

SEGMENT_BYTES = 4 << 20
"""At most this much is read twice after a crash."""
SUFFIX = ".journal"
HEADER_BYTES = 4
READ_BYTES = 1 << 20


class JournalFull(Exception):
    """The record does not fit."""


class Writer:
    """Appends; its folder and lock end with `close`, if nothing is left to read."""

    def __init__(self, root: Path, limit_bytes: int) -> None:
        self.folder = root / uuid7()
        self.limit_bytes = limit_bytes
        self.lock = _claim(self.folder)
        self._sizes: dict[str, int] = {}
        """Bytes of the segments that were there when somebody looked last, by their names."""
        self._name = ""
        self._file: FileIO | None = None

    def append(self, record: bytes) -> None:
        """Add a record, whole or not at all. Raises JournalFull or OSError."""
        size = HEADER_BYTES + len(record)
        if not self._fits(size):
            raise JournalFull
        file = self._open()
        written = os.writev(file.fileno(), (len(record).to_bytes(HEADER_BYTES, "little"), record))
        if written != size:  # what follows must not begin within a torn record
            self._end_segment()
            raise OSError(errno.ENOSPC, "the disk took only a part")
        self._sizes[self._name] += size

    def waiting_bytes(self, read: dict[str, int] | None = None) -> int:
        """Bytes that are not read; `read`: how far the reader is, by the segment's name."""
        for name in [name for name in self._sizes if name != self._name]:
            if not (self.folder / name).exists():
                del self._sizes[name]
        done = read or {}
        return sum(size - done.get(name, 0) for name, size in self._sizes.items())

    def has_neighbours(self) -> bool:
        """Whether there are other folders, of processes that live or are gone."""
        return any(f != self.folder and f.is_dir() for f in self.folder.parent.iterdir())

    def close(self) -> None:
        """Give the folder up; what is left in it waits for another reader."""
        if self._file is not None:
            self._file.close()
        if not any(self.folder.glob(f"*{SUFFIX}")):
            shutil.rmtree(self.folder, ignore_errors=True)
        self.lock.close()

    def _fits(self, size: int) -> bool:
        if sum(self._sizes.values()) + size <= self.limit_bytes:
            return True
        return self.waiting_bytes() + size <= self.limit_bytes

    def _open(self) -> FileIO:
        if self._file is None or self._sizes[self._name] >= SEGMENT_BYTES:
            if self._file is not None:
                self._file.close()
            self._name = f"{uuid7()}{SUFFIX}"
            self._file = (self.folder / self._name).open("ab", buffering=0)
            self._sizes[self._name] = 0
        return self._file

    def _end_segment(self) -> None:
        """Cut a torn record off, and go on in a new segment: the handle is not to be trusted."""
        path, file, self._file = self.folder / self._name, self._file, None
        try:
            os.truncate(path, self._sizes[self._name])
            if file is not None:
                file.close()
        except OSError as error:
            log.error("%s: a torn record could not be cut off: %s", path, error)


class Reader:
    """Reads the segments of a folder, oldest first, and those that it took over from others."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.offsets: dict[str, int] = {}
        """Bytes that were taken, by the names of the segments that are still there."""
        self.torn = 0
        """Segments that ended within a record."""
        self._adopted: set[str] = set()

    def read(self, *, writer_gone: bool = False) -> tuple[list[bytes], str, int]:
        """The next whole records, and the segment and offset behind them; none: wait for more.

        A segment that is read whole, and that nobody writes to any more, is removed.
        """
        while segments := self._segments():
            path = segments[0]
            # Looked at before reading: what was complete then has nothing more to come.
            complete = writer_gone or len(segments) > 1 or path.name in self._adopted
            records, end = self._records(path)
            if records or not complete:
                return records, path.name, end
            self._remove(path)
        return [], "", 0

    def advance(self, segment: str, offset: int) -> None:
        """The records before `offset` are elsewhere now."""
        self.offsets[segment] = offset

    def _remove(self, path: Path) -> None:
        if path.stat().st_size > self.offsets.pop(path.name, 0):
            self.torn += 1
            log.warning("%s ended within a record", path)
        path.unlink()
        self._adopted.discard(path.name)

    def sync(self) -> None:
        """Bring what waits to the disk itself, for the time that it has to wait there."""
        for path in self._segments():
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def adopt(self) -> int:
        """Take over the segments of folders whose processes are gone; their number."""
        taken = 0
        for folder in sorted(self.folder.parent.iterdir()):
            if folder == self.folder or folder.name.startswith(".") or not folder.is_dir():
                continue
            try:
                lock = _locked(folder)
            except OSError:  # its owner lives
                continue
            for segment in sorted(folder.glob(f"*{SUFFIX}")):
                os.replace(segment, self.folder / segment.name)
                self._adopted.add(segment.name)
                taken += 1
            lock.close()
            shutil.rmtree(folder, ignore_errors=True)
        return taken

    def _segments(self) -> list[Path]:
        return sorted(self.folder.glob(f"*{SUFFIX}"))

    def _records(self, path: Path) -> tuple[list[bytes], int]:
        offset = self.offsets.get(path.name, 0)
        if path.stat().st_size == offset:  # most looks find nothing new
            return [], offset
        with path.open("rb", buffering=0) as file:
            file.seek(offset)
            block = file.read(READ_BYTES)
            needed = HEADER_BYTES + int.from_bytes(block[:HEADER_BYTES], "little")
            if len(block) == READ_BYTES < needed:  # one record that is longer than a block
                block += file.read(needed - len(block))
        return _split(block, offset)


def _split(block: bytes, offset: int) -> tuple[list[bytes], int]:
    """The whole records at the beginning of `block`, and where they end in the segment."""
    records, at = [], 0
    while at + HEADER_BYTES <= len(block):
        end = at + HEADER_BYTES + int.from_bytes(block[at : at + HEADER_BYTES], "little")
        if end > len(block):
            break
        records.append(block[at + HEADER_BYTES : end])
        at = end
    return records, offset + at


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
