"""The replica follows the release: loads first, switches then, and never serves what is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY
from tests.conftest import wait_until
from tests.factories import a_version
from tests.fake_engine import FakeEngine
from tests.inference_server import (
    DIGEST,
    add_adapter,
    inference_server,
    move,
    swap_under_load,
    version_for,
    wait_recorded,
)

from learnback.contracts.models import Alias, VersionKind, VersionState
from learnback.inference.resolver import resolve
from learnback.registry import store

FEW_SHOT = {"strategy": "few_shot", "examples": [{"user": "a", "assistant": "b"}]}


async def test_a_promoted_adapter_is_loaded_and_then_served(
    tmp_path: Path, valkey_url: str, redis: Any
) -> None:
    async with inference_server(tmp_path, valkey_url) as server:
        await add_adapter(server, "tiny-dpo-1")
        await move(server, Alias.STABLE, "tiny-dpo-1", redis=redis)

        async def switched() -> bool:
            return await version_for(server) == "tiny-dpo-1"

        await wait_until(switched, "the new version serves")
        warm_up = next(s for s in server.engine.seen if s["body"]["model"] == "tiny-dpo-1")
        assert warm_up["path"] == "/v1/completions", "it was used once before anybody got it"
        pinned = await server.chat(model=server.base.name)
        assert pinned.headers["x-learnback-version"] == server.base.name
        assert pinned.headers["x-learnback-track"] == "pinned"
        assert server.engine.seen[-1]["body"]["model"] == server.base.name


async def test_a_message_makes_it_look_at_once(tmp_path: Path, valkey_url: str, redis: Any) -> None:
    from datetime import timedelta

    async with inference_server(tmp_path, valkey_url, refresh=timedelta(hours=1)) as server:
        await add_adapter(server, "tiny-dpo-1")
        await move(server, Alias.STABLE, "tiny-dpo-1", redis=redis)

        async def switched() -> bool:
            return await version_for(server) == "tiny-dpo-1"

        await wait_until(switched, "the new version serves")


async def test_a_candidate_gets_its_share_and_each_user_stays(
    tmp_path: Path, valkey_url: str, redis: Any
) -> None:
    async with inference_server(tmp_path, valkey_url) as server:
        await add_adapter(server, "tiny-dpo-1")
        await move(server, Alias.CANDIDATE, "tiny-dpo-1", 0.5)
        await wait_until(lambda: server.now.follower.snapshot.candidate, "it is loaded")
        first = [await version_for(server, user=f"user-{i}") for i in range(30)]
        again = [await version_for(server, user=f"user-{i}") for i in range(30)]
        assert first == again
        assert 5 <= first.count("tiny-dpo-1") <= 25
        served = await wait_recorded(redis, 60)
        assert {s.probability for s in served} == {0.5}
        assert {s.track for s in served} == {"stable", "candidate"}
        await move(server, Alias.CANDIDATE, None, 0.0)
        await wait_until(lambda: not server.now.follower.snapshot.candidate, "it is taken back")
        assert {await version_for(server, user=f"user-{i}") for i in range(10)} == {
            server.base.name
        }


@pytest.mark.parametrize("damage", ["changed", "missing"])
async def test_an_adapter_with_wrong_files_is_never_served(
    tmp_path: Path, valkey_url: str, redis: Any, damage: str
) -> None:
    async with inference_server(tmp_path, valkey_url) as server:
        folder = await add_adapter(server, "tiny-dpo-1")
        weights = folder / "adapter_model.safetensors"
        weights.write_text("other weights") if damage == "changed" else weights.unlink()
        pinned = await server.chat(model="tiny-dpo-1")
        assert pinned.status_code == 503
        error = pinned.json()["error"]
        assert error["code"] == "version_unavailable"
        assert "tiny-dpo-1" in error["message"]
        await move(server, Alias.STABLE, "tiny-dpo-1")
        await wait_until(lambda: server.now.follower.lagging(), "it notices that it can't")
        assert await version_for(server) == server.base.name
        ready = (await server.http.get("/readyz")).json()
        assert ready["ready"], "it serves the version before"
        assert "tiny-dpo-1" in ready["not_served"]
        assert REGISTRY.get_sample_value("learnback_inference_not_served_versions") == 1
        assert not [s for s in server.engine.seen if s["body"]["model"] == "tiny-dpo-1"]
        assert (await wait_recorded(redis, 1))[0].version == server.base.name


async def test_a_version_that_the_engine_refuses_is_never_served(
    tmp_path: Path, valkey_url: str, redis: Any
) -> None:
    async with inference_server(tmp_path, valkey_url) as server:
        server.engine.models = {server.base.name}
        await add_adapter(server, "tiny-dpo-1")
        pinned = await server.chat(model="tiny-dpo-1")
        assert pinned.status_code == 503
        assert "does not exist" in pinned.json()["error"]["message"]
        server.engine.models.add("tiny-dpo-1")
        await move(server, Alias.STABLE, "tiny-dpo-1")

        async def switched() -> bool:
            return await version_for(server) == "tiny-dpo-1"

        await wait_until(switched, "it is tried again and serves")


@pytest.mark.parametrize(
    "changes",
    [
        {"base_digest": "f" * 64},
        {"state": VersionState.REFUSED},
        {"kind": VersionKind.REWARD_MODEL},
    ],
)
async def test_versions_that_are_not_for_this_server_are_unknown(
    tmp_path: Path, valkey_url: str, redis: Any, changes: dict[str, Any]
) -> None:
    async with inference_server(tmp_path, valkey_url) as server:
        await add_adapter(server, "tiny-other-1", **changes)
        answer = await server.chat(model="tiny-other-1")
        assert answer.status_code == 404
        assert answer.json()["error"]["code"] == "model_not_found"


async def test_a_new_version_can_be_pinned_as_soon_as_it_is_registered(
    tmp_path: Path, valkey_url: str, redis: Any
) -> None:
    from datetime import timedelta

    async with inference_server(tmp_path, valkey_url, refresh=timedelta(hours=1)) as server:
        await add_adapter(server, "tiny-dpo-1")

        async def known() -> bool:
            return (await server.chat(model="tiny-dpo-1")).status_code == 200

        await wait_until(known, "an unknown name makes it look, at most once a second")


async def test_a_prompt_strategy_changes_the_prompt_and_not_the_record(
    tmp_path: Path, valkey_url: str, redis: Any
) -> None:
    async with inference_server(tmp_path, valkey_url) as server:
        async with server.now.follower.database.write() as connection:
            await store.register(
                connection,
                a_version(
                    "tiny-few-1", kind=VersionKind.PROMPT, base_digest=DIGEST, config=FEW_SHOT
                ),
            )
        await move(server, Alias.STABLE, "tiny-few-1")

        async def switched() -> bool:
            return await version_for(server, text="hello") == "tiny-few-1"

        await wait_until(switched, "the strategy serves")
        seen = server.engine.seen[-1]["body"]
        assert seen["model"] == server.base.name
        assert [m["content"] for m in seen["messages"]] == ["a", "b", "hello"]
        by_version = {s.version: s for s in await wait_recorded(redis, len(server.engine.seen))}
        served = by_version["tiny-few-1"]
        assert served.prompt == ({"role": "user", "content": "hello"},)
        assert served.prompt_strategy == "tiny-few-1"


async def test_swaps_under_load_fail_no_request_and_tear_no_stream(
    tmp_path: Path, valkey_url: str, redis: Any
) -> None:
    async with inference_server(tmp_path, valkey_url, FakeEngine(delay_s=0.002)) as server:
        for number in range(4):
            await add_adapter(server, f"tiny-dpo-{number}")
        answers = await swap_under_load(server, [f"tiny-dpo-{n}" for n in range(4)], redis)
    assert {answer.status_code for answer in answers} == {200}
    for answer in answers:
        assert answer.text.endswith("data: [DONE]\n\n")
        first = json.loads(answer.text.partition("\n")[0].removeprefix("data: "))
        assert first["model"] == answer.headers["x-learnback-version"], "the one that it says"
    assert len({answer.headers["x-learnback-version"] for answer in answers}) >= 4


async def test_adapters_reach_engines_behind_the_proxy_and_come_back_after_a_restart(
    tmp_path: Path, valkey_url: str, redis: Any
) -> None:
    engine = FakeEngine(models={"base"})
    async with inference_server(tmp_path, valkey_url, engine, proxied=True) as server:
        await add_adapter(server, "tiny-dpo-1")
        await move(server, Alias.STABLE, "tiny-dpo-1", redis=redis)

        async def switched() -> bool:
            return await version_for(server) == "tiny-dpo-1"

        await wait_until(switched, "the new version serves")
        assert engine.admin_calls == ["/v1/load_lora_adapter"]
        engine.models = {"base"}  # what a restarted engine knows
        await wait_until(lambda: "tiny-dpo-1" in (engine.models or ()), "it is loaded again")


async def test_the_resolver_gives_verified_files_or_nothing(
    tmp_path: Path, valkey_url: str, redis: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("vllm.lora.request")
    monkeypatch.setenv("LEARNBACK_HOME", str(tmp_path))
    async with inference_server(tmp_path, valkey_url) as server:
        await add_adapter(server, "tiny-dpo-1")
        damaged = await add_adapter(server, "tiny-dpo-2")
        (damaged / "adapter_model.safetensors").write_text("other weights")
        found = await resolve(DIGEST, "tiny-dpo-1")
        assert found is not None
        weights = Path(found.lora_path) / "adapter_model.safetensors"
        assert weights.read_text() == "weights of tiny-dpo-1"
        assert await resolve(DIGEST, "tiny-dpo-2") is None
        assert await resolve(DIGEST, "../../etc") is None
        assert await resolve("f" * 64, "tiny-dpo-1") is None
