"""The way of a completion from its last byte to the stream, past every outage and every kill.

The server appends what it served to a journal, before the client has the last byte, and does
nothing else: a process beside it describes and publishes (`shipper`). With Redis away the journal
grows; what does not fit is counted.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from contextlib import suppress
from pathlib import Path
from types import TracebackType

import msgspec

from learnback.inference import metrics
from learnback.inference.completion import completion_of
from learnback.inference.journal import JournalFull, Writer
from learnback.inference.served import Served
from learnback.inference.shipper import PUBLISH_S, RETRY_S, Report

log = logging.getLogger(__name__)

RESTART_S = 1.0
"""Pause before the shipper is started again."""
END_S = PUBLISH_S + 5.0
"""How long it may take to ship the rest when the server ends; what it leaves waits on disk."""
NOT_FOR_IT = ("LD_PRELOAD", "OMP_NUM_THREADS")
"""Environment of an engine that only costs the shipper memory."""


class Recorder:
    """Records completions while its block is open."""

    def __init__(
        self, redis_url: str, root: Path, *, spool_bytes: int = 1 << 30, retry_s: float = RETRY_S
    ) -> None:
        self.redis_url = redis_url
        self.retry_s = retry_s
        self._journal = Writer(root, spool_bytes)
        self._encode = msgspec.msgpack.Encoder().encode
        self._offsets: dict[str, int] = {}
        self._shipper: asyncio.subprocess.Process | None = None
        self._closing = False
        self._needed = asyncio.Event()
        self._watch: asyncio.Task[None] | None = None

    @property
    def spooled_bytes(self) -> int:
        """Bytes that wait on disk; what waits nowhere else does not exist."""
        return self._journal.waiting_bytes(self._offsets)

    def submit(self, served: Served) -> None:
        """Take a completion over; it is safe from a kill of this process when this returns.

        Of one that may not be kept nothing but its description is written. That is made here, which
        takes about 2 us for each event of a stream.
        """
        if served.status < 400 and not served.stored:
            message = completion_of(served)
            metrics.ENDED.labels(message.track.value, message.end.value).inc()
            self._append(message.model_dump_json().encode())
            return
        if served.status >= 400:  # a refused request leaves no content either
            served = msgspec.structs.replace(served, request=b"", answer=[])
        self._append(self._encode(served))

    async def __aenter__(self) -> Recorder:
        """What an earlier process left on disk goes first; else shipping starts with a record."""
        metrics.SPOOL.set_function(lambda: self.spooled_bytes)
        metrics.SPOOL_LIMIT.set(self._journal.limit_bytes)
        if self._journal.has_neighbours():
            self._needed.set()
        self._watch = asyncio.create_task(self._keep_shipping(), name="shipper")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Let the shipper publish what waits; what it can't is on disk for the next start."""
        self._closing = True
        self._needed.set()
        self._hang_up()
        if self._watch is not None:
            done, _ = await asyncio.wait([self._watch], timeout=END_S)
            if not done:
                await self._kill()
        metrics.ANSWERS.count()
        self._journal.close()

    def _append(self, record: bytes) -> None:
        try:
            self._journal.append(record)
        except JournalFull:
            metrics.DROPPED.labels("spool_full").inc()
            return
        except OSError as error:
            log.error("the disk failed, a completion is not recorded: %s", error)
            metrics.DROPPED.labels("disk").inc()
            return
        self._needed.set()

    async def _keep_shipping(self) -> None:
        """Start the shipper, listen to it, and start it again should it end before us."""
        await self._needed.wait()
        while not self._closing or self.spooled_bytes:
            try:
                await self._run_shipper()
            except OSError as error:
                log.error("the process that records can't be started: %s", error)
            if self._closing:
                return
            log.error("the process that records ended; starting it again")
            await asyncio.sleep(RESTART_S)

    async def _run_shipper(self) -> None:
        environment = {k: v for k, v in os.environ.items() if k not in NOT_FOR_IT}
        self._shipper = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "learnback.inference.shipper"),
            *(str(self._journal.folder), str(self.retry_s)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            pass_fds=(self._journal.lock.fileno(),),  # nobody takes the folder while it ships
            env=environment | {"LEARNBACK_REDIS_URL": self.redis_url},
        )
        if self._closing:
            self._hang_up()
        before, stdout = Report(), self._shipper.stdout
        while stdout is not None and (line := await stdout.readline()):
            before = self._take(msgspec.json.decode(line, type=Report), before)
        await self._shipper.wait()

    def _take(self, report: Report, before: Report) -> Report:
        for name, count in report.ended.items():
            track, end = name.split(" ")
            metrics.ENDED.labels(track, end).inc(count - before.ended.get(name, 0))
        metrics.RECORDED.inc(report.recorded - before.recorded)
        metrics.UNREADABLE.inc(report.unreadable - before.unreadable)
        metrics.DROPPED.labels("bug").inc(report.failed - before.failed)
        metrics.ANSWERS.count()
        self._offsets = report.offsets
        return report

    def _hang_up(self) -> None:
        """End the shipper's input: it ships the rest and ends."""
        if self._shipper is not None and self._shipper.stdin is not None:
            self._shipper.stdin.close()

    async def _kill(self) -> None:
        if self._shipper is not None:
            with suppress(ProcessLookupError):
                self._shipper.kill()
        if self._watch is not None:
            await asyncio.wait([self._watch])
