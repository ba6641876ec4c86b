"""Replicas move together, catch up before they are ready, and unload only what nobody uses."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import wait_until
from tests.fake_engine import FakeEngine
from tests.inference_server import Server, inference_server
from tests.integration.test_inference_release import add_adapter, move, version_for

from learnback.contracts.models import Alias, VersionState
from learnback.ledger import replicas
from learnback.registry import store
from learnback.release import operations

ONE, TWO = "tiny-dpo-1", "tiny-dpo-2"


def serves(server: Server, version: str) -> Callable[[], Any]:
    async def so() -> bool:
        return await version_for(server) == version

    return so


@asynccontextmanager
async def two_replicas(home: Path, url: str) -> AsyncIterator[tuple[Server, Server]]:
    async with inference_server(home, url) as one, inference_server(home, url) as other:

        async def both() -> bool:
            async with one.now.follower.database.read() as connection:
                found = await replicas.live(connection, one.base.digest)
            return [r.serving for r in found] == [True, True]

        await wait_until(both, "both say that they live")
        yield one, other


async def test_replicas_move_to_a_new_version_together(
    tmp_path: Path, valkey_url: str, redis: Any
) -> None:
    async with two_replicas(tmp_path, valkey_url) as (quick, slow):
        may_load = asyncio.Event()

        async def hold(model: str) -> None:
            if model == ONE:
                await may_load.wait()

        slow.engine.gate = hold
        await add_adapter(quick, ONE)
        await move(quick, Alias.STABLE, ONE, redis=redis)
        await wait_until(lambda: ONE in quick.now.follower.snapshot.ready, "it is loaded here")
        assert await version_for(quick) == quick.base.name
        assert quick.now.follower.lagging() == {ONE: "other replicas are loading it"}
        may_load.set()
        await wait_until(serves(quick, ONE), "the quick one moves")
        await wait_until(serves(slow, ONE), "the slow one moves")


async def test_one_replica_that_cannot_load_does_not_keep_the_others_for_ever(
    tmp_path: Path, valkey_url: str, redis: Any
) -> None:
    async with two_replicas(tmp_path, valkey_url) as (good, broken):
        broken.engine.models = {broken.base.name}
        good.now.follower.presence.patience_s = 1.0
        await add_adapter(good, ONE)
        await move(good, Alias.STABLE, ONE, redis=redis)
        await wait_until(serves(good, ONE), "the good one moves alone")
        assert await version_for(broken) == broken.base.name


async def test_what_is_promoted_by_hand_waits_for_every_replica_unless_forced(
    tmp_path: Path, valkey_url: str, redis: Any
) -> None:
    async with two_replicas(tmp_path, valkey_url) as (good, broken):
        broken.engine.models = {broken.base.name}
        good.now.follower.presence.patience_s = 0.0
        await add_adapter(good, ONE)
        given = (good.now.follower.database, redis, ONE, "ada")
        async with good.now.follower.database.write() as connection:
            await store.set_state(connection, ONE, VersionState.PASSED)
        await operations.promote(*given, "it is good")
        await wait_until(lambda: ONE in good.now.follower.snapshot.ready, "it is loaded here")
        await wait_until(lambda: good.now.follower.lagging(), "it waits for the broken one")
        assert await version_for(good) == good.base.name
        await operations.promote(*given, "and again")  # changes nothing
        assert await version_for(good) == good.base.name
        moved = await operations.promote(*given, "never mind that one", force=True)
        assert moved.revision == 3
        await wait_until(serves(good, ONE), "the good one moves alone")
        (last, *_) = await operations.history(good.now.follower.database)
        assert last.reason == "forced: never mind that one"


async def test_a_replica_that_comes_late_loads_the_candidate_before_it_is_ready(
    tmp_path: Path, valkey_url: str, redis: Any
) -> None:
    async with inference_server(tmp_path, valkey_url) as server:
        await add_adapter(server, ONE)
        await move(server, Alias.CANDIDATE, ONE, 0.5)
        engine, may_load = FakeEngine(), asyncio.Event()

        async def hold(model: str) -> None:
            if model == ONE:
                await may_load.wait()

        engine.gate = hold
        async with inference_server(tmp_path, valkey_url, engine, wait_ready=False) as late:
            await wait_until(lambda: late.now.follower.snapshot.stable, "it has read the release")
            checks = (await late.http.get("/readyz")).json()["checks"]
            assert checks["release"] == f"the candidate {ONE!r} is being loaded"
            may_load.set()

            async def ready() -> bool:
                return (await late.http.get("/readyz")).status_code == 200

            await wait_until(ready, "it is ready")
            assert late.now.follower.snapshot.candidate == ONE


async def test_a_running_replica_stays_ready_while_a_candidate_is_loaded(
    tmp_path: Path, valkey_url: str, redis: Any
) -> None:
    async with inference_server(tmp_path, valkey_url) as server:
        server.engine.gate = lambda model: asyncio.sleep(3600 if model == ONE else 0)
        await add_adapter(server, ONE)
        await move(server, Alias.CANDIDATE, ONE, 0.0, redis=redis)
        await wait_until(lambda: ONE in server.now.follower.files.loading, "it is being loaded")
        assert (await server.http.get("/readyz")).status_code == 200


async def test_an_adapter_is_unloaded_after_its_last_answer_has_ended(
    tmp_path: Path, valkey_url: str, redis: Any
) -> None:
    engine = FakeEngine()

    def unloads() -> int:
        return engine.admin_calls.count("/v1/unload_lora_adapter")

    async with inference_server(tmp_path, valkey_url, engine) as server:
        await add_adapter(server, ONE)
        assert (await server.chat(model=ONE)).status_code == 200
        held = asyncio.Event()
        engine.wait = held.wait
        running = asyncio.create_task(server.chat("a b c", model=ONE, stream=True))
        await wait_until(lambda: server.engine.seen[-1]["body"].get("stream"), "it runs")
        server.now.follower.uses.idle_s = 0.1
        for _ in range(3):  # three rounds of looking
            before = server.now.follower._read_at
            await wait_until(lambda at=before: server.now.follower._read_at > at, "it looked")
        assert unloads() == 0
        held.set()
        answer = await running
        assert answer.text.endswith("data: [DONE]\n\n")
        await wait_until(unloads, "nobody uses it any more")
        again = await server.chat(model=ONE)
        assert (again.status_code, again.headers["x-learnback-version"]) == (200, ONE)


async def test_rollback_takes_seconds_even_after_a_restart_of_everything(
    tmp_path: Path, valkey_url: str, redis: Any
) -> None:
    async with inference_server(tmp_path, valkey_url) as server:
        await add_adapter(server, ONE, state=VersionState.PROMOTED)
        await add_adapter(server, TWO, state=VersionState.PROMOTED)
        for name in (ONE, TWO):
            await move(server, Alias.STABLE, name, redis=redis)
            await wait_until(serves(server, name), f"{name} serves")

    refresh = timedelta(hours=1)  # the message alone must do
    async with inference_server(tmp_path, valkey_url, refresh=refresh) as server:
        server.now.follower.uses.idle_s = 0.0
        await wait_until(lambda: ONE in server.now.follower.snapshot.ready, "the one before too")
        server.engine.seen.clear()
        began = time.monotonic()
        database = server.now.follower.database
        await operations.rollback(database, redis, "ada", "it swears")
        await wait_until(serves(server, ONE), "the version before answers")
        seconds = time.monotonic() - began
        print(f"rolled back after a restart in {seconds:.2f} s")
        assert seconds < 5
        assert not [s for s in server.engine.seen if s["body"].get("prompt") == "Hi"], "no load"
        async with database.read() as connection:
            assert (await store.get(connection, TWO)).state is VersionState.ROLLED_BACK


@pytest.mark.parametrize("graceful", [True, False])
async def test_a_replica_that_ends_is_not_waited_for(
    tmp_path: Path, valkey_url: str, redis: Any, graceful: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not graceful:
        monkeypatch.setattr(replicas, "LIVE", timedelta(seconds=4))
    async with inference_server(tmp_path, valkey_url) as server:
        async with inference_server(tmp_path, valkey_url) as other:
            if not graceful:  # as `kill -9`: it never says so
                monkeypatch.setattr(
                    other.now.follower.presence, "leave", lambda database: asyncio.sleep(0)
                )

        async def alone() -> bool:
            async with server.now.follower.database.read() as connection:
                return len(await replicas.live(connection, server.base.digest)) == 1

        await wait_until(alone, "the other is gone", 3 if graceful else 30)
