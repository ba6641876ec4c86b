"""Requests to the feedback API that never become any: what is sent by halves, or is no HTTP."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from typing import Any

import pytest
from tests.feedback_service import live, snapshot

from learnback.feedback.settings import FeedbackSettings

MAX_BODY = 100_000
HEAD = (
    b"POST /v1/feedback HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    b"Content-Length: 100\r\n\r\n"
)
CHUNKED = (
    b"POST /v1/feedback HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n"
)
WIRE = [
    ("half a body, then silence", HEAD + b'{"kind":', 408, "body did not arrive"),
    ("half a body, then gone", HEAD + b'{"kind":', None, ""),
    ("no body at all", HEAD, 408, "body did not arrive"),
    ("chunks that never end", CHUNKED + b"5\r\n{\"a\":\r\n", 408, "body did not arrive"),
    ("chunks over the limit", CHUNKED + b"20000\r\n" + b"x" * 0x20000 + b"\r\n", 413, "100000"),
    ("a length over the limit", HEAD.replace(b"100", b"100001"), 413, "not 100001"),
    ("a length that is no number", HEAD.replace(b"100", b"lots"), 400, "not HTTP"),
    ("a negative length", HEAD.replace(b"100", b"-1"), 400, "not HTTP"),
    ("a chunk size that is no number", CHUNKED + b"zz\r\n", 400, "not HTTP"),
    ("no HTTP at all", b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", 400, "not HTTP"),
    ("half a line", b"POST /v1/feed", 408, "headers did not arrive"),
    ("headers that never end", HEAD[:-2], 408, "headers did not arrive"),
]  # fmt: skip


async def an_answer(reader: asyncio.StreamReader) -> tuple[int, Any]:
    """The status and the problem document of one answer."""
    head = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)).decode().lower()
    assert "content-type: application/problem+json\r\n" in head
    length = int(head.partition("content-length: ")[2].partition("\r\n")[0])
    return int(head.split(" ")[1]), json.loads(await reader.readexactly(length))


async def on_the_wire(
    address: tuple[str, int], sent: bytes, *expected: tuple[int | None, str]
) -> None:
    """Send it, and read the answers; None: hang up at once."""
    reader, writer = await asyncio.open_connection(*address)
    writer.write(sent)
    await writer.drain()
    for status, says in expected:
        if status is not None:
            answered, body = await an_answer(reader)
            assert (answered, body["status"]) == (status, status), body
            assert says in body["detail"]
    writer.close()


async def test_half_sent_bodies_leave_no_trace(
    sqlite_database: Any, redis: Any, valkey_url: str
) -> None:
    settings = FeedbackSettings(max_body_bytes=MAX_BODY, body_timeout=timedelta(seconds=0.5))
    before = await snapshot(sqlite_database)
    head_timeout = timedelta(seconds=0.6)
    with live(
        sqlite_database.url, valkey_url, settings=settings, head_timeout=head_timeout
    ) as served:
        for name, sent, status, says in WIRE:
            try:
                await on_the_wire(served.address, sent, (status, says))
            except (AssertionError, TimeoutError, EOFError, ConnectionError) as error:
                pytest.fail(f"{name}: {error!r}")
        ok = HEAD.replace(b"100", b"2") + b"{}"
        late = (408, "headers did not arrive")
        await on_the_wire(served.address, ok + ok + b"GET /", *[(422, "")] * 2, late)
        reader, writer = await asyncio.open_connection(*served.address)
        assert await asyncio.wait_for(reader.read(), 10) == b"", "who says nothing gets nothing"
        writer.close()
    assert await snapshot(sqlite_database) == before


async def test_without_a_key_no_body_is_waited_for(sqlite_database: Any, valkey_url: str) -> None:
    told = (401, "API key")
    with live(sqlite_database.url, valkey_url, require_keys=True) as served:
        await on_the_wire(served.address, HEAD, told)
        await on_the_wire(served.address, HEAD.replace(b"100", b"1000000000"), told)
        await on_the_wire(served.address, HEAD.replace(b"100", b"1") + b"{", told)
