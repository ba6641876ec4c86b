"""Nothing that was served is lost while Redis is away, and what must be dropped is counted."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest
from tests.conftest import wait_until
from tests.inference_server import inference_server, recorded
from tests.unit.test_parse import a_served, chat

from learnback.core import valkey
from learnback.core.redis import connect
from learnback.inference import metrics
from learnback.inference.recorder import Recorder
from learnback.inference.served import Served


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
    name = f"chatcmpl-{number}"
    answer = [served.answer[0].replace(b"chatcmpl-1", name.encode())]
    return msgspec.structs.replace(served, id=name, answer=answer)


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
    async with Recorder(own.url, tmp_path / "spool", retry_s=0.1) as recorder:
        for number in range(50):
            recorder.submit(numbered(number))
        await all_there(client, 50)
        own.kill()
        for number in range(50, 150):
            recorder.submit(numbered(number))
            await asyncio.sleep(0)
        assert recorder.spooled_bytes > 0, "it waits on disk"
        own.start()
        for number in range(150, 200):
            recorder.submit(numbered(number))
        await all_there(client, 200)
        await wait_until(lambda: recorder.spooled_bytes == 0, "nothing waits any more")
        recorder.submit(numbered(200))
        found = await all_there(client, 201)
    assert_in_order(found, 201)


async def test_a_redis_that_hangs_holds_up_nobody(
    own: OwnValkey, client: Any, tmp_path: Path
) -> None:
    async with Recorder(own.url, tmp_path / "spool", retry_s=0.1) as recorder:
        recorder.submit(numbered(0))
        await all_there(client, 1)
        process = own.process
        process.suspend()
        try:
            began = asyncio.get_running_loop().time()
            for number in range(1, 20):
                recorder.submit(numbered(number))
            assert asyncio.get_running_loop().time() - began < 1.0
        finally:
            process.resume()
        found = await all_there(client, 20)
    assert set(found) == {f"chatcmpl-{number}" for number in range(20)}


async def test_what_waits_at_the_end_is_found_at_the_next_start(
    own: OwnValkey, client: Any, tmp_path: Path
) -> None:
    own.kill()
    async with Recorder(own.url, tmp_path / "spool", retry_s=0.1) as recorder:
        for number in range(30):
            recorder.submit(numbered(number))
    own.start()
    async with Recorder(own.url, tmp_path / "spool", retry_s=0.1) as recorder:
        await all_there(client, 30)
        for number in range(30, 40):
            recorder.submit(numbered(number))
        found = await all_there(client, 40)
        await wait_until(lambda: recorder.spooled_bytes == 0, "nothing waits any more")
    assert_in_order(found, 40)
    assert list((tmp_path / "spool").iterdir()) == [], "no folder is left behind"


KILLED = """
import asyncio, os, signal, sys
from pathlib import Path
from tests.integration.test_inference_recorder import numbered
from learnback.inference.recorder import Recorder

async def main():
    async with Recorder(sys.argv[1], Path(sys.argv[2])) as recorder:
        for number in range(300):
            recorder.submit(numbered(number))
            if number == 150:
                await asyncio.sleep(0.5)  # the shipper may have begun, or not
        os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


async def test_what_was_answered_before_a_kill_nine_is_recorded(
    own: OwnValkey, client: Any, tmp_path: Path
) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", KILLED, own.url, str(tmp_path / "spool")
    )
    assert await process.wait() == -signal.SIGKILL
    async with Recorder(own.url, tmp_path / "spool", retry_s=0.1):
        found = await all_there(client, 300)
    assert set(found) == {f"chatcmpl-{number}" for number in range(300)}


async def test_a_killed_shipper_is_started_again_and_loses_nothing(
    own: OwnValkey, client: Any, tmp_path: Path
) -> None:
    async with Recorder(own.url, tmp_path / "spool", retry_s=0.1) as recorder:
        for number in range(20):
            recorder.submit(numbered(number))
        await all_there(client, 20)
        for child in psutil.Process().children():
            if "learnback.inference.shipper" in child.cmdline():
                child.kill()
        for number in range(20, 40):
            recorder.submit(numbered(number))
        found = await all_there(client, 40)
    assert_in_order(found, 40)


async def test_a_full_disk_drops_and_counts(own: OwnValkey, client: Any, tmp_path: Path) -> None:
    own.kill()
    before = dropped("spool_full")
    async with Recorder(own.url, tmp_path / "spool", spool_bytes=5_000, retry_s=0.1) as recorder:
        for number in range(100):
            recorder.submit(numbered(number, size=100))
        kept, lost = recorder.spooled_bytes, int(dropped("spool_full") - before)
        assert 0 < kept <= metrics.SPOOL_LIMIT._value.get() == 5_000
        assert 0 < lost < 100
        own.start()
        found = await all_there(client, 100 - lost)
    assert len(found) + lost == 100


async def test_what_may_not_be_kept_never_touches_the_disk(
    own: OwnValkey, client: Any, tmp_path: Path
) -> None:
    own.kill()
    secret = a_served([chat(["unspeakable"])])
    async with Recorder(own.url, tmp_path / "spool", retry_s=0.1) as recorder:
        recorder.submit(msgspec.structs.replace(secret, stored=False))
        refused = msgspec.structs.replace(secret, status=400, request=b"unspeakable", id="x")
        recorder.submit(refused)
        assert b"chatcmpl-1" in _written(tmp_path), "it is safe when the client has its last byte"
        assert b"unspeakable" not in _written(tmp_path)
        own.start()
        found = await all_there(client, 2)
    assert set(found) == {"x", "chatcmpl-1"}


def _written(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.glob("spool/*/*.journal"))


async def test_requests_are_answered_while_redis_is_away(
    own: OwnValkey, client: Any, tmp_path: Path
) -> None:
    async with inference_server(tmp_path / "home", own.url) as server:
        own.kill()
        answers = [await server.chat(f"word {i}") for i in range(5)]
        assert server.now.recorder.spooled_bytes > 0
        assert (await server.http.get("/readyz")).status_code == 200
        own.start()
        found = await all_there(client, 5)
    assert list(dict.fromkeys(found)) == [answer.json()["id"] for answer in answers]


async def test_an_answer_is_safe_before_the_client_has_its_last_byte(
    own: OwnValkey, tmp_path: Path
) -> None:
    own.kill()
    async with inference_server(tmp_path / "home", own.url) as server:
        for streamed in (False, True):
            before = len(_written(tmp_path / "home"))
            answer = await server.chat("word", stream=streamed)
            assert len(_written(tmp_path / "home")) > before + len(answer.content)


async def test_a_torn_record_is_counted_and_the_others_are_published(
    own: OwnValkey, client: Any, tmp_path: Path
) -> None:
    before = metrics.UNREADABLE._value.get()
    own.kill()
    async with Recorder(own.url, tmp_path / "spool", retry_s=0.1) as recorder:
        recorder.submit(numbered(0))
    (segment,) = (tmp_path / "spool").glob("*/*.journal")
    with segment.open("ab") as file:
        file.write((1000).to_bytes(4, "little") + b"a part")
    own.start()
    async with Recorder(own.url, tmp_path / "spool", retry_s=0.1):
        assert set(await all_there(client, 1)) == {"chatcmpl-0"}
        await wait_until(lambda: metrics.UNREADABLE._value.get() > before, "it is counted")


async def test_a_long_stream_holds_up_nobody(own: OwnValkey, client: Any, tmp_path: Path) -> None:
    long = a_served([chat(["word "] * 20_000)])
    async with Recorder(own.url, tmp_path / "spool") as recorder:
        began = asyncio.get_running_loop().time()
        recorder.submit(long)
        assert asyncio.get_running_loop().time() - began < 0.25
        await all_there(client, 1)
        (served,) = await recorded(client)
    assert served.choices[0].text == "word " * 20_000
