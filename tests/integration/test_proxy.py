"""The reverse proxy before real sockets: an engine that does as each test says."""

from __future__ import annotations

import asyncio
import json
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import httpx
import pytest
from tests.conftest import wait_until
from tests.scripted_engine import Call, engine, proxy

from learnback.inference.proxy import create_app
from learnback.inference.upstream import Limits


async def echo(call: Call) -> None:
    await call.answer(json.dumps([call.method, call.target, call.headers]).encode())


async def test_method_target_headers_and_body_arrive_and_the_answer_comes_back_untouched() -> None:
    async def script(call: Call) -> None:
        assert call.body == b'{"a" : 1}'
        await call.answer(b"\x00\xff answer", 418, b"X-Twice: 1\r\nX-Twice: 2\r\nX-Empty:\r\n")

    async with engine(script) as up, proxy(f"{up.url}/base/v1") as (_, client):
        answer = await client.post("/v1/a%2Fb?q=%20x", content=b'{"a" : 1}', headers={"X-A": "b"})
    assert (answer.status_code, answer.content) == (418, b"\x00\xff answer")
    assert answer.headers.get_list("x-twice") == ["1", "2"]
    assert answer.headers["x-empty"] == ""
    seen = up.calls[0]
    assert (seen.method, seen.target) == ("POST", "/base/v1/a%2Fb?q=%20x")
    assert seen.headers["x-a"] == "b"
    assert seen.headers["host"] == f"127.0.0.1:{up.port}"


async def test_the_callers_key_stays_here_and_the_engines_key_is_sent() -> None:
    async with engine(echo) as up, proxy(up.url, key="engine-secret") as (_, client):
        await client.get(
            "/x", headers={"Authorization": "Bearer ours", "Connection": "X-Hop", "X-Hop": "1"}
        )
    assert up.calls[0].headers["authorization"] == "bearer engine-secret"
    assert up.calls[0].headers["accept-encoding"] == "identity"
    assert "x-hop" not in up.calls[0].headers


async def test_each_chunk_of_a_stream_reaches_the_client_before_the_next_is_sent() -> None:
    heard = asyncio.Semaphore(0)

    async def script(call: Call) -> None:
        await call.start_chunked()
        for i in range(5):
            await call.chunk(b"data: %d\n\n" % i)
            await asyncio.wait_for(heard.acquire(), 10)
        await call.say(b"0\r\n\r\n")

    pieces = []
    async with (
        engine(script) as up,
        proxy(up.url) as (_, client),
        client.stream("POST", "/v1/chat/completions", content=b"{}") as answer,
    ):
        async for piece in answer.aiter_raw():
            pieces.append(piece)
            heard.release()
    assert pieces == [b"data: %d\n\n" % i for i in range(5)]


async def test_ten_thousand_chunks_arrive_in_order() -> None:
    expected = [b"data: %d\n\n" % i for i in range(10_000)]

    async def script(call: Call) -> None:
        await call.start_chunked()
        for i in range(0, len(expected), 50):
            await call.say(b"".join(b"%x\r\n%b\r\n" % (len(c), c) for c in expected[i : i + 50]))
        await call.say(b"0\r\n\r\n")

    async with engine(script) as up, proxy(up.url) as (_, client):
        answer = await client.post("/v1/completions", content=b"{}")
    assert answer.content == b"".join(expected)


async def test_large_bodies_pass_in_both_directions() -> None:
    body = bytes(range(256)) * 40_000  # 10 MB

    async def script(call: Call) -> None:
        await call.answer(call.body)

    async def upload() -> AsyncIterator[bytes]:
        for start in range(0, len(body), 100_000):
            yield body[start : start + 100_000]

    async with engine(script) as up, proxy(up.url) as (_, client):
        whole = await client.post("/v1/x", content=body)
        streamed = await client.post("/v1/x", content=upload())
    assert whole.content == body
    assert streamed.content == body


async def test_a_slow_client_makes_the_engine_wait() -> None:
    piece = b"x" * 65_536
    sent = 0

    async def script(call: Call) -> None:
        nonlocal sent
        await call.start_chunked()
        for _ in range(1_000):
            await call.chunk(piece)
            sent += 1
        await call.say(b"0\r\n\r\n")

    async with (
        engine(script) as up,
        proxy(up.url) as (_, client),
        client.stream("POST", "/v1/x", content=b"{}") as answer,
    ):
        reading = answer.aiter_raw()
        await anext(reading)
        held = await wait_until_steady(lambda: sent)
        assert held < 500  # of 64 MB in all; what is under way fits into buffers
        rest = sum([len(part) async for part in reading])
    assert rest > 60_000_000


async def wait_until_steady(value: Callable[[], int]) -> int:
    """The value once it has not changed for ten looks."""
    last, same = -1, 0

    def look() -> bool:
        nonlocal last, same
        same = same + 1 if value() == last else 0
        last = value()
        return same >= 10

    await wait_until(look, "the value is steady")
    return last


@pytest.mark.parametrize("started", [True, False], ids=["mid-stream", "before the head"])
async def test_a_client_that_goes_away_cancels_the_engines_work(started: bool) -> None:
    asked = asyncio.Event()

    async def script(call: Call) -> None:
        asked.set()
        if started:
            await call.start_chunked()
        while True:
            if started:
                await call.chunk(b"data: x\n\n")
            await asyncio.sleep(0.01)
            if call.reader.at_eof():
                raise ConnectionError

    async with engine(script) as up, proxy(up.url) as (app, client):
        task = asyncio.create_task(client.post("/v1/chat/completions", content=b"{}"))
        await asyncio.wait_for(asked.wait(), 10)
        task.cancel()
        await wait_until(lambda: up.closed == 1, "the engine's connection is closed")
        await wait_until(lambda: app.engines[0].outstanding == 0, "nothing is counted as open")


async def test_a_keep_alive_connection_is_used_again() -> None:
    async with engine(echo) as up, proxy(up.url) as (_, client):
        for _ in range(5):
            await client.post("/v1/x", content=b"{}")
    assert up.connections == 1


async def test_a_pooled_connection_that_dies_before_its_answer_is_replaced_once() -> None:
    async def script(call: Call) -> None:
        if len(call.engine.calls) == 2:  # the second request finds the connection closing
            call.writer.transport.abort()
            raise ConnectionError
        await call.answer(b"ok")

    async with engine(script) as up, proxy(up.url) as (app, client):
        assert (await client.post("/v1/x", content=b"1")).text == "ok"
        assert (await client.post("/v1/x", content=b"2")).text == "ok"
    assert [call.body for call in up.calls] == [b"1", b"2", b"2"]
    assert up.connections == 2
    assert app.engines[0].retried == 1


async def test_a_fresh_connection_that_dies_is_an_error_and_not_repeated() -> None:
    async def script(call: Call) -> None:
        call.writer.transport.abort()
        raise ConnectionError

    async with engine(script) as up, proxy(up.url) as (_, client):
        answer = await client.post("/v1/x", content=b"{}")
    assert answer.status_code == 502
    assert answer.json()["error"]["code"] == "engine_broken"
    assert len(up.calls) == 1


async def test_an_engine_that_is_down_gives_503_in_openai_shape_until_it_is_back() -> None:
    async with engine(echo) as up, proxy(up.url) as (app, client):
        await up.stop()
        refused = await client.post("/v1/x", content=b"{}")
        again = await client.post("/v1/x", content=b"{}")
        health = await client.get("/health")
        await up.start()
        await wait_until(lambda: not app.down, "the engine is found again")
        assert (await client.post("/v1/x", content=b"{}")).status_code == 200
        assert (await client.get("/health")).status_code == 200
    assert refused.status_code == again.status_code == health.status_code == 503
    assert refused.headers["retry-after"] == "1"
    assert set(refused.json()["error"]) == {"message", "type", "param", "code"}
    assert health.json() == {"engines": {up.url: "down"}}


async def test_requests_go_to_the_engine_that_is_up() -> None:
    async with engine(echo) as one, engine(echo) as two, proxy(one.url, two.url) as (_, client):
        await one.stop()
        answers = [await client.post("/v1/x", content=b"{}") for _ in range(6)]
        assert (await client.get("/health")).status_code == 200
    assert [answer.status_code for answer in answers] == [200] * 6


async def test_two_engines_share_the_load() -> None:
    release = asyncio.Event()

    async def script(call: Call) -> None:
        await release.wait()
        await call.answer(b"ok")

    async with engine(script) as one, engine(script) as two, proxy(one.url, two.url) as (_, client):
        tasks = [asyncio.create_task(client.post("/v1/x", content=b"{}")) for _ in range(20)]
        await wait_until(lambda: len(one.calls) + len(two.calls) == 20, "all have arrived")
        release.set()
        await asyncio.gather(*tasks)
    assert (len(one.calls), len(two.calls)) == (10, 10)


@pytest.mark.parametrize("framing", ["chunked", "length"])
async def test_half_an_answer_is_torn_for_the_client_too_and_never_ends_silently(
    framing: str,
) -> None:
    async def script(call: Call) -> None:
        if framing == "chunked":
            await call.start_chunked()
            await call.chunk(b"data: half\n\n")
        else:
            await call.say(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
        call.writer.close()
        raise ConnectionError

    async with engine(script) as up, proxy(up.url) as (app, client):
        heard: list[bytes] = []
        with pytest.raises(httpx.RemoteProtocolError):
            await read_into(heard, client)
        assert b"half" in b"".join(heard)
        assert app.engines[0].outstanding == 0


async def read_into(heard: list[bytes], client: httpx.AsyncClient) -> None:
    async with client.stream("POST", "/v1/x", content=b"{}") as answer:
        async for piece in answer.aiter_raw():
            heard.append(piece)


async def test_an_answer_that_ends_with_its_connection_is_whole() -> None:
    async def script(call: Call) -> None:
        await call.say(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nall of it")
        call.writer.close()
        raise ConnectionError

    async with engine(script) as up, proxy(up.url) as (_, client):
        assert (await client.get("/x")).text == "all of it"


async def test_a_silent_engine_is_a_504_and_its_connection_is_closed() -> None:
    async def script(call: Call) -> None:
        await asyncio.Event().wait()

    async with engine(script) as up, proxy(up.url, limits=Limits(silence_s=0.2)) as (_, client):
        answer = await client.post("/v1/x", content=b"{}")
        assert answer.status_code == 504
        assert answer.json()["error"]["code"] == "engine_silent"
        up.drop_connections()


async def test_over_the_connection_limit_is_a_503_at_once() -> None:
    release = asyncio.Event()

    async def script(call: Call) -> None:
        await release.wait()
        await call.answer(b"ok")

    async with engine(script) as up, proxy(up.url, limits=Limits(connections=1)) as (_, client):
        first = asyncio.create_task(client.post("/v1/x", content=b"{}"))
        await wait_until(lambda: len(up.calls) == 1, "the first has arrived")
        second = await client.post("/v1/x", content=b"{}")
        release.set()
        assert (await first).status_code == 200
    assert second.status_code == 503
    assert second.json()["error"]["code"] == "engine_busy"


async def test_head_has_no_body_and_says_the_length() -> None:
    async def script(call: Call) -> None:
        await call.say(b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n")

    async with engine(script) as up, proxy(up.url) as (_, client):
        for _ in range(2):
            answer = await client.head("/x")
            assert (answer.status_code, answer.headers["content-length"]) == (200, "12")


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A certificate for 127.0.0.1 that nobody vouches for, and its key beside it."""
    path = tmp_path / "certificate.pem"
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=engine"
    names = ["-addext", "subjectAltName=IP:127.0.0.1"]
    files = ["-keyout", str(path.with_name("key.pem")), "-out", str(path)]
    subprocess.run([*command.split(), *names, *files], check=True, capture_output=True)
    return path


async def test_an_https_engine_is_asked_over_tls_if_its_certificate_is_trusted(
    certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, certificate.with_name("key.pem"))
    async with engine(echo, context) as up:
        async with proxy(up.url) as (_, client):
            assert (await client.post("/v1/x", content=b"{}")).status_code == 503
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        async with proxy(up.url) as (_, client):
            assert (await client.post("/v1/x", content=b"{}")).status_code == 200


async def test_metrics_are_ours_and_not_the_engines() -> None:
    async with engine(echo) as up, proxy(up.url) as (_, client):
        shown = await client.get("/metrics")
    assert "python_info" in shown.text
    assert up.calls == []


def test_a_proxy_without_engines_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one engine"):
        create_app([])
