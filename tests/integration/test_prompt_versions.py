"""Prompt versions with an example bank: fetched before they are served, and never leaking."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY
from tests.conftest import wait_until
from tests.factories import a_version, an_example
from tests.fake_engine import FakeEngine
from tests.inference_server import (
    DIGEST,
    Server,
    add_adapter,
    inference_server,
    move,
    swap_under_load,
    version_for,
    wait_recorded,
)
from tests.release_world import a_completion

from learnback.contracts.models import Alias, Scope, VersionKind
from learnback.inference import banks, files
from learnback.ledger import completions
from learnback.ledger.keys import create_key
from learnback.models import example_bank
from learnback.models.example_bank import Entry, bank_of
from learnback.registry import store
from learnback.registry.artifacts import ArtifactStore

CATS = an_example("how do cats purr")
DOGS = an_example("how do dogs bark")


async def add_prompts(server: Server, name: str, *entries: Entry, **changes: Any) -> Path:
    """Register a few-shot version with its bank; the folder of the bank in the store."""
    folder = server.home / "made" / name
    example_bank.save(bank_of(entries), folder)
    digest = ArtifactStore(server.common.artifact_root).put(folder, name)
    config = {"strategy": "few_shot", "bank": digest, "max_examples": 1, "reward_weight": 0}
    values = {
        "kind": VersionKind.PROMPT,
        "base_digest": DIGEST,
        "artifact": name,
        "artifact_digest": digest,
        "config": config | changes.pop("config", {}),
    } | changes
    async with server.now.follower.database.write() as connection:
        await store.register(connection, a_version(name, **values))
    return server.home / "artifacts" / name


def asked(server: Server) -> list[str]:
    """The messages of the last request that reached the engine."""
    return [m["content"] for m in server.engine.seen[-1]["body"]["messages"]]


async def test_each_request_gets_the_example_most_like_it_and_the_record_says_which(
    tmp_path: Path, valkey_url: str, redis: Any
) -> None:
    async with inference_server(tmp_path, valkey_url) as server:
        await add_prompts(server, "tiny-few-1", CATS, DOGS)
        await move(server, Alias.STABLE, "tiny-few-1", redis=redis)

        async def switched() -> bool:
            return await version_for(server, text="do dogs dream") == "tiny-few-1"

        await wait_until(switched, "the strategy serves")
        assert asked(server) == [DOGS.user, DOGS.answer, "do dogs dream"]
        assert server.engine.seen[-1]["body"]["model"] == server.base.name
        await server.chat("do cats dream")
        assert asked(server) == [CATS.user, CATS.answer, "do cats dream"]
        served = await wait_recorded(redis, len(server.engine.seen))
        last = served[-1]
        assert last.prompt == ({"role": "user", "content": "do cats dream"},), "the caller's own"
        assert (last.prompt_strategy, last.examples) == ("tiny-few-1", (CATS.id,))
        async with server.now.follower.database.write() as connection:
            await completions.record(connection, served)
            row = await completions.find(connection, "default", last.id)
        assert row is not None
        assert row.prompting == {"strategy": "tiny-few-1", "examples": [CATS.id], "skipped": None}


async def test_a_step_aside_is_recorded_and_counted(
    tmp_path: Path, valkey_url: str, redis: Any
) -> None:
    async with inference_server(tmp_path, valkey_url) as server:
        await add_prompts(server, "tiny-few-1", CATS)
        tool = {"type": "function", "function": {"name": "f", "parameters": {}}}
        before = _counted("tools")
        answer = await server.chat("how do cats purr", model="tiny-few-1", tools=[tool])
        assert answer.status_code == 200
        assert asked(server) == ["how do cats purr"]
        served = (await wait_recorded(redis))[-1]
        assert (served.prompt_strategy, served.strategy_skipped) == (None, "tools")
        assert _counted("tools") == before + 1


def _counted(reason: str) -> float:
    name = "learnback_inference_strategy_skipped_total"
    return REGISTRY.get_sample_value(name, {"reason": reason}) or 0.0


async def test_nobody_is_shown_what_another_tenant_wrote(
    tmp_path: Path, valkey_url: str, redis: Any
) -> None:
    shared = an_example("how do birds sing", tenant="nobody", shared=True)
    async with inference_server(tmp_path, valkey_url, require_keys=True) as server:
        secrets = {}
        async with server.now.follower.database.write() as connection:
            for tenant in ("acme", "umbrella"):
                _, secrets[tenant] = await create_key(connection, tenant, "app", [Scope.INFER])
        theirs = an_example("how do cats purr", tenant="acme")
        await add_prompts(server, "tiny-few-1", theirs, shared, config={"max_examples": 4})

        async def shown_to(tenant: str) -> list[str]:
            body = {
                "model": "tiny-few-1",
                "messages": [{"role": "user", "content": "how do cats purr"}],
            }
            headers = {"Authorization": f"Bearer {secrets[tenant]}"}
            answer = await server.http.post("/v1/chat/completions", json=body, headers=headers)
            assert answer.status_code == 200, answer.text
            return asked(server)

        assert theirs.answer in await shown_to("acme")
        assert await shown_to("umbrella") == [shared.user, shared.answer, "how do cats purr"]


@pytest.mark.parametrize("damage", ["changed", "missing", "no bank", "other digest"])
async def test_a_version_with_a_wrong_bank_is_never_served(
    tmp_path: Path, valkey_url: str, redis: Any, damage: str
) -> None:
    async with inference_server(tmp_path, valkey_url) as server:
        folder = await _broken(server, damage)
        if damage == "changed":
            example_bank.save(bank_of([DOGS]), folder)
        if damage == "missing":
            (folder / example_bank.BANK_FILE).unlink()
        pinned = await server.chat(model="tiny-few-1")
        assert pinned.status_code == 503
        error = pinned.json()["error"]
        assert error["code"] == "version_unavailable"
        assert "tiny-few-1" in error["message"]
        await move(server, Alias.STABLE, "tiny-few-1")
        await wait_until(lambda: server.now.follower.lagging(), "it notices that it can't")
        assert await version_for(server) == server.base.name, "it serves the version before"
        ready = (await server.http.get("/readyz")).json()
        assert "tiny-few-1" in ready["not_served"]


async def _broken(server: Server, damage: str) -> Path:
    """A version whose registration is wrong, where the damage is of that kind."""
    if damage == "other digest":
        return await add_prompts(server, "tiny-few-1", CATS, config={"bank": "f" * 64})
    if damage != "no bank":
        return await add_prompts(server, "tiny-few-1", CATS)
    made = server.home / "other"
    made.mkdir()
    (made / example_bank.BANK_FILE).write_text("[1, 2, 3]")
    digest = ArtifactStore(server.common.artifact_root).put(made, "no-bank")
    files = {"artifact": "no-bank", "artifact_digest": digest}
    return await add_prompts(server, "tiny-few-1", **files, config={"bank": digest})


async def test_what_was_erased_or_withdrawn_is_shown_no_more(
    tmp_path: Path, valkey_url: str, redis: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(banks, "RECHECK_S", 0.0)
    async with inference_server(tmp_path, valkey_url) as server:
        kept, erased, gone = (
            an_example(text, completion_id=f"chatcmpl-{number:08d}")
            for number, text in enumerate(("how do cats purr", "how do cats meow", "how do cats"))
        )
        database = server.now.follower.database
        async with database.write() as connection:
            recorded = [a_completion("x", number) for number in range(2)]
            await completions.record(connection, recorded)
        await add_prompts(server, "tiny-few-1", kept, erased, gone, config={"max_examples": 4})
        await server.chat("how do cats", model="tiny-few-1")
        assert set(asked(server)[::2]) == {kept.user, erased.user, "how do cats"}
        assert gone.answer not in asked(server), "nothing is known of its completion"
        async with database.write() as connection:
            await completions.erase(connection, "default", erased.completion_id or "")

        async def shown() -> list[str]:
            await server.chat("how do cats", model="tiny-few-1")
            return asked(server)[:-1]

        async def only_kept() -> bool:
            return await shown() == [kept.user, kept.answer]

        await wait_until(only_kept, "the erased example is shown no more")


async def test_a_strategy_on_an_adapter_needs_both(
    tmp_path: Path, valkey_url: str, redis: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "FAILURE_S", 0.2)
    async with inference_server(tmp_path, valkey_url) as server:
        server.engine.models = {server.base.name}
        await add_adapter(server, "tiny-dpo-1")
        await add_prompts(server, "tiny-few-1", CATS, parent="tiny-dpo-1")
        assert (await server.chat(model="tiny-few-1")).status_code == 503, "no adapter yet"
        server.engine.models.add("tiny-dpo-1")
        await move(server, Alias.STABLE, "tiny-few-1", redis=redis)

        async def switched() -> bool:
            return await version_for(server, text="how do cats purr") == "tiny-few-1"

        await wait_until(switched, "both are loaded and it serves")
        assert server.engine.seen[-1]["body"]["model"] == "tiny-dpo-1"
        assert asked(server)[0] == CATS.user


@pytest.mark.parametrize("proxied", [False, True])
async def test_the_engine_says_how_much_fits(
    tmp_path: Path, valkey_url: str, redis: Any, proxied: bool
) -> None:
    engine = FakeEngine(context=400)
    async with inference_server(tmp_path, valkey_url, engine, proxied=proxied) as server:
        await add_prompts(server, "tiny-few-1", CATS)
        short = await server.chat("how do cats purr", model="tiny-few-1", max_tokens=50)
        assert short.status_code == 200
        assert len(asked(server)) == 3
        await server.chat("how do cats purr " * 20, model="tiny-few-1", max_tokens=50)
        assert len(asked(server)) == 1, "the example would not fit"
        served = await wait_recorded(redis, 2)
        assert [s.strategy_skipped for s in served[-2:]] == [None, "no_room"]


async def test_swaps_of_prompt_versions_under_load_fail_nothing_and_mix_nothing(
    tmp_path: Path, valkey_url: str, redis: Any
) -> None:
    async with inference_server(tmp_path, valkey_url, FakeEngine(delay_s=0.002)) as server:
        names = [f"tiny-few-{number}" for number in range(4)]
        for name in names:
            await add_prompts(server, name, an_example("a b c d e", answer=f"as {name} says"))
        answers = await swap_under_load(server, names, redis)
        assert {answer.status_code for answer in answers} == {200}
        assert {answer.text.endswith("data: [DONE]\n\n") for answer in answers} == {True}
        said = {s["headers"]["x-request-id"]: json.dumps(s["body"]) for s in server.engine.seen}
        for answer in answers:
            version = answer.headers["x-learnback-version"]
            shown = said[answer.headers["x-request-id"]]
            assert [n for n in names if f"as {n} says" in shown] == [version] * (version in names)
        assert {answer.headers["x-learnback-version"] for answer in answers} >= set(names)
