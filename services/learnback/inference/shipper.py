"""The process beside a server that brings what it served from the journal to the stream.

It is a process of its own so that describing and publishing cost the server nothing, and so that a
server that is killed still has its last answers recorded. It looks into the journal a few times a
second, so that the server need not wake it; the end of its standard input means that the server is
gone. Each line on its standard output is a `Report`. While Redis is away it tries again, and what
waits stays in the journal.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
from pydantic import ValidationError
from redis.asyncio import Redis
from redis.exceptions import RedisError

from learnback.contracts.messages import CompletionServed
from learnback.contracts.streams import COMPLETIONS
from learnback.core import logging as core_logging
from learnback.core.bus import publish
from learnback.core.redis import connect
from learnback.core.settings import CommonSettings
from learnback.inference.completion import completion_of
from learnback.inference.journal import Reader
from learnback.inference.served import Served

log = logging.getLogger(__name__)

BATCH = 128
"""Measured for the bus: one round trip costs as much as fifty messages."""
PUBLISH_S = 5.0
"""A Redis that takes longer is away."""
POLL_S = 0.2
"""Between looks into the journal: feedback that comes sooner waits for its completion."""
MANY, MANY_POLL_S = 8, 1.0
"""After so many records in one look the next one waits longer: in a row each costs less (measured
beside vLLM at 50 a second: 190 us of CPU instead of 290), and the cores are the engine's."""
RETRY_S = 1.0
"""Between attempts to reach a Redis that is away."""
NICENESS = 10
"""Behind the server: at the same priority, waking us takes the core away from it (measured: 5% of a
busy server's time on two cores)."""
REPORT_S = 0.5
"""Between reports: the server has better things to do than to read them."""
ADOPT_S = 30.0
"""Between looks for journals whose processes are gone."""

_SERVED = msgspec.msgpack.Decoder(Served)


class Report(msgspec.Struct, omit_defaults=True):
    """What has been done since the process began."""

    recorded: int = 0
    unreadable: int = 0
    """Records that a crash had torn."""
    failed: int = 0
    """Records that could not be described."""
    ended: dict[str, int] = {}
    """Requests by `<track> <end>`; how a stream ended shows only when it is parsed."""
    offsets: dict[str, int] = {}
    """How far each segment of the journal has been read."""


class Shipper:
    """Publishes what the journal holds; `report` says what became of it."""

    def __init__(self, reader: Reader, redis: Redis) -> None:
        self.reader = reader
        self.redis = redis
        self.report = Report()
        self._batches: list[tuple[list[CompletionServed], str, int]] = []

    async def ship(self, *, writer_gone: bool = False) -> bool:
        """Publish all that is there; False if Redis is away."""
        while True:
            if not self._batches:
                records, segment, offset = self.reader.read(writer_gone=writer_gone)
                self.report.offsets = dict(self.reader.offsets)
                self.report.unreadable += self.reader.torn
                self.reader.torn = 0
                if not records:
                    return True
                self._batches = _batched(self._describe(records), segment, offset)
            if not await self._publish():
                return False

    def _describe(self, records: Sequence[bytes]) -> list[CompletionServed]:
        messages = []
        for record in records:
            os.sched_yield()  # whoever has an answer to give waits for one record, not for all
            message = self._described(record)
            if message is not None:
                messages.append(message)
        return messages

    def _described(self, record: bytes) -> CompletionServed | None:
        """A record as a message; one that can't be described must not take the others along."""
        if record[:1] == b"{":  # described before it was written: it keeps no content
            try:
                return CompletionServed.model_validate_json(record)
            except ValidationError:
                self.report.unreadable += 1
                return None
        try:
            served = _SERVED.decode(record)
        except msgspec.DecodeError:
            self.report.unreadable += 1
            return None
        try:
            message = completion_of(served)
        except Exception:  # whatever an engine may answer, the next record goes on
            log.exception("%s can't be described", served.id)
            self.report.failed += 1
            return None
        kind = f"{message.track} {message.end}"
        self.report.ended[kind] = self.report.ended.get(kind, 0) + 1
        return message

    async def _publish(self) -> bool:
        """Publish the batch at hand; False, and keep it, if that is not certain."""
        messages, segment, offset = self._batches[0]
        try:
            async with asyncio.timeout(PUBLISH_S):
                await publish(self.redis, COMPLETIONS, messages)
        except (RedisError, OSError, TimeoutError) as error:
            log.warning("Redis is away, completions stay on disk: %s", error)
            self.reader.sync()
            return False
        self._batches.pop(0)
        self.report.recorded += len(messages)
        if not self._batches:
            self.reader.advance(segment, offset)
        return True


def _batched(
    messages: list[CompletionServed], segment: str, offset: int
) -> list[tuple[list[CompletionServed], str, int]]:
    """In parts of `BATCH`; at least one, so that records of no use are passed as well."""
    starts = range(0, max(1, len(messages)), BATCH)
    return [(messages[at : at + BATCH], segment, offset) for at in starts]


async def run(folder: Path, redis_url: str, say: int, *, retry_s: float = RETRY_S) -> None:
    """Ship until standard input ends, then what is left; `say` is the descriptor for reports."""
    redis = connect(redis_url)
    shipper = Shipper(Reader(folder), redis)
    try:
        async with _standard_input() as server:
            await _until_gone(shipper, server, say, retry_s)
        await shipper.ship(writer_gone=True)
        _tell(say, shipper.report)
    finally:
        await redis.aclose()


async def _until_gone(
    shipper: Shipper, server: asyncio.StreamReader, say: int, retry_s: float
) -> None:
    """Ship what comes, for as long as the server is there."""
    loop = asyncio.get_running_loop()
    adopt_at, report_at, told = 0.0, 0.0, b""
    while not server.at_eof():
        if loop.time() >= adopt_at:
            adopt_at = loop.time() + ADOPT_S
            if taken := shipper.reader.adopt():
                log.warning("took over %d files of a process that is gone", taken)
        before = shipper.report.recorded
        through = await shipper.ship()
        many = shipper.report.recorded - before >= MANY
        if loop.time() >= report_at:
            report_at, told = loop.time() + REPORT_S, _tell(say, shipper.report, told)
        pause_s = MANY_POLL_S if many else POLL_S
        await _wait(server, pause_s if through else retry_s)


async def _wait(server: asyncio.StreamReader, longest_s: float) -> None:
    """Until the server is gone or `longest_s` are over."""
    try:
        async with asyncio.timeout(longest_s):
            await server.read()
    except TimeoutError:
        return


@asynccontextmanager
async def _standard_input() -> AsyncIterator[asyncio.StreamReader]:
    """Standard input as a stream."""
    reader = asyncio.StreamReader()
    protocol = asyncio.StreamReaderProtocol(reader)
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_read_pipe(lambda: protocol, os.fdopen(0, "rb", buffering=0))
    try:
        yield reader
    finally:
        transport.close()


def _tell(descriptor: int, report: Report, before: bytes = b"") -> bytes:
    """Write a report, unless it says the same as the one before; the line."""
    line = msgspec.json.encode(report) + b"\n"
    if line != before:
        try:
            os.write(descriptor, line)
        except BrokenPipeError:  # the server is gone; its journal is still to be shipped
            return line
    return line


def main() -> None:
    """`python -m learnback.inference.shipper FOLDER RETRY_SECONDS`; settings as the server's."""
    for number in (signal.SIGINT, signal.SIGTERM):  # meant for the server; we end after it
        signal.signal(number, signal.SIG_IGN)
    os.nice(NICENESS)
    common = CommonSettings()
    core_logging.configure("inference", level=common.log_level, format=common.log_format)
    asyncio.run(run(Path(sys.argv[1]), common.redis_url, 1, retry_s=float(sys.argv[2])))


if __name__ == "__main__":
    main()
