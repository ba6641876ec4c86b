"""Versions swap under streaming load on a real vLLM: nothing fails, tears, or lies about itself."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.conftest import wait_until
from tests.e2e.engine import Engine, make_adapter

from learnback.contracts.messages import CompletionServed
from learnback.contracts.models import Alias, Track, VersionKind, VersionState
from learnback.contracts.streams import COMPLETIONS
from learnback.core.clock import now
from learnback.core.redis import connect
from learnback.ledger.database import Database
from learnback.registry import store
from learnback.registry.artifacts import ArtifactStore, digest_model
from learnback.release import operations
from learnback.release.rollout import roll_back

pytestmark = pytest.mark.engine

SWAPS = 50
STREAMS = 6
STEADY_S = 6.0
"""How long streams run on one version first, to know what swaps add."""
MESSAGES = [{"role": "user", "content": "hello"}]
GREEDY = {"messages": MESSAGES, "max_tokens": 16, "temperature": 0, "ignore_eos": True}


@dataclass(frozen=True)
class Streamed:
    """One answer as a client saw it."""

    version: str
    model: str
    completion_id: str
    text: str
    began: float
    first_token_s: float


@dataclass
class World:
    """The engine with its ledger and its broker."""

    engine: Engine
    database: Database
    redis: Any
    http: httpx.AsyncClient
    seen: list[Streamed] = field(default_factory=list)

    async def register(self, name: str, artifact: Path | None, **changes: Any) -> None:
        """A version that a rollback may go back to; of the same files under another name too."""
        digest = None
        if artifact is not None:
            artifacts = ArtifactStore(f"file://{self.engine.home / 'artifacts'}")
            digest = artifacts.put(artifact, artifact.name)
        values: dict[str, Any] = {
            "kind": VersionKind.ADAPTER,
            "state": VersionState.PROMOTED,
            "artifact": artifact.name if artifact else None,
            "artifact_digest": digest,
        } | changes
        version = store.ModelVersion(
            name=name,
            base=str(self.engine.model),
            base_digest=digest_model(str(self.engine.model)),
            code_version="test",
            created_at=now(),
            changed_at=now(),
            **values,
        )
        async with self.database.write() as connection:
            await store.register(connection, version)

    async def move(self, alias: Alias, version: str | None, **shares: float) -> None:
        """Move an alias and say so, as the release process does."""
        async with self.database.write() as connection:
            before = await store.alias_state(connection, alias)
            after = await store.move_alias(
                connection,
                alias,
                version,
                expected_revision=before.revision,
                actor="test",
                reason="test",
                **shares,
            )
        await operations.announce(self.redis, [after])

    async def chat(self, **fields: Any) -> httpx.Response:
        headers = fields.pop("headers", {})
        body = {"model": "learnback", **GREEDY, **fields}
        answer = await self.http.post("/v1/chat/completions", json=body, headers=headers)
        assert answer.status_code == 200, answer.text
        return answer

    async def recorded(self) -> dict[str, CompletionServed]:
        """All that was ever recorded, by completion."""
        entries = await self.redis.xrange(COMPLETIONS.key)
        found = [CompletionServed.model_validate_json(fields[b"body"]) for _, fields in entries]
        return {one.id: one for one in found}

    async def stream(self) -> None:
        """One streamed answer; fails if it is torn."""
        body = {"model": "learnback", **GREEDY, "stream": True}
        began, first = time.perf_counter(), 0.0
        lines = []
        async with self.http.stream("POST", "/v1/chat/completions", json=body) as answer:
            assert answer.status_code == 200
            async for line in answer.aiter_lines():
                if line:
                    lines.append(line)
                    first = first or time.perf_counter() - began
        assert lines[-1] == "data: [DONE]", lines[-3:]
        chunks = [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]
        assert chunks[-1]["choices"][0]["finish_reason"] == "length"
        text = "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks)
        version = answer.headers["x-learnback-version"]
        self.seen.append(Streamed(version, chunks[0]["model"], chunks[0]["id"], text, began, first))


@pytest.fixture
async def world(engine: Engine) -> AsyncIterator[World]:
    """At the end the base serves again: other tests share the engine."""
    database, redis = Database(engine.database_url), connect(engine.redis_url)
    async with httpx.AsyncClient(base_url=engine.url, timeout=120, trust_env=False) as http:
        world = World(engine, database, redis, http)
        yield world
        await world.move(Alias.CANDIDATE, None, weight=0.0)
        await world.move(Alias.STABLE, engine.base)
        await wait_until(_serves(world, engine.base), "the base serves again")
    await redis.aclose()
    await database.close()


def _serves(world: World, version: str) -> Callable[[], Any]:
    async def so() -> bool:
        answer = await world.chat(max_tokens=1)
        return answer.headers["x-learnback-version"] == version

    return so


@asynccontextmanager
async def load(world: World) -> AsyncIterator[None]:
    """Streams all the time; the first that fails fails the test."""
    stop = asyncio.Event()

    async def keep_asking() -> None:
        while not stop.is_set():
            await world.stream()

    streams = [asyncio.create_task(keep_asking()) for _ in range(STREAMS)]
    try:
        yield
    finally:
        stop.set()
        await asyncio.gather(*streams)


async def test_fifty_swaps_under_streaming_load(world: World, tmp_path: Path) -> None:
    adapters = [make_adapter(tmp_path / f"swap-{i}", seed=70 + i, scale=3) for i in range(3)]
    names = [f"tiny-swap-{n:02}" for n in range(SWAPS + 1)]
    for number, name in enumerate(names):
        await world.register(name, adapters[number % len(adapters)])
    await world.move(Alias.STABLE, names[0])
    await wait_until(_serves(world, names[0]), "the first version serves")

    took = []
    async with load(world):
        await asyncio.sleep(STEADY_S)
        steady, swapping_from = len(world.seen), time.perf_counter()
        for name in names[1:]:
            at = time.perf_counter()
            await world.move(Alias.STABLE, name)
            await wait_until(
                lambda name=name, at=at: any(s.version == name for s in reversed(world.seen)),
                f"a stream is answered by {name}",
                60,
            )
            took.append(time.perf_counter() - at)
        swapping_s = time.perf_counter() - swapping_from
        back = time.perf_counter()
        await operations.rollback(world.database, world.redis, "test", "it swears")
        await wait_until(_serves(world, names[-2]), "the version before answers")
        back_s = time.perf_counter() - back

    await _check_weights(world)
    assert {s.version for s in world.seen} == set(names)
    p95 = [_p95([s.first_token_s for s in part]) for part in _parts(world.seen, steady)]
    figures = {
        "swaps": SWAPS,
        "streams": len(world.seen),
        "seconds": round(swapping_s, 1),
        "swap_p95_s": round(_p95(took), 3),
        "rollback_s": round(back_s, 3),
        "first_token_p95_s": {"steady": round(p95[0], 3), "swapping": round(p95[1], 3)},
        "added_first_token_p95_s": round(p95[1] - p95[0], 3),
    }
    print("swaps under load:", json.dumps(figures))
    assert back_s < 10


async def _check_weights(world: World) -> None:
    """Each stream was made by the version that it and its record name: greedy text tells."""
    texts: dict[str, str] = {}
    for version in sorted({s.version for s in world.seen}):
        pinned = await world.chat(model=version)
        texts[version] = str(pinned.json()["choices"][0]["message"]["content"])
    assert len(set(texts.values())) == 3, "three adapters say three things"

    async def all_recorded() -> dict[str, CompletionServed] | None:
        found = await world.recorded()
        return found if {s.completion_id for s in world.seen} <= found.keys() else None

    records = await wait_until(all_recorded, "all streams are recorded")
    for one in world.seen:
        record = records[one.completion_id]
        assert one.version == one.model == record.version
        assert one.text == record.choices[0].text == texts[one.version]


def _parts(seen: Sequence[Streamed], steady: int) -> tuple[list[Streamed], list[Streamed]]:
    return list(seen[:steady]), list(seen[steady:])


def _p95(values: Sequence[float]) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]


LONG = [{"role": "user", "content": "hello there " * 40}]
"""Longer than a block of the prefix cache, whatever the tokenizer makes of it."""


async def hits(world: World, **fields: Any) -> float:
    """Tokens of a request's prompt that were found in the prefix cache."""

    async def count() -> float:
        page = (await world.http.get("/metrics")).text
        return sum(
            sample.value
            for family in text_string_to_metric_families(page)
            for sample in family.samples
            if sample.name == "vllm:prefix_cache_hits_total"
        )

    before = await count()
    answer = await world.chat(messages=LONG, max_tokens=1, **fields)
    assert answer.json()["usage"]["prompt_tokens"] > 128
    return await count() - before


async def test_no_prefix_is_shared_between_versions(world: World, tmp_path: Path) -> None:
    same = make_adapter(tmp_path / "same-weights", seed=90, scale=3)
    await world.register("tiny-prefix-1", same)
    await world.register("tiny-prefix-2", same)
    prompt = {"strategy": "zero_shot", "suffix": "thanks"}  # the tokens before it are the same
    await world.register("tiny-prefix-3", None, kind=VersionKind.PROMPT, config=prompt)
    versions = [world.engine.base, "tiny-prefix-1", "tiny-prefix-2", "tiny-prefix-3"]
    assert [await hits(world, model=version) for version in versions] == [0, 0, 0, 0]
    again = [await hits(world, model=version) for version in versions]
    assert all(found > 0 for found in again), "each finds its own"
    salted = [await hits(world, model="tiny-prefix-3", cache_salt=salt) for salt in ("a", "b")]
    assert salted == [0, 0], "a caller's own salt still tells callers apart"


async def test_copies_and_comparisons_are_made_by_the_candidate(
    world: World, tmp_path: Path
) -> None:
    adapter = make_adapter(tmp_path / "beside", seed=95, scale=3)
    await world.register("tiny-beside-1", adapter)
    expected = {
        name: (await world.chat(model=name)).json()["choices"][0]["message"]["content"]
        for name in (world.engine.base, "tiny-beside-1")
    }
    await world.move(Alias.CANDIDATE, "tiny-beside-1", weight=0.0, mirror=1.0)

    async def copied() -> CompletionServed | None:
        shown = await world.chat()
        assert shown.headers["x-learnback-version"] == world.engine.base
        copies = [r for r in (await world.recorded()).values() if r.track is Track.MIRRORED]
        return copies[0] if copies else None

    copy = await wait_until(copied, "a copy is recorded")
    assert (copy.version, copy.choices[0].text) == ("tiny-beside-1", expected["tiny-beside-1"])

    await world.move(Alias.CANDIDATE, "tiny-beside-1", weight=0.999)

    async def both() -> httpx.Response | None:
        answer = await world.chat(headers={"X-Learnback-Compare": "1"})
        return answer if "x-learnback-pair" in answer.headers else None

    pair = (await wait_until(both, "both versions answer")).json()
    said = {c["message"]["content"] for c in pair["choices"]}
    assert said == set(expected.values())

    async def are_recorded() -> bool:
        found = await world.recorded()
        return all(c["completion_id"] in found for c in pair["choices"])

    await wait_until(are_recorded, "both are recorded")
    records = await world.recorded()
    for choice in pair["choices"]:
        record = records[choice["completion_id"]]
        assert (record.track, record.place) == (Track.COMPARED, choice["index"])
        assert choice["message"]["content"] == expected[record.version]

    began = time.perf_counter()
    async with world.database.write() as connection:  # as the controller does on a breach
        await roll_back(connection, "tiny-beside-1", "it fails")
        taken = await store.alias_state(connection, Alias.CANDIDATE)
    await operations.announce(world.redis, [taken])

    async def nobody_gets_it() -> bool:
        answers = [await world.chat(max_tokens=1) for _ in range(3)]
        return {a.headers["x-learnback-version"] for a in answers} == {world.engine.base}

    await wait_until(nobody_gets_it, "the candidate is taken back")
    print(f"taken back from everybody in {time.perf_counter() - began:.2f} s")
