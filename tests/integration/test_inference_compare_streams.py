"""Two answers side by side in one stream, and for those who ask for `n: 2` as OpenAI does."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import AsyncOpenAI
from tests.conftest import wait_until
from tests.fake_engine import FakeEngine
from tests.inference_server import inference_server, wait_recorded
from tests.integration.test_inference_compare import COMPARE, NEW, canary, compare

from learnback.contracts.messages import CompletionServed
from learnback.contracts.models import CompletionEnd, Track


def chunks_of(answer: httpx.Response) -> list[dict[str, Any]]:
    """The chunks of a stream that ended as streams do."""
    assert answer.headers["content-type"].startswith("text/event-stream")
    *events, last, rest = answer.text.split("\n\n")
    assert (last, rest) == ("data: [DONE]", "")
    return [json.loads(event.removeprefix("data: ")) for event in events]


def texts_of(chunks: list[dict[str, Any]]) -> list[str]:
    """What the choices say, by index."""
    said = ["", ""]
    for choice in (c for chunk in chunks for c in chunk["choices"]):
        said[choice["index"]] += choice.get("delta", choice).get("content") or choice.get(
            "text", ""
        )
    return said


def ends_of(chunks: list[dict[str, Any]]) -> dict[int, str]:
    """How each choice ended; an assertion fails if one ended twice."""
    ends: dict[int, str] = {}
    for choice in (c for chunk in chunks for c in chunk["choices"]):
        if choice["finish_reason"] is not None:
            assert choice["index"] not in ends
            ends[choice["index"]] = choice["finish_reason"]
    return ends


async def served_as(redis: Any, answer: httpx.Response) -> list[CompletionServed]:
    """What was recorded of a pair, in the order in which it was shown."""
    found = [s for s in await wait_recorded(redis, 2) if s.track is Track.COMPARED]
    found.sort(key=lambda s: s.place or 0)
    assert [s.id for s in found] == answer.headers["x-learnback-completion-ids"].split(",")
    assert {s.pair for s in found} == {answer.headers["x-learnback-pair"]}
    return found


@pytest.mark.parametrize("usage", [False, True])
async def test_one_stream_holds_both_answers(
    tmp_path: Path, valkey_url: str, redis: Any, usage: bool
) -> None:
    async with inference_server(tmp_path, valkey_url) as server:
        await canary(server)
        fields = {"stream_options": {"include_usage": True}} if usage else {}
        answer = await compare(server, stream=True, **fields)
        chunks = chunks_of(answer)
        assert texts_of(chunks) == ["a b c"] * 2
        assert ends_of(chunks) == {0: "stop", 1: "stop"}
        pair = answer.headers["x-learnback-pair"]
        assert {(c["id"], c["model"]) for c in chunks} == {(pair, "learnback")}
        assert NEW not in answer.text
        totals = [c["usage"] for c in chunks if c.get("usage")]
        both = {"prompt_tokens": 6, "completion_tokens": 6, "total_tokens": 6}
        assert totals == ([both] if usage else [])
        served = await served_as(redis, answer)
        assert {s.version for s in served} == {server.base.name, NEW}
        assert all(s.streamed and s.choices[0].text == "a b c" for s in served)
        for choice in (c for chunk in chunks for c in chunk["choices"]):
            assert choice["completion_id"] == served[choice["index"]].id


async def test_an_openai_client_asks_for_two_and_gets_one_of_each_version(
    tmp_path: Path, valkey_url: str, redis: Any
) -> None:
    async with inference_server(tmp_path, valkey_url) as server:
        await canary(server)
        async with AsyncOpenAI(api_key="-", base_url=f"{server.url}/v1", max_retries=0) as client:
            asked: Any = {
                "model": "learnback",
                "messages": [{"role": "user", "content": "a b"}],
                "n": 2,
                "extra_headers": COMPARE,
            }
            whole = await client.chat.completions.create(**asked)
            said = ["", ""]
            async for chunk in await client.chat.completions.create(**asked, stream=True):
                for choice in chunk.choices:
                    said[choice.index] += choice.delta.content or ""
        assert [c.message.content for c in whole.choices] == said == ["a b", "a b"]
        served = [s for s in await wait_recorded(redis, 4) if s.track is Track.COMPARED]
        assert len(served) == 4
        assert all(len(s.choices) == 1 for s in served)


async def test_texts_are_compared_as_chats_are(tmp_path: Path, valkey_url: str, redis: Any) -> None:
    async with inference_server(tmp_path, valkey_url) as server:
        await canary(server)
        body = {"model": "learnback", "prompt": "a b"}

        async def ask(**fields: Any) -> httpx.Response:
            return await server.http.post("/v1/completions", json=body | fields, headers=COMPARE)

        whole, stream, many = await ask(), await ask(stream=True), await ask(prompt=["a", "b"])
        assert [c["text"] for c in whole.json()["choices"]] == ["a b"] * 2
        assert texts_of(chunks_of(stream)) == ["a b"] * 2
        assert "x-learnback-pair" not in many.headers
        ids = [c["completion_id"] for c in whole.json()["choices"]]
        assert all(i.startswith("cmpl-") for i in ids)


async def test_the_stream_begins_when_both_have_something_to_say(
    tmp_path: Path, valkey_url: str, redis: Any
) -> None:
    engine = FakeEngine()
    async with inference_server(tmp_path, valkey_url, engine) as server:
        await canary(server)
        held = engine.hold(NEW)
        asking = asyncio.create_task(compare(server, stream=True))
        await wait_until(lambda: len(engine.seen) >= 3, "both are asked")
        with pytest.raises(TimeoutError):  # nothing comes: stable's answer waits for the other
            await asyncio.wait_for(asyncio.shield(asking), 0.3)
        held.set()
        assert texts_of(chunks_of(await asking)) == ["a b c"] * 2


@pytest.mark.parametrize("which", ["candidate", "stable"])
async def test_a_version_that_fails_at_once_leaves_the_others_stream_alone(
    tmp_path: Path, valkey_url: str, redis: Any, which: str
) -> None:
    engine = FakeEngine()
    async with inference_server(tmp_path, valkey_url, engine) as server:
        await canary(server)
        good = NEW if which == "stable" else server.base.name
        engine.models = {good}
        answer = await compare(server, stream=True)
        assert texts_of(chunks_of(answer)) == ["a b c", ""]
        assert "x-learnback-pair" not in answer.headers
        served = {s.version: s.end for s in await wait_recorded(redis, 2)}
        assert served.pop(good) is CompletionEnd.COMPLETE
        assert list(served.values()) != [CompletionEnd.COMPLETE]
        engine.models = set()
        assert (await compare(server, stream=True)).status_code == 404


@pytest.mark.parametrize("mode", ["torn", "error-in-stream"])
async def test_an_answer_that_breaks_off_does_not_tear_the_other(
    tmp_path: Path, valkey_url: str, redis: Any, mode: str
) -> None:
    engine = FakeEngine()
    async with inference_server(tmp_path, valkey_url, engine) as server:
        await canary(server)
        engine.fails = {NEW: mode}
        answer = await compare(server, stream=True)
        chunks = chunks_of(answer)
        served = await served_as(redis, answer)
        broken = next(s.place for s in served if s.version == NEW)
        assert broken is not None
        assert texts_of(chunks)[1 - broken] == "a b c"
        assert ends_of(chunks) == {broken: "error", 1 - broken: "stop"}
        assert served[broken].end is CompletionEnd.ENGINE_ERROR
        assert served[1 - broken].end is CompletionEnd.COMPLETE
        engine.fails[server.base.name] = mode
        both = chunks_of(await compare(server, stream=True))
        assert "error" in both[-1], "of two that broke off the client is told"


async def test_a_client_that_leaves_a_stream_ends_both_answers(
    tmp_path: Path, valkey_url: str, redis: Any
) -> None:
    engine, words = FakeEngine(), asyncio.Semaphore(4)
    async with inference_server(tmp_path, valkey_url, engine) as server:
        await canary(server)
        engine.wait = words.acquire
        body = {
            "model": "learnback",
            "messages": [{"role": "user", "content": "a b c"}],
            "stream": True,
        }
        url = "/v1/chat/completions"
        async with server.http.stream("POST", url, json=body, headers=COMPARE) as answer:
            assert "x-learnback-pair" in answer.headers
            await anext(answer.aiter_raw())
        await wait_until(lambda: engine.closed_early == 2, "both engines stop")
        served = await wait_recorded(redis, 2)
        assert {s.end for s in served} == {CompletionEnd.CLIENT_DISCONNECTED}
        assert {s.track for s in served} == {Track.COMPARED}
