"""The server is killed with -9 and comes back from its append-only file: nothing is lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
from redis.exceptions import RedisError
from tests.conftest import wait_until
from tests.factories import a_model_trained, a_release_changed

from learnback.contracts.messages import ModelTrained, ReleaseChanged
from learnback.contracts.streams import MODELS, RELEASES
from learnback.core import valkey
from learnback.core.bus import Consumer, create_groups, follow, publish
from learnback.core.redis import connect
from learnback.core.streams import dead_letters

GROUP = MODELS.groups[0]


class Server:
    """A Valkey that can be killed and started again on its port with its data."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.process = valkey.start(folder)
        self.port = self.process.port
        self.url = f"redis://127.0.0.1:{self.port}/0"

    def kill(self) -> None:
        """kill -9 of the server itself."""
        found = [
            p
            for p in psutil.Process().children(recursive=True)
            if any(c.laddr.port == self.port for c in p.net_connections() if c.status == "LISTEN")
        ]
        assert found, "no server to kill"
        for process in found:
            process.kill()
            process.wait(10)

    def start(self) -> None:
        self.process = valkey.start(self.folder, self.port)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    server = Server(tmp_path / "valkey")
    yield server
    server.process.stop()


async def publish_surely(redis: Any, version: str) -> None:
    """Publish until it is certain, as every writer here does."""
    while True:
        try:
            await publish(redis, MODELS, [a_model_trained(version)])
            return
        except (RedisError, OSError):
            await asyncio.sleep(0.05)


async def test_nothing_is_lost_when_the_server_is_killed(server: Server) -> None:
    writer, reader = connect(server.url), connect(server.url)
    await create_groups(writer)
    handled: list[str] = []

    async def handler(messages: Sequence[ModelTrained]) -> None:
        await asyncio.sleep(0.005)  # so that a batch is in hand when the server dies
        handled.extend(m.version for m in messages)

    reading = Consumer(
        reader, MODELS, GROUP, handler, name="r", batch_size=4, redelivery_s=0.5, block_ms=20
    )
    task = asyncio.create_task(reading.run_forever())
    sent = [f"v{i}" for i in range(120)]
    for number, version in enumerate(sent):
        if number in {40, 80}:
            await wait_until(lambda n=number: len(handled) > n // 2, "the consumer is at work")
            server.kill()
            server.start()
        await publish_surely(writer, version)
    await wait_until(lambda: set(handled) >= set(sent), "every message handled at least once")

    async def all_done() -> bool:
        return (await writer.xpending(MODELS.key, GROUP))["pending"] == 0

    await wait_until(all_done, "every message acknowledged")
    assert await dead_letters(writer, MODELS) == []
    reading.stop()
    await task
    for client in (writer, reader):
        await client.aclose()


async def test_follow_misses_nothing_across_a_restart(server: Server) -> None:
    writer, reader = connect(server.url), connect(server.url)
    seen: list[int] = []
    truths: list[int] = []

    async def truth() -> None:
        truths.append(len(truths))

    async def message(changed: ReleaseChanged) -> None:
        seen.append(changed.revision)

    task = asyncio.create_task(follow(reader, RELEASES, message, on_connect=truth))
    await wait_until(lambda: truths, "the follower has started")
    await publish(writer, RELEASES, [a_release_changed(1)])
    await wait_until(lambda: seen == [1], "the first message")
    server.kill()
    server.start()

    async def second_sent() -> bool:
        try:
            await publish(writer, RELEASES, [a_release_changed(2)])
        except (RedisError, OSError):
            return False
        return True

    await wait_until(second_sent, "a message while the follower is away")
    await wait_until(lambda: 2 in seen and len(truths) >= 2, "it reached the follower")
    assert sorted(set(seen)) == [1, 2]
    task.cancel()
    for client in (writer, reader):
        await client.aclose()


async def test_a_server_that_lost_everything_gets_its_groups_back(server: Server) -> None:
    writer, reader = connect(server.url), connect(server.url)
    handled: list[str] = []

    async def handler(messages: Sequence[ModelTrained]) -> None:
        handled.extend(m.version for m in messages)

    reading = Consumer(reader, MODELS, GROUP, handler, name="r", block_ms=20)
    task = asyncio.create_task(reading.run_forever())
    await publish(writer, MODELS, [a_model_trained("before")])
    await wait_until(lambda: handled == ["before"], "the first message")
    await writer.flushall()
    await publish(writer, MODELS, [a_model_trained("after")])
    await wait_until(lambda: handled == ["before", "after"], "the message after the loss")
    reading.stop()
    await task
    for client in (writer, reader):
        await client.aclose()
