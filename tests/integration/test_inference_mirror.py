"""Copies of requests: nobody sees or waits for their answers, and they are recorded as such."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from prometheus_client import REGISTRY
from tests.conftest import wait_until
from tests.fake_engine import FakeEngine
from tests.inference_server import Server, inference_server, recorded, wait_recorded
from tests.integration.test_inference_release import add_adapter

from learnback.contracts.models import Alias, CompletionEnd, Track
from learnback.inference.mirror import AT_ONCE
from learnback.registry import store

NEW = "tiny-dpo-1"


async def mirror_to(server: Server, share: float = 1.0) -> None:
    """Have the candidate get a copy of a share of the requests."""
    await add_adapter(server, NEW)
    async with server.now.follower.database.write() as connection:
        before = await store.alias_state(connection, Alias.CANDIDATE)
        await store.move_alias(
            connection,
            Alias.CANDIDATE,
            NEW,
            expected_revision=before.revision,
            actor="test",
            reason="test",
            weight=0.0,
            mirror=share,
        )
    await wait_until(lambda: server.now.follower.snapshot.mirror, "the candidate is loaded")


def counted(result: str) -> float:
    name = "learnback_inference_mirrored_total"
    return REGISTRY.get_sample_value(name, {"result": result}) or 0.0


async def test_a_copy_is_recorded_and_shown_to_nobody(
    tmp_path: Path, valkey_url: str, redis: Any
) -> None:
    async with inference_server(tmp_path, valkey_url) as server:
        await mirror_to(server)
        answers = [await server.chat("a b c", user="ada", stream=s) for s in (False, True)]
        assert {a.headers["x-learnback-version"] for a in answers} == {server.base.name}
        assert all(NEW not in a.text for a in answers)
        served = await wait_recorded(redis, 4)
        shown = {s.id: s for s in served if s.track is Track.STABLE}
        copies = [s for s in served if s.track is Track.MIRRORED]
        assert {c.pair for c in copies} == set(shown)
        for copy in copies:
            original = shown[copy.pair or ""]
            assert (copy.version, copy.probability) == (NEW, 1.0)
            assert (copy.prompt, copy.subject) == (original.prompt, original.subject)
            assert copy.choices[0].text == original.choices[0].text
            assert copy.streamed == original.streamed
            assert copy.timings.first_byte_s


async def test_nobody_waits_for_copies_and_what_is_too_much_is_dropped(
    tmp_path: Path, valkey_url: str, redis: Any
) -> None:
    engine = FakeEngine()
    async with inference_server(tmp_path, valkey_url, engine) as server:
        await mirror_to(server)
        held = engine.hold(NEW)
        dropped, answered = counted("dropped"), counted("answered")
        for number in range(AT_ONCE + 3):
            assert (await server.chat(f"word {number}")).status_code == 200
        assert counted("dropped") - dropped == 3
        held.set()
        await wait_until(lambda: counted("answered") - answered == AT_ONCE, "the others answer")


async def test_only_what_chance_gave_to_stable_and_may_be_kept_is_copied(
    tmp_path: Path, valkey_url: str, redis: Any
) -> None:
    async with inference_server(tmp_path, valkey_url) as server:
        await mirror_to(server)
        await server.chat("a", model=server.base.name)  # pinned
        await server.chat("b", store=False)
        await server.chat("c", temperature=-1)  # refused
        body = {"model": "learnback", "input": "d"}
        await server.http.post("/v1/responses", json=body | {"store": False})
        await server.http.post("/v1/responses", json=body | {"previous_response_id": "resp_1"})
        await server.chat("e")
        served = await wait_recorded(redis, 7)
        (copy,) = [s for s in served if s.track is Track.MIRRORED]
        assert copy.prompt[-1]["content"] == "e"


async def test_copies_of_responses_are_compared_and_kept_by_no_engine(
    tmp_path: Path, valkey_url: str, redis: Any
) -> None:
    async with inference_server(tmp_path, valkey_url) as server:
        await mirror_to(server)
        body = {"model": "learnback", "input": "a b", "background": False}
        for stream in (False, True):
            answer = await server.http.post("/v1/responses", json=body | {"stream": stream})
            assert answer.headers["x-learnback-version"] == server.base.name
        served = await wait_recorded(redis, 4)
        shown = {s.id for s in served if s.track is Track.STABLE}
        copies = [s for s in served if s.track is Track.MIRRORED]
        assert {c.pair for c in copies} == shown
        assert {(c.endpoint, c.choices[0].text, c.stored) for c in copies} == {
            ("responses", "a b", True)
        }
        asked = [s["body"] for s in server.engine.seen if s["path"] == "/v1/responses"]
        kept = [b.get("store", True) for b in asked]
        assert kept.count(False) == 2, "of copies alone"


async def test_a_share_of_people_is_copied_always_the_same(
    tmp_path: Path, valkey_url: str, redis: Any
) -> None:
    async with inference_server(tmp_path, valkey_url) as server:
        await mirror_to(server, 0.5)
        for _ in range(2):
            for number in range(20):
                await server.chat(user=f"user-{number}")
                await asyncio.sleep(0)

        async def copied() -> list[str]:
            served = await recorded(redis)
            seen = [s.subject for s in served if s.track is Track.MIRRORED]
            return [str(s) for s in seen] if len(served) == 40 + len(seen) else []

        await wait_until(copied, "all are recorded")
        subjects = await copied()
        assert 4 <= len(set(subjects)) <= 16
        assert all(subjects.count(s) <= 2 for s in subjects)


async def test_a_candidate_that_fails_hurts_nobody_and_is_recorded_as_failed(
    tmp_path: Path, valkey_url: str, redis: Any
) -> None:
    engine = FakeEngine()
    async with inference_server(tmp_path, valkey_url, engine) as server:
        await mirror_to(server)
        engine.models = {server.base.name}
        answer = await server.chat("a b c")
        assert (answer.status_code, answer.json()["choices"][0]["message"]["content"]) == (
            200,
            "a b c",
        )
        served = await wait_recorded(redis, 2)
        (copy,) = [s for s in served if s.track is Track.MIRRORED]
        assert copy.end is not CompletionEnd.COMPLETE
        assert copy.pair == answer.json()["id"]
