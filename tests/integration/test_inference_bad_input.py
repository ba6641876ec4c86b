"""Bad requests: each gets its status and a message in OpenAI's shape, and leaves no trace."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from tests.conftest import wait_until
from tests.inference_server import Server, inference_server, recorded

from learnback.contracts.models import Scope
from learnback.ledger.keys import create_key
from learnback.ledger.tables import metadata

CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"
RESPONSES = "/v1/responses"
JSON = {"content-type": "application/json"}


def body(**changes: Any) -> bytes:
    messages = [{"role": "user", "content": "hi"}]
    return json.dumps({"model": "learnback", "messages": messages} | changes).encode()


def raw(text: str) -> bytes:
    """A body that is right but for `text` after it."""
    return body()[:-1] + b"," + text.encode() + b"}"


@dataclass(frozen=True)
class Bad:
    """A request, and what must be said of it."""

    why: str
    sent: bytes
    status: int
    says: str
    path: str = CHAT
    method: str = "POST"
    headers: dict[str, str] = field(default_factory=lambda: JSON)


METADATA_17 = {str(i): "v" for i in range(17)}
TABLE = [
    Bad("an empty body", b"", 400, "not JSON"),
    Bad("white space", b"  \n ", 400, "not JSON"),
    Bad("no JSON", b"hello", 400, "not JSON"),
    Bad("half a JSON object", body()[:-1], 400, "not JSON"),
    Bad("two JSON objects", body() + body(), 400, "not JSON"),
    Bad("a trailing comma", body()[:-1] + b",}", 400, "not JSON"),
    Bad("single quotes", b"{'model': 'learnback'}", 400, "not JSON"),
    Bad("a comment", b"/* hi */" + body(), 400, "not JSON"),
    Bad("a byte order mark", b"\xef\xbb\xbf" + body(), 400, "not JSON"),
    Bad("UTF-16", body().decode().encode("utf-16"), 400, "UTF-8"),
    Bad("bad UTF-8", body()[:-2] + b"\xff" + body()[-2:], 400, "UTF-8"),
    Bad("a lone surrogate", raw(r'"user": "\ud800"'), 400, "not JSON"),
    Bad("a control character", raw('"user": "a\nb"'), 400, "not JSON"),
    Bad("NaN", raw('"temperature": NaN'), 400, "not JSON"),
    Bad("Infinity", raw('"temperature": -Infinity'), 400, "not JSON"),
    Bad("an octal number", raw('"n": 01'), 400, "not JSON"),
    Bad("a list", b"[1, 2]", 400, "JSON object"),
    Bad("a string", b'"hello"', 400, "JSON object"),
    Bad("null", b"null", 400, "JSON object"),
    Bad("a number", b"42", 400, "JSON object"),
    Bad("deep lists", raw(f'"x": {"[" * 200}{"]" * 200}'), 400, "nested"),
    Bad("deep objects", raw(f'"x": {chr(123) + chr(34) + "a" + chr(34) + ":"}' * 1), 400, "JSON"),
    Bad("very deep lists", b"[" * 100_000, 400, "nested"),
    Bad("no model", b"{}", 400, "model"),
    Bad("model null", body(model=None), 400, "model"),
    Bad("model a number", body(model=3), 400, "model"),
    Bad("model a list", body(model=["learnback"]), 400, "model"),
    Bad("model empty", body(model=""), 400, "model"),
    Bad("model unknown", body(model="gpt-4"), 404, "gpt-4"),
    Bad("model a path", body(model="../../etc/passwd"), 404, "does not exist"),
    Bad("model very long", body(model="x" * 10_000), 404, "does not exist"),
    Bad("model the second time", raw('"model": "other"'), 404, "other"),
    Bad("stream a string", body(stream="yes"), 400, "stream"),
    Bad("stream a number", body(stream=1), 400, "stream"),
    Bad("store a string", body(store="no"), 400, "store"),
    Bad("n a string", body(n="2"), 400, "`$.n`"),
    Bad("n a fraction", body(n=1.5), 400, "`$.n`"),
    Bad("user a number", body(user=7), 400, "user"),
    Bad("user too long", body(user="x" * 513), 400, "512"),
    Bad("safety_identifier a list", body(safety_identifier=[]), 400, "safety_identifier"),
    Bad("safety_identifier too long", body(safety_identifier="x" * 513), 400, "512"),
    Bad("metadata a list", body(metadata=["a"]), 400, "metadata"),
    Bad("metadata with a number", body(metadata={"a": 1}), 400, "metadata"),
    Bad("metadata with an object", body(metadata={"a": {}}), 400, "metadata"),
    Bad("metadata with null", body(metadata={"a": None}), 400, "metadata"),
    Bad("17 pairs of metadata", body(metadata=METADATA_17), 400, "16 pairs"),
    Bad("a long metadata key", body(metadata={"k" * 65: "v"}), 400, "64"),
    Bad("a long metadata value", body(metadata={"k": "v" * 513}), 400, "512"),
    Bad("a huge body", body(user="x" * 200_000), 413, "bytes"),
    Bad("no content type", body(), 415, "application/json", headers={"content-type": ""}),
    Bad("a form", body(), 415, "form", headers={"content-type": "multipart/form-data"}),
    Bad("plain text", body(), 415, "text/plain", headers={"content-type": "text/plain"}),
    Bad("compressed", b"\x1f\x8b\x08\x00\xff", 400, "UTF-8"),
    Bad("GET on an endpoint", b"", 405, "GET", method="GET"),
    Bad("DELETE on an endpoint", b"", 405, "DELETE", method="DELETE"),
    Bad("PUT on an endpoint", body(), 405, "PUT", method="PUT"),
    Bad("POST on the models", body(), 405, "POST", path="/v1/models"),
    Bad("POST on health", body(), 405, "POST", path="/healthz"),
    Bad("an unknown path", body(), 404, "/v1/nothing", path="/v1/nothing"),
    Bad("the root", b"", 404, "GET /", path="/", method="GET"),
    Bad("a trailing slash", body(), 404, "There is no", path=f"{CHAT}/"),
    Bad("a text without model", b'{"prompt": "a"}', 400, "model", path=TEXT),
    Bad("a text with a wrong model", b'{"prompt": "a", "model": 1}', 400, "model", path=TEXT),
    Bad("a response with no model", b'{"input": "a"}', 400, "model", path=RESPONSES),
    Bad("a response in a list", b"[]", 400, "JSON object", path=RESPONSES),
    Bad("another's response", b"", 404, "There is no", path=f"{RESPONSES}/resp_1", method="GET"),
]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(params=["inside", "proxy"])
async def server(
    request: pytest.FixtureRequest, home: Path, valkey_url: str, redis: Any
) -> AsyncIterator[Server]:
    limits = {"body_bytes": 150_000, "body_timeout": timedelta(seconds=0.3)}
    proxied = request.param == "proxy"
    async with inference_server(home / request.param, valkey_url, proxied=proxied, **limits) as it:
        yield it


TICKS = frozenset(("replicas",))
"""Tables in which a server writes that it lives."""


async def contents(server: Server) -> dict[str, list[Any]]:
    """All rows of the ledger."""
    tables = [table for table in metadata.sorted_tables if table.name not in TICKS]
    async with server.now.follower.database.read() as connection:
        return {t.name: [tuple(r) for r in await connection.execute(select(t))] for t in tables}


def assert_openai_error(answer: Any, status: int, says: str) -> None:
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert says.lower() in error["message"].lower()
    assert isinstance(error["type"], str)
    assert isinstance(error["code"], str)


async def test_every_bad_request_is_told_and_leaves_no_trace(server: Server, redis: Any) -> None:
    before = await contents(server)
    assert before["model_versions"], "there is something to change"
    for bad in TABLE:
        headers = {name: value for name, value in bad.headers.items() if value}
        answer = await server.http.request(bad.method, bad.path, content=bad.sent, headers=headers)
        try:
            assert_openai_error(answer, bad.status, bad.says)
            assert await contents(server) == before
        except AssertionError as error:
            raise AssertionError(f"{bad.why}: {error}") from error
    good = await server.chat()
    assert good.status_code == 200, "it still works"
    assert len(server.engine.seen) == 1, "the engine saw none of them"
    found = await wait_until(lambda: recorded(redis), "the good one is recorded")
    assert [served.id for served in found] == [good.json()["id"]]
    assert await contents(server) == before


def test_the_table_is_long_enough() -> None:
    assert len({bad.why for bad in TABLE}) == len(TABLE) >= 30


async def half_sent(server: Server, sent: bytes, *, hang_up: bool) -> bytes:
    """What comes back for a request of which only `sent` ever arrives."""
    host, port = server.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(sent)
    await writer.drain()
    if hang_up:
        writer.close()
        return b""
    answer = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    return answer


HEAD = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


async def test_a_body_that_never_comes_is_a_timeout(server: Server, redis: Any) -> None:
    for framing in ("Content-Length: 500\r\n\r\n{", "Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n"):
        answer = await half_sent(server, (HEAD + framing).encode(), hang_up=False)
        assert answer.startswith(b"HTTP/1.1 408")
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "request_timeout"
    assert await recorded(redis) == []


async def test_a_client_that_hangs_up_while_sending_is_nobodys_trouble(
    server: Server, redis: Any
) -> None:
    await half_sent(server, (HEAD + "Content-Length: 500\r\n\r\n{").encode(), hang_up=True)
    assert (await server.chat()).status_code == 200
    assert len(server.engine.seen) == 1


async def test_a_body_that_grows_over_the_limit_is_cut_off(server: Server) -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield b" " * 10_000

    answer = await server.http.post(CHAT, content=endless(), headers=JSON)
    assert_openai_error(answer, 413, "150000 bytes")


@pytest.mark.parametrize(
    ("header", "status"),
    [
        (None, 401),
        ("Bearer", 401),
        ("Bearer wrong", 401),
        ("Basic dXNlcjpwYXNz", 401),
        ("Bearer lb_0123456789abcdef_" + "x" * 43, 401),
        ("Bearer \u00ff", 401),
        ("feedback only", 403),
    ],
)
async def test_bad_keys(
    tmp_path: Path, valkey_url: str, redis: Any, header: str | None, status: int
) -> None:
    async with inference_server(tmp_path, valkey_url, require_keys=True) as server:
        if header == "feedback only":
            async with server.now.follower.database.write() as connection:
                _, key = await create_key(connection, "acme", "app", [Scope.FEEDBACK])
            header = f"Bearer {key}"
        headers = dict(JSON)
        sent = {**headers, **({"authorization": header} if header else {})}
        encoded = {name: value.encode("latin-1") for name, value in sent.items()}
        for path in (CHAT, "/v1/models"):
            method = "POST" if path == CHAT else "GET"
            answer = await server.http.request(method, path, content=body(), headers=encoded)
            assert_openai_error(answer, status, "key")
        assert server.engine.seen == []
    assert await recorded(redis) == []
