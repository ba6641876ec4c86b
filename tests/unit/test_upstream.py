"""The HTTP/1.1 client for engines, without a network."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from learnback.inference.proxy import OURS, end_to_end, least_busy
from learnback.inference.upstream import Engine
from learnback.inference.upstream_connection import (
    Connection,
    EngineBroken,
    EngineError,
    Request,
    parse_origin,
)


class RecordingTransport(asyncio.Transport):
    """Keeps what is written; stands for a socket."""

    def __init__(self) -> None:
        super().__init__()
        self.closed = False
        self.paused = False

    def write(self, data: Any) -> None:
        return None

    def abort(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False


async def parse(
    pieces: list[bytes], *, closed: bool = False, method: str = "POST"
) -> tuple[int, list[tuple[bytes, bytes]], bytes, bool]:
    """Status, headers, body of an answer that arrives in `pieces`, and if the connection stays."""
    connection = Connection(silence_s=60)
    connection.connection_made(RecordingTransport())
    connection.begin(pooled=False, bodiless=method == "HEAD")
    for piece in pieces:
        connection.data_received(piece)
    if closed:
        connection.connection_lost(None)
    await connection.head()
    body = []
    while data := await connection.read():
        body.append(data)
    connection.end()
    return connection.status, connection.headers, b"".join(body), connection.reusable


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    """`data` cut at the given places."""
    places = [0, *sorted({min(cut, len(data)) for cut in cuts}), len(data)]
    return [data[a:b] for a, b in pairwise(places) if a < b]


def chunked(pieces: list[bytes]) -> bytes:
    """A chunked body with a trailer."""
    body = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces if piece)
    return body + b"0\r\nX-Trailer: ignored\r\n\r\n"


names = st.from_regex(rb"X-[A-Za-z0-9]{1,12}", fullmatch=True)
values = st.from_regex(rb"[!-~]([ -~]{0,30}[!-~])?|", fullmatch=True)
cuts = st.lists(st.integers(0, 2000), max_size=30)


@given(
    st.sampled_from([200, 201, 400, 404, 500, 503]),
    st.lists(st.tuples(names, values), max_size=4),
    st.lists(st.binary(max_size=200), max_size=8),
    st.sampled_from(["chunked", "length", "close"]),
    st.booleans(),
    cuts,
)
def test_an_answer_reads_the_same_however_the_network_cuts_it(
    status: int,
    headers: list[tuple[bytes, bytes]],
    pieces: list[bytes],
    framing: str,
    early_hints: bool,
    places: list[int],
) -> None:
    body = b"".join(pieces)
    framed = {
        "chunked": b"Transfer-Encoding: chunked\r\n\r\n" + chunked(pieces),
        "length": b"Content-Length: %d\r\n\r\n" % len(body) + body,
        "close": b"Connection: close\r\n\r\n" + body,
    }[framing]
    lines = b"".join(b"%b: %b\r\n" % header for header in headers)
    hints = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" if early_hints else b""
    raw = hints + b"HTTP/1.1 %d Reason\r\n" % status + lines + framed

    found = asyncio.run(parse(split(raw, places), closed=framing == "close"))

    assert found[0] == status
    assert found[1][: len(headers)] == [(name.lower(), value) for name, value in headers]
    assert len(found[1]) == len(headers) + 1
    assert found[2] == body
    assert found[3] is (framing != "close")


@given(st.binary(min_size=1, max_size=300), cuts, st.integers(1, 400))
def test_an_answer_that_is_cut_off_is_never_taken_for_whole(
    body: bytes, places: list[int], missing: int
) -> None:
    raw = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    raw += b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    kept = raw[: max(1, len(raw) - missing)]
    with pytest.raises(EngineBroken):
        asyncio.run(parse(split(kept, places), closed=True))


@pytest.mark.parametrize(
    "raw",
    [
        b"SSH-2.0-OpenSSH_9\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nnot-hex\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
    ],
)
async def test_what_is_not_an_http_answer_is_an_error(raw: bytes) -> None:
    with pytest.raises(EngineBroken):
        await parse([raw])


async def test_a_second_answer_on_a_connection_is_not_read_and_the_connection_is_not_kept() -> None:
    one = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n"
    _, _, body, reusable = await parse([one + b"abc" + one + b"def"])
    assert body == b"abc"
    assert not reusable


async def test_the_answer_to_head_has_no_body_though_it_says_how_long_one_would_be() -> None:
    status, _, body, reusable = await parse(
        [b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"], method="HEAD"
    )
    assert (status, body, reusable) == (200, b"", False)


async def test_reading_pauses_while_the_client_is_slow_and_goes_on_when_it_reads() -> None:
    connection = Connection(silence_s=60)
    transport = RecordingTransport()
    connection.connection_made(transport)
    connection.begin(pooled=False, bodiless=False)
    connection.data_received(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 300_000)
    assert transport.paused
    assert len(await connection.read()) == 300_000
    assert not transport.paused
    connection.end()


@pytest.mark.parametrize(
    ("url", "host", "port", "tls", "authority", "base"),
    [
        ("http://127.0.0.1:8000", "127.0.0.1", 8000, False, b"127.0.0.1:8000", b""),
        ("engine:8000", "engine", 8000, False, b"engine:8000", b""),
        ("http://engine", "engine", 80, False, b"engine", b""),
        ("https://models.example/base/", "models.example", 443, True, b"models.example", b"/base"),
        ("http://engine:8000/v1", "engine", 8000, False, b"engine:8000", b""),
        ("http://engine/base/v1/", "engine", 80, False, b"engine", b"/base"),
        ("http://[::1]:8000", "::1", 8000, False, b"[::1]:8000", b""),
    ],
)
def test_an_engine_url_is_taken_apart(
    url: str, host: str, port: int, tls: bool, authority: bytes, base: bytes
) -> None:
    origin = parse_origin(url)
    assert (origin.host, origin.port, origin.tls) == (host, port, tls)
    assert (origin.authority, origin.base) == (authority, base)


@pytest.mark.parametrize(
    "url",
    ["", "ftp://x", "http://", "http://x:port", "http://u:p@x", "http://x?q=1", "http://x/a b"],
)
def test_a_bad_engine_url_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_origin(url)


def test_the_request_names_the_engine_and_frames_its_body() -> None:
    origin = parse_origin("http://engine:8000/base")
    whole = Request("POST", b"/v1/x?a=1", [(b"x-a", b"b")], b"body").head(origin)
    assert whole == (
        b"POST /base/v1/x?a=1 HTTP/1.1\r\nhost: engine:8000\r\nx-a: b\r\ncontent-length: 4\r\n\r\n"
    )
    assert b"content-length" not in Request("GET", b"/", []).head(origin)
    assert b"content-length: 0" in Request("POST", b"/", []).head(origin)


def test_hop_by_hop_headers_end_here() -> None:
    headers = [
        (b"connection", b"close, X-Secret"),
        (b"keep-alive", b"timeout=5"),
        (b"transfer-encoding", b"chunked"),
        (b"te", b"trailers"),
        (b"x-secret", b"1"),
        (b"content-type", b"text/plain"),
        (b"set-cookie", b"a=1"),
        (b"set-cookie", b"b=2"),
    ]
    assert end_to_end(headers) == headers[5:]


def test_the_callers_key_does_not_reach_the_engine() -> None:
    headers = [(b"authorization", b"Bearer ours"), (b"host", b"us"), (b"accept", b"*/*")]
    assert end_to_end(headers, OURS) == [(b"accept", b"*/*")]


def test_the_engine_with_the_fewest_open_requests_is_next() -> None:
    engines = [Engine(f"http://engine-{i}") for i in range(3)]
    engines[0].outstanding = 2
    assert least_busy(engines, set(), 0) is engines[1]
    assert least_busy(engines, set(), 2) is engines[2]
    assert least_busy(engines, {engines[1], engines[2]}, 0) is engines[0]
    assert least_busy(engines, set(engines), 0) is None


def test_every_engine_error_has_a_status_of_a_gateway() -> None:
    statuses = {error.status for error in EngineError.__subclasses__()}
    assert statuses == {499, 502, 503, 504}
