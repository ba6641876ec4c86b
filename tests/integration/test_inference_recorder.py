"""Nothing that was served is lost while Redis is away, and what must be dropped is counted."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.conftest import wait_until
from tests.inference_server import inference_server, recorded
from tests.unit.test_parse import a_served, chat

from learnback.core import valkey
from learnback.core.redis import connect
from learnback.inference import metrics
from learnback.inference.exchange import Served
from learnback.inference.recorder import Recorder
from learnback.inference.spool import Spool, SpoolFull


class OwnValkey:
    """A Valkey of this test's own, to be killed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.server = valkey.start(folder)
        self.port = self.server.port
        self.url = f"redis://127.0.0.1:{self.port}/0"

    @property
    def process(self) -> psutil.Process:
        """The one that listens on our port."""
        for child in psutil.Process().children(recursive=True):
            listening = (c for c in child.net_connections() if c.status == "LISTEN")
            if any(c.laddr.port == self.port for c in listening):
                return child
        raise LookupError("no server to kill")

    def kill(self) -> None:
        process = self.process
        process.kill()
        process.wait(10)

    def start(self) -> None:
        self.server = valkey.start(self.folder, self.port)


@pytest.fixture
def own(tmp_path: Path) -> Any:
    server = OwnValkey(tmp_path / "valkey")
    yield server
    server.server.stop()


@pytest.fixture
async def client(own: OwnValkey) -> AsyncIterator[Any]:
    opened = connect(own.url)
    yield opened
    await opened.aclose()


def numbered(number: int, size: int = 1) -> Served:
    served = a_served([chat([f"{number} " + "x" * size])])
    object.__setattr__(served, "id", f"chatcmpl-{number}")
    served.answer[0] = served.answer[0].replace(b"chatcmpl-1", served.id.encode())
    return served


def dropped(reason: str) -> float:
    return metrics.DROPPED.labels(reason)._value.get()


async def ids(client: Any) -> list[str]:
    try:
        return [served.id for served in await recorded(client)]
    except OSError:
        return []


async def all_there(client: Any, count: int) -> list[str]:
    async def enough() -> list[str]:
        found = await ids(client)
        return found if len(set(found)) >= count else []

    return list(await wait_until(enough, f"{count} completions on the stream"))


def assert_in_order(found: list[str], count: int) -> None:
    """Each id, in order; repeats only of what was sent before, never a jump back for the first."""
    firsts = list(dict.fromkeys(found))
    assert firsts == [f"chatcmpl-{number}" for number in range(count)]


async def test_nothing_is_lost_and_the_order_stays_while_redis_is_killed(
    own: OwnValkey, client: Any, tmp_path: Path
) -> None:
    async with Recorder(client, tmp_path / "spool", retry_s=0.1) as recorder:
        for number in range(50):
            recorder.submit(numbered(number))
        await all_there(client, 50)
        own.kill()
        for number in range(50, 150):
            recorder.submit(numbered(number))
            if number % 20 == 0:
                await wait_until(lambda: recorder.waiting == 0, "it is on disk")
        await wait_until(lambda: recorder.spooled_bytes, "the disk takes over")
        own.start()
        for number in range(150, 200):
            recorder.submit(numbered(number))
        found = await all_there(client, 200)
        await wait_until(lambda: recorder.spooled_bytes == 0, "the spool is empty")
        recorder.submit(numbered(200))
        found = await all_there(client, 201)
    assert_in_order(found, 201)


async def test_a_redis_that_hangs_holds_up_nobody(
    own: OwnValkey, client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("learnback.inference.recorder.PUBLISH_S", 0.3)
    async with Recorder(client, tmp_path / "spool", retry_s=0.1) as recorder:
        process = own.process
        process.suspend()
        try:
            for number in range(20):
                recorder.submit(numbered(number))
            await wait_until(lambda: recorder.spooled_bytes, "the disk takes over")
        finally:
            process.resume()
        found = await all_there(client, 20)
    assert set(found) == {f"chatcmpl-{number}" for number in range(20)}


async def test_what_waits_at_the_end_is_found_at_the_next_start(
    own: OwnValkey, client: Any, tmp_path: Path
) -> None:
    own.kill()
    async with Recorder(client, tmp_path / "spool", retry_s=0.1) as recorder:
        for number in range(30):
            recorder.submit(numbered(number))
    own.start()
    async with Recorder(client, tmp_path / "spool", retry_s=0.1) as recorder:
        for number in range(30, 40):
            recorder.submit(numbered(number))
        found = await all_there(client, 40)
        await wait_until(lambda: recorder.spooled_bytes == 0, "the spool is empty")
    assert_in_order(found, 40)
    assert list((tmp_path / "spool").iterdir()) == [], "no folder is left behind"


async def test_a_full_buffer_drops_and_counts(own: OwnValkey, client: Any, tmp_path: Path) -> None:
    before = dropped("buffer_full")
    async with Recorder(client, tmp_path / "spool", buffer_completions=10) as recorder:
        for number in range(25):  # the loop does not run in between
            recorder.submit(numbered(number))
    assert dropped("buffer_full") - before == 15
    assert len(await ids(client)) == 10


async def test_a_full_disk_drops_and_counts(own: OwnValkey, client: Any, tmp_path: Path) -> None:
    own.kill()
    before = dropped("spool_full")
    async with Recorder(client, tmp_path / "spool", spool_bytes=5_000, retry_s=0.1) as recorder:
        for number in range(100):
            recorder.submit(numbered(number, size=100))
            await wait_until(lambda: recorder.waiting == 0, "it is dealt with")
        kept = recorder.spooled_bytes
        assert metrics.SPOOL_LIMIT._value.get() == 5_000
        own.start()
        lost = dropped("spool_full") - before
        found = await all_there(client, 100 - int(lost))
    assert 0 < kept <= 5_000
    assert 0 < lost < 100
    assert len(found) + lost == 100


async def test_requests_are_answered_while_redis_is_away(
    own: OwnValkey, client: Any, tmp_path: Path
) -> None:
    async with inference_server(tmp_path / "home", own.url) as server:
        own.kill()
        answers = [await server.chat(f"word {i}") for i in range(5)]
        await wait_until(lambda: server.now.recorder.spooled_bytes, "the disk takes over")
        assert (await server.http.get("/readyz")).status_code == 200
        own.start()
        found = await all_there(client, 5)
    assert found == [answer.json()["id"] for answer in answers]


def test_a_spool_of_a_living_process_is_left_alone(tmp_path: Path) -> None:
    one = Spool(tmp_path, 1000)
    one.append([b"a"])
    two = Spool(tmp_path, 1000)
    assert two.empty
    one.close()
    three = Spool(tmp_path, 1000)
    oldest = three.oldest()
    assert oldest is not None
    assert oldest[1] == [b"a"]


def test_a_spool_of_a_killed_process_is_taken_over_in_order(tmp_path: Path) -> None:
    def child(letters: bytes) -> None:
        spool = Spool(tmp_path, 10_000)
        for at in range(len(letters)):
            spool.append([letters[at : at + 1]])
        os.kill(os.getpid(), signal.SIGKILL)

    for letters in (b"ab", b"cd"):
        pid = os.fork()
        if pid == 0:
            child(letters)
        os.waitpid(pid, 0)
    found = []
    spool = Spool(tmp_path, 10_000)
    while oldest := spool.oldest():
        found += oldest[1]
        spool.remove(oldest[0])
    assert found == [b"a", b"b", b"c", b"d"]


def test_a_spool_takes_all_lines_or_none(tmp_path: Path) -> None:
    spool = Spool(tmp_path, 10)
    spool.append([b"12345"])
    with pytest.raises(SpoolFull):
        spool.append([b"1", b"2345"])
    oldest = spool.oldest()
    assert oldest is not None
    assert oldest[1] == [b"12345"]


async def test_a_torn_line_is_counted_and_the_others_are_published(
    own: OwnValkey, client: Any, tmp_path: Path
) -> None:
    before = metrics.UNREADABLE._value.get()
    own.kill()
    async with Recorder(client, tmp_path / "spool", retry_s=0.1) as recorder:
        recorder.submit(numbered(0))
    (segment,) = (tmp_path / "spool").glob("*/*.jsonl")
    with segment.open("ab") as file:
        file.write(b'{"id": "chatcmpl-1", "ten')
    own.start()
    async with Recorder(client, tmp_path / "spool", retry_s=0.1):
        assert await all_there(client, 1) == ["chatcmpl-0"]
        await wait_until(lambda: metrics.UNREADABLE._value.get() > before, "it is counted")


async def test_a_long_stream_lets_others_run_while_it_is_parsed(
    own: OwnValkey, client: Any, tmp_path: Path
) -> None:
    async with Recorder(client, tmp_path / "spool") as recorder:
        recorder.submit(a_served([chat(["word "] * 20_000)]))
        longest, last = 0.0, asyncio.get_running_loop().time()
        while recorder.waiting:
            await asyncio.sleep(0)
            now = asyncio.get_running_loop().time()
            longest, last = max(longest, now - last), now
        (served,) = await recorded(client)
    assert served.choices[0].text == "word " * 20_000
    assert longest < 0.25, "seconds in which nothing else ran; one go takes far longer"
