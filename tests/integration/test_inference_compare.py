"""Two answers side by side: who asks for them gets both, and is not told which is which."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.conftest import wait_until
from tests.fake_engine import FakeEngine
from tests.inference_server import Server, inference_server, wait_recorded
from tests.integration.test_inference_release import add_adapter, move

from learnback.contracts.models import Alias, CompletionEnd, Track

NEW = "tiny-dpo-1"
COMPARE = {"X-Learnback-Compare": "1"}


async def canary(server: Server, share: float = 1.0) -> None:
    await add_adapter(server, NEW)
    await move(server, Alias.CANDIDATE, NEW, share)
    await wait_until(lambda: server.now.follower.snapshot.candidate, "the candidate is loaded")


async def compare(server: Server, text: str = "a b c", **fields: Any) -> httpx.Response:
    body = {"model": "learnback", "messages": [{"role": "user", "content": text}], **fields}
    return await server.http.post("/v1/chat/completions", json=body, headers=COMPARE)


async def test_both_versions_answer_in_an_order_by_chance_that_is_recorded(
    tmp_path: Path, valkey_url: str, redis: Any
) -> None:
    async with inference_server(tmp_path, valkey_url) as server:
        await canary(server)
        answers = [await compare(server, f"word {n}", user=f"user-{n}") for n in range(16)]
        served = {s.id: s for s in await wait_recorded(redis, 32)}
        firsts = set()
        for answer in answers:
            assert answer.status_code == 200
            body = answer.json()
            assert body["id"] == answer.headers["x-learnback-pair"]
            assert body["model"] == "learnback"
            assert "x-learnback-version" not in answer.headers
            assert [c["index"] for c in body["choices"]] == [0, 1]
            ids = [c["completion_id"] for c in body["choices"]]
            assert answer.headers["x-learnback-completion-ids"] == ",".join(ids)
            first, second = (served[i] for i in ids)
            assert (first.pair, second.pair) == (body["id"], body["id"])
            assert (first.place, second.place) == (0, 1)
            assert {first.track, second.track} == {Track.COMPARED}
            assert {first.version, second.version} == {server.base.name, NEW}
            assert first.prompt == second.prompt
            assert body["choices"][0]["message"]["content"] == first.choices[0].text
            assert body["usage"] == {"prompt_tokens": 6, "completion_tokens": 4, "total_tokens": 6}
            assert NEW not in answer.text
            firsts.add(first.version)
        assert firsts == {server.base.name, NEW}, "one chance in 32,768 that it is not"
        headers = [s["headers"] for s in server.engine.seen]
        assert not any("x-learnback-compare" in h for h in headers)


@pytest.mark.parametrize("fields", [{"n": 3}, {"model": NEW}])
async def test_what_can_not_be_compared_is_answered_by_one(
    tmp_path: Path, valkey_url: str, redis: Any, fields: dict[str, Any]
) -> None:
    async with inference_server(tmp_path, valkey_url) as server:
        await canary(server)
        answer = await compare(server, **fields)
        assert answer.status_code == 200
        assert "x-learnback-pair" not in answer.headers
        assert answer.headers["x-learnback-version"]


async def test_no_more_people_than_the_step_gives_it_see_the_candidate(
    tmp_path: Path, valkey_url: str, redis: Any
) -> None:
    async with inference_server(tmp_path, valkey_url) as server:
        await canary(server, 0.3)
        answers = [await compare(server, user=f"user-{n}") for n in range(60)]
        pairs = sum("x-learnback-pair" in a.headers for a in answers)
        assert 6 <= pairs <= 32
        await move(server, Alias.CANDIDATE, NEW, 0.0)
        await wait_until(lambda: not server.now.follower.snapshot.weight, "it is taken back")
        assert "x-learnback-pair" not in (await compare(server)).headers


async def test_a_candidate_that_fails_leaves_stables_answer(
    tmp_path: Path, valkey_url: str, redis: Any
) -> None:
    async with inference_server(tmp_path, valkey_url, FakeEngine()) as server:
        await canary(server)
        server.engine.models = {server.base.name}
        answer = await compare(server)
        assert answer.status_code == 200
        assert answer.json()["choices"][0]["message"]["content"] == "a b c"
        assert "x-learnback-pair" not in answer.headers
        served = {s.version: s for s in await wait_recorded(redis, 2)}
        assert served[NEW].end is not CompletionEnd.COMPLETE
        assert served[server.base.name].end is CompletionEnd.COMPLETE
        refused = await compare(server, temperature=-1)
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, 400)


async def test_a_client_that_leaves_ends_both_answers(
    tmp_path: Path, valkey_url: str, redis: Any
) -> None:
    engine, held = FakeEngine(), asyncio.Event()
    async with inference_server(tmp_path, valkey_url, engine) as server:
        await canary(server)
        engine.gate = lambda model: held.wait()
        asking = asyncio.create_task(compare(server))
        await wait_until(lambda: len(engine.seen) >= 3, "both are asked")
        asking.cancel()
        await asyncio.wait([asking])
        held.set()
        served = [s for s in await wait_recorded(redis, 2) if s.track is Track.COMPARED]
        assert [s.end for s in served] == [CompletionEnd.CLIENT_DISCONNECTED] * 2
