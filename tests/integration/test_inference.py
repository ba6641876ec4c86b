"""The middleware before a fake engine: what is answered, and what is recorded."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client import REGISTRY
from tests.conftest import wait_until
from tests.fake_engine import ADMIN, FakeEngine
from tests.inference_server import Server, inference_server, recorded, serve_app, wait_recorded

from learnback.contracts.models import CompletionEnd, Scope, ToolCall, Track
from learnback.ledger.keys import create_key

REQUESTS = "learnback_inference_requests_total"
LEFT = {"endpoint": "chat.completions", "track": "stable", "status": "499"}
TOOL = {"type": "function", "function": {"name": "say", "parameters": {"type": "object"}}}


@pytest.fixture(params=["inside", "proxy"])
async def server(
    request: pytest.FixtureRequest, tmp_path: Path, valkey_url: str, redis: Any
) -> AsyncIterator[Server]:
    """The middleware inside the engine's own server, and around the proxy before it."""
    proxied = request.param == "proxy"
    async with inference_server(tmp_path, valkey_url, proxied=proxied) as running:
        yield running


async def test_a_chat_gets_its_id_its_version_and_its_record(server: Server, redis: Any) -> None:
    answer = await server.chat("hello there", temperature=0.5, user="ann")
    body = answer.json()
    assert re.fullmatch(r"chatcmpl-[0-9a-f]{32}", body["id"])
    assert body["id"][9 + 12] == "7", "a UUIDv7"
    assert body["choices"][0]["message"]["content"] == "hello there"
    assert answer.headers["x-learnback-version"] == server.base.name
    assert answer.headers["x-learnback-track"] == "stable"
    assert answer.headers["x-learnback-completion-id"] == body["id"]
    assert body["id"].endswith(answer.headers["x-request-id"])
    (served,) = await wait_recorded(redis)
    assert served.id == body["id"]
    assert served.endpoint == "chat.completions"
    assert (served.version, served.track) == (server.base.name, Track.STABLE)
    assert served.probability == 1.0
    assert served.end is CompletionEnd.COMPLETE
    assert served.prompt == ({"role": "user", "content": "hello there"},)
    assert [c.text for c in served.choices] == ["hello there"]
    assert served.choices[0].finish_reason == "stop"
    assert served.parameters == {"temperature": 0.5}
    assert (served.usage.prompt_tokens, served.usage.completion_tokens) == (3, 2)
    assert served.subject is not None
    assert "ann" not in served.subject
    assert served.timings.first_byte_s is not None
    assert 0 < served.timings.first_byte_s <= served.timings.duration_s


async def test_the_engine_is_asked_for_the_version_under_our_id(server: Server) -> None:
    answer = await server.http.post(
        "/v1/chat/completions",
        json={
            "model": "tiny",
            "messages": [{"role": "user", "content": "x"}],
            "request_id": "mine",
            "kv_transfer_params": {"a": 1},
            "top_k": 4,
        },
        headers={"X-Request-Id": "mine", "Authorization": "Bearer secret"},
    )
    (seen,) = server.engine.seen
    assert seen["body"]["model"] == server.base.engine_model
    assert seen["body"]["top_k"] == 4
    assert "request_id" not in seen["body"]
    assert "kv_transfer_params" not in seen["body"]
    assert seen["headers"]["x-request-id"] == answer.headers["x-request-id"] != "mine"
    assert "authorization" not in seen["headers"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("path", "body", "prefix"),
    [
        ("chat/completions", {"messages": [{"role": "user", "content": "one two"}]}, "chatcmpl-"),
        ("completions", {"prompt": "one two"}, "cmpl-"),
        ("responses", {"input": "one two"}, "resp_"),
    ],
)
async def test_every_endpoint_is_recorded_the_same_streaming_or_not(
    server: Server, redis: Any, path: str, body: dict[str, Any], prefix: str, stream: bool
) -> None:
    sent = {"model": "learnback", "stream": stream, **body}
    answer = await server.http.post(f"/v1/{path}", json=sent)
    assert answer.status_code == 200
    (served,) = await wait_recorded(redis)
    assert served.id == answer.headers["x-learnback-completion-id"]
    assert served.id.startswith(prefix)
    assert served.id in answer.text, "the client finds the id in the answer"
    assert served.streamed is stream
    assert served.prompt == ({"role": "user", "content": "one two"},)
    assert [(c.text, c.finish_reason) for c in served.choices] == [("one two", "stop")]


async def test_streamed_bytes_are_those_of_the_engine(server: Server) -> None:
    fields = {"stream": True, "n": 2, "stream_options": {"include_usage": True}}
    ours = await server.chat("ünï cöde 😀", **fields)
    sent = {**server.engine.seen[0]["body"]}
    async with (
        serve_app(server.engine.app) as url,
        httpx.AsyncClient(trust_env=False) as direct,
    ):
        headers = {"x-request-id": ours.headers["x-request-id"]}
        theirs = await direct.post(f"{url}/v1/chat/completions", json=sent, headers=headers)
    assert ours.content == theirs.content
    assert ours.headers["content-type"] == theirs.headers["content-type"]


async def test_several_choices_and_tool_calls_in_fragments_are_put_together(
    server: Server, redis: Any
) -> None:
    await server.chat("a b", stream=True, n=2)
    await server.chat("a b", stream=True, tools=[TOOL])
    several, called = await wait_recorded(redis, 2)
    assert [(c.index, c.text) for c in several.choices] == [(0, "a b"), (1, "a b")]
    (choice,) = called.choices
    assert choice.tool_calls == (ToolCall(id="call_1", name="say", arguments='{"said": "a b"}'),)
    assert choice.finish_reason == "tool_calls"
    assert called.parameters["tools"] == [TOOL]


async def test_store_false_keeps_no_content(server: Server, redis: Any) -> None:
    await server.chat("private", store=False, metadata={"session_id": "s1"})
    (served,) = await wait_recorded(redis)
    assert not served.stored
    assert (served.prompt, served.choices, served.parameters) == ((), (), {})
    assert served.session == "s1"
    assert served.usage.completion_tokens == 1


@pytest.mark.parametrize(
    ("mode", "status", "end"),
    [("error-500", 500, CompletionEnd.ENGINE_ERROR), ("refuse", 400, CompletionEnd.REFUSED)],
)
async def test_an_error_of_the_engine_passes_and_is_recorded_without_content(
    server: Server, redis: Any, mode: str, status: int, end: CompletionEnd
) -> None:
    server.engine.mode = mode
    answer = await server.chat()
    assert answer.status_code == status
    assert "message" in answer.json()["error"]
    (served,) = await wait_recorded(redis)
    assert (served.end, served.status_code) == (end, status)
    assert served.id == answer.headers["x-learnback-completion-id"]
    assert (served.stored, served.prompt, served.choices) == (False, (), ())


async def test_an_error_within_a_stream_is_an_engine_error_with_what_was_said(
    server: Server, redis: Any
) -> None:
    server.engine.mode = "error-in-stream"
    labels = {"track": "stable", "end": "engine_error"}

    def ended() -> float:
        return REGISTRY.get_sample_value("learnback_inference_ended_total", labels) or 0.0

    before = ended()
    await server.chat("one two three", stream=True)
    (served,) = await wait_recorded(redis)
    assert served.end is CompletionEnd.ENGINE_ERROR
    await wait_until(lambda: ended() == before + 1, "it is counted")
    assert [c.text for c in served.choices] == ["one"]


async def test_an_engine_that_dies_in_the_middle_leaves_what_it_said(
    server: Server, redis: Any
) -> None:
    server.engine.mode = "torn"
    with pytest.raises(httpx.RemoteProtocolError):
        await server.chat("one two three", stream=True)
    (served,) = await wait_recorded(redis)
    assert served.end is CompletionEnd.ENGINE_ERROR
    assert [c.text for c in served.choices] == ["one"]


async def test_a_client_that_hangs_up_leaves_what_it_was_sent(server: Server, redis: Any) -> None:
    go_on = asyncio.Event()
    tokens = 0

    async def hold() -> None:
        nonlocal tokens
        tokens += 1
        if tokens > 4:
            await go_on.wait()

    server.engine.wait = hold
    body = {"model": "learnback", "messages": [{"role": "user", "content": "a b c d e f"}]}
    async with server.http.stream(
        "POST", "/v1/chat/completions", json={**body, "stream": True}
    ) as answer:
        chunks = answer.aiter_raw()
        while tokens <= 4:
            await anext(chunks)
    (served,) = await wait_recorded(redis)
    assert served.end is CompletionEnd.CLIENT_DISCONNECTED
    assert [c.text for c in served.choices] == ["a b c"]
    assert served.choices[0].finish_reason is None
    await wait_until(lambda: server.engine.closed_early, "the engine is told to stop")


async def test_a_client_that_hangs_up_before_the_first_byte_is_no_fault_of_the_engine(
    tmp_path: Path, valkey_url: str, redis: Any
) -> None:
    asked, go_on = asyncio.Event(), asyncio.Event()

    async def gate(model: str) -> None:
        asked.set()
        await go_on.wait()

    engine = FakeEngine(gate=gate)
    before = REGISTRY.get_sample_value(REQUESTS, LEFT) or 0
    async with inference_server(tmp_path, valkey_url, engine, proxied=True) as server:
        request = asyncio.create_task(server.chat("a b"))
        await asyncio.wait_for(asked.wait(), 20)
        request.cancel()
        (served,) = await wait_recorded(redis)
        go_on.set()
    assert (served.end, served.status_code) == (CompletionEnd.CLIENT_DISCONNECTED, 499)
    assert REGISTRY.get_sample_value(REQUESTS, LEFT) == before + 1
    assert REGISTRY.get_sample_value(REQUESTS, {**LEFT, "status": "0"}) is None


async def test_admin_routes_of_the_engine_are_not_there(server: Server) -> None:
    for path in (*ADMIN, *VLLM_ROUTES):
        for method in ("GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"):
            answer = await server.http.request(method, path, json={})
            assert answer.status_code == 404, f"{method} {path}"
    for path in ("//sleep", "/v1/../sleep", "/sleep/", "/v1/chat/completions/../../sleep"):
        assert (await server.http.post(path)).status_code in {404, 405}
    assert server.engine.admin_calls == []


VLLM_ROUTES = (
    "/abort_requests",
    "/classify",
    "/cohere/v2/chat",
    "/collective_rpc",
    "/detokenize",
    "/fault_tolerance/apply",
    "/finish_weight_update",
    "/generative_scoring",
    "/inference/v1/generate",
    "/init_weight_transfer_engine",
    "/invocations",
    "/is_paused",
    "/is_sleeping",
    "/kv_event_sources",
    "/load",
    "/pause",
    "/ping",
    "/pooling",
    "/release_kv_cache_memory",
    "/rerank",
    "/reset_encoder_cache",
    "/reset_mm_cache",
    "/reset_prefix_cache",
    "/resume",
    "/scale_elastic_ep",
    "/score",
    "/server_info",
    "/sleep",
    "/start_profile",
    "/start_weight_update",
    "/stop_profile",
    "/tokenize",
    "/tokenizer_info",
    "/update_weight_version",
    "/update_weights",
    "/v1/audio/transcriptions",
    "/v1/chat/completions/batch",
    "/v1/chat/completions/render",
    "/v1/completions/render",
    "/v1/embeddings",
    "/v1/load_lora_adapter",
    "/v1/messages",
    "/v1/messages/count_tokens",
    "/v1/realtime",
    "/v1/rerank",
    "/v1/responses/resp_1",
    "/v1/responses/resp_1/cancel",
    "/v1/score",
    "/v1/unload_lora_adapter",
    "/wake_up",
    "/weight_info",
    "/docs",
    "/redoc",
    "/metrics/x",
)
"""What vLLM 0.32 registers, with and without its development mode."""


async def test_a_websocket_is_refused(server: Server) -> None:
    head = "GET /v1/realtime HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    host, port = server.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write((head + key).encode())
    line = await reader.readline()
    writer.close()
    assert b" 403 " in line or b" 404 " in line


async def test_pages(server: Server) -> None:
    for path in ("/healthz", "/readyz", "/health", "/version", "/openapi.json"):
        assert (await server.http.get(path)).status_code == 200, path
    await server.chat()
    page = (await server.http.get("/metrics")).text
    assert 'learnback_inference_requests_total{endpoint="chat.completions"' in page
    models = (await server.http.get("/v1/models")).json()["data"]
    assert {m["id"] for m in models} == {"learnback", "tiny", "models/tiny", server.base.name}
    one = await server.http.get(f"/v1/models/{server.base.name}")
    assert one.json()["object"] == "model"
    assert (await server.http.get("/v1/models/other")).status_code == 404


async def test_keys_are_asked_for_and_their_scope_and_tenant_count(
    tmp_path: Path, valkey_url: str, redis: Any
) -> None:
    async with inference_server(tmp_path, valkey_url, require_keys=True) as server:
        database = server.now.follower.database
        async with database.write() as connection:
            _, good = await create_key(connection, "acme", "app", [Scope.INFER])
            _, other = await create_key(connection, "acme", "app", [Scope.FEEDBACK])
        anonymous = await server.chat()
        assert anonymous.status_code == 401
        assert anonymous.json()["error"]["type"] == "authentication_error"
        assert anonymous.headers["www-authenticate"] == "Bearer"
        assert (await server.http.get("/v1/models")).status_code == 401
        server.http.headers["Authorization"] = f"Bearer {other}"
        assert (await server.chat()).status_code == 403
        server.http.headers["Authorization"] = f"Bearer {good}"
        assert (await server.chat()).status_code == 200
        (served,) = await wait_recorded(redis)
    assert served.tenant == "acme"
    assert served.subject is not None, "sticky by the key"


async def test_completions_that_wait_are_published_before_the_end(
    tmp_path: Path, valkey_url: str, redis: Any
) -> None:
    async with inference_server(tmp_path, valkey_url) as server:
        answers = await asyncio.gather(*(server.chat(f"word {i}") for i in range(40)))
    ids = {answer.json()["id"] for answer in answers}
    assert {served.id for served in await recorded(redis)} == ids


async def test_an_engine_with_ids_of_its_own_is_recorded_under_them(
    tmp_path: Path, valkey_url: str, redis: Any
) -> None:
    class Stubborn(FakeEngine):
        async def _open(self, request: Any) -> Any:
            body, _, error = await super()._open(request)
            return body, "its-own", error

    async with inference_server(tmp_path, valkey_url, Stubborn()) as server:
        for stream in (False, True):
            first = await server.chat(stream=stream)
            assert "chatcmpl-its-own" in first.text
            assert "x-learnback-completion-id" not in first.headers, "a wrong id is worse than none"
        refused = await server.chat(temperature=-1)
        served = await wait_recorded(redis, 3)
    assert [one.id for one in served[:2]] == ["chatcmpl-its-own"] * 2
    assert served[2].id == refused.headers["x-learnback-completion-id"], "it has no other"


async def test_the_release_is_not_ready_while_the_ledger_is_away(
    tmp_path: Path, valkey_url: str, redis: Any
) -> None:
    (tmp_path / "ledger.db").mkdir()  # what SQLite can't open
    async with inference_server(tmp_path, valkey_url, wait_ready=False) as server:
        ready = await server.http.get("/readyz")
        assert ready.status_code == 503
        assert json.loads(ready.text)["checks"]["release"] != "ok"
        answer = await server.chat()
        assert answer.status_code == 503
        assert answer.json()["error"]["code"] == "version_unavailable"
