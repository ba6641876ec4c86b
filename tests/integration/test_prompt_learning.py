"""Prompt strategies learn: from feedback to a bank, through the gate, to people, and back."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from tests.canary_world import CANARY, Habits, Town, live
from tests.conftest import wait_until
from tests.inference_server import Server, inference_server, version_for, wait_recorded
from tests.learning import a_signal, held_out, tell
from tests.release_world import SHORT, a_completion, a_world, always, held_out_texts

from learnback.cli import main
from learnback.contracts.models import FeedbackKind, Scope, VersionKind, VersionState
from learnback.contracts.streams import MODELS
from learnback.core.settings import HELD_OUT_SHARE
from learnback.ledger import completions, training
from learnback.ledger.feedback import add
from learnback.ledger.keys import create_key
from learnback.registry import store
from learnback.release import operations
from learnback.release.engine import Engine
from learnback.retraining.datasets import pairs
from learnback.retraining.datasets.examining import examine
from learnback.retraining.datasets.split import Shares
from learnback.retraining.settings import FilterSettings

LONG_WORDING = "Take your time and say a great deal more than anybody asked for."


@pytest.fixture
async def server(
    tmp_path: Path, valkey_url: str, redis: Any, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Server]:
    """A server that commands find by the environment."""
    monkeypatch.setenv("LEARNBACK_REDIS_URL", valkey_url)
    monkeypatch.setenv("LEARNBACK_HOME", str(tmp_path))
    async with inference_server(tmp_path, valkey_url) as server:
        yield server


async def prompts(*arguments: str, code: int = 0) -> Any:
    """The JSON answer of `learnback prompts`, or its error text."""
    line = ["prompts", *arguments, "--json"]
    result = await asyncio.to_thread(CliRunner().invoke, main, line)
    assert result.exit_code == code, result.output
    return result.output if code else json.loads(result.stdout)


async def test_feedback_becomes_a_version_that_shows_the_best_answers(
    server: Server, redis: Any
) -> None:
    database = server.now.follower.database
    said = await tell(database, 30)
    made = await prompts("create", "--strategy", "few_shot", "--max-examples", "1", "--dry-run")
    assert made["registered"] is False
    async with database.read() as connection:
        assert await store.find(connection, made["version"]) is None
        assert (await training.waiting(connection)).count == 30

    made = await prompts("create", "--strategy", "few_shot", "--max-examples", "1")
    name = made["version"]
    assert made["examples"] == 30 - len(held_out(said, HELD_OUT_SHARE))
    async with database.read() as connection:
        version = await store.get(connection, name)
        assert (await training.waiting(connection)).count == 30, "no signal is used up"
    assert (version.kind, version.state) == (VersionKind.PROMPT, VersionState.REGISTERED)
    assert name.encode() in (await redis.xrevrange(MODELS.key))[0][1][b"body"]

    shown = await prompts("show", name)
    assert len(shown["examples"]) == made["examples"]
    taught = shown["examples"][0]
    answer = await server.chat(f"{taught['user']} please", model=name)
    assert answer.status_code == 200
    seen = server.engine.seen[-1]["body"]["messages"]
    assert [m["content"] for m in seen[:2]] == [taught["user"], taught["answer"]]
    again = await prompts("create", "--strategy", "few_shot", "--max-examples", "1")
    assert again["version"] == name, "the same words make the same version"


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--strategy", "few_shot"], "no answer yet that could be an example"),
        (["--strategy", "zero_shot"], "needs a system text"),
        (["--strategy", "few_shot", "--max-examples", "99"], "max_examples"),
        (["--strategy", "zero_shot_cot", "--on", "nobody"], "no model version"),
    ],
)
async def test_what_can_not_be_made_says_why(
    server: Server, arguments: list[str], why: str
) -> None:
    assert why in await prompts("create", *arguments, code=1)


async def test_a_strategy_passes_the_gate_serves_and_is_rolled_back(
    server: Server, redis: Any, tmp_path: Path
) -> None:
    """Through the real middleware: the engine says the prompt back, and the judge likes brevity, so
    a strategy without the long wording of the stable one wins."""
    follower = server.now.follower
    async with a_world(follower.database, redis, tmp_path) as world:
        asked = [a_completion(text, i) for i, text in enumerate(held_out_texts(40))]
        async with follower.database.write() as connection:
            await completions.record(connection, asked)
        await world.add_judge({"held_out_pairs": 100, "held_out_correct": 85.0})
        wordy = await _made("zero_shot_cot", "--wording", LONG_WORDING)
        await operations.promote(follower.database, redis, wordy, "test", "for now", force=True)
        await wait_until(lambda: follower.snapshot.stable == wordy, "the wordy version serves")
        brief = await _made("zero_shot", "--system", "Be brief.")

        controller = world.controller()
        controller.evaluator.engine = Engine(server.http, server.url)
        await controller.look()
        judged = await world.version(brief)
        assert judged.state is VersionState.PASSED, judged.gate_report
        assert judged.parent == server.base.name, "it stands on the weights, not on the strategy"

        async def serves() -> bool:
            await controller.look()
            return await version_for(server) == brief

        await wait_until(serves, "the brief version serves")
        first = server.engine.seen[-1]["body"]["messages"]
        assert [m["content"] for m in first] == ["Be brief.", "a b c"]
        await operations.rollback(follower.database, redis, "test", "people miss the words")

        async def wordy_again() -> bool:
            return await version_for(server) == wordy

        await wait_until(wordy_again, "the version before serves again")
        assert (await world.version(brief)).state is VersionState.ROLLED_BACK


async def _made(strategy: str, *arguments: str) -> str:
    made = await prompts("create", "--strategy", strategy, *arguments)
    return str(made["version"])


async def test_each_tenants_prompts_are_judged_with_its_own_examples(
    tmp_path: Path, valkey_url: str, redis: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LEARNBACK_REDIS_URL", valkey_url)
    monkeypatch.setenv("LEARNBACK_HOME", str(tmp_path))
    async with inference_server(tmp_path, valkey_url, require_keys=True) as server:
        database = server.now.follower.database
        async with a_world(database, redis, tmp_path) as world:
            for tenant in ("acme", "globex"):
                await tell(database, 20, f"{tenant}-", tenant=tenant)
            texts = held_out_texts(40)
            tenants = {text: ("acme", "globex")[i % 2] for i, text in enumerate(texts)}
            async with database.write() as connection:
                asked = [a_completion(t, i, tenant=tenants[t]) for i, t in enumerate(texts)]
                await completions.record(connection, asked)
                scopes = [Scope.INFER], [Scope.INFER, Scope.EVALUATE]
                blind, seeing = [
                    (await create_key(connection, "operator", "release", some))[1]
                    for some in scopes
                ]
            await world.add_judge({"held_out_pairs": 100, "held_out_correct": 85.0})
            name = await _made("few_shot", "--max-examples", "1")
            judged, before = await world.version(name), len(server.engine.seen)

            async def evaluate(key: str) -> dict[str, Any]:
                controller = world.controller(api_key=key)
                controller.evaluator.engine = Engine(server.http, server.url, key)
                return (await controller.evaluate(judged)).as_json()

            refused = await evaluate(blind)
            assert refused["verdict"] == "inconclusive"
            assert "lacks the scope 'evaluate' to ask as acme, globex" in refused["reasons"][-1]
            assert len(server.engine.seen) == before, "nothing was asked in vain"

            assert (await evaluate(seeing))["evaluation"]["answered"] >= 40
            shown = [s["body"]["messages"] for s in server.engine.seen]
            few_shot = {m[-1]["content"]: m[0]["content"] for m in shown if len(m) == 3}
            of_whom = {text: few_shot[text].split()[1].partition("-")[0] for text in texts}
            assert of_whom == tenants

            chat = {"model": name, "messages": [{"role": "user", "content": "x"}], "store": False}
            for changes, key, status in (
                ({}, blind, 403),
                ({"store": True}, seeing, 400),
                ({}, seeing, 200),
            ):
                headers = {"Authorization": f"Bearer {key}", "X-Learnback-As-Tenant": "acme"}
                answer = await server.http.post(
                    "/v1/chat/completions", json=chat | changes, headers=headers
                )
                assert answer.status_code == status, answer.text


@pytest.mark.parametrize(
    ("habits", "state"),
    [
        (Habits(likes=0.95), VersionState.PROMOTED),
        (Habits(likes=0.02), VersionState.ROLLED_BACK),
    ],
)
async def test_a_canary_of_a_strategy_ends_as_people_like_it(
    sqlite_database: Any, redis: Any, tmp_path: Path, habits: Habits, state: VersionState
) -> None:
    name = "tiny-few-shot-1"
    async with a_world(sqlite_database, redis, tmp_path) as world:
        await world.prepare()
        config = {"strategy": "zero_shot", "system": "Be brief."}
        await world.candidate(
            name, always(SHORT), kind=VersionKind.PROMPT, config=config, metrics={}
        )
        town = Town(world, {name: habits}, Habits(likes=0.5))

        async def decided() -> bool:
            return (await world.version(name)).state is state

        controller = world.controller(canary=CANARY)
        assert await live(town, controller.look, 60, 60, decided)
        assert town.unverified == []


async def test_training_sees_the_callers_own_prompt(server: Server, redis: Any) -> None:
    name = await _made("zero_shot", "--system", "SECRET SAUCE", "--wording", "AND MORE")
    for text in ("one", "two"):
        answer = await server.chat(f"word {text}", model=name)
        assert answer.status_code == 200
        assert "AND MORE" in server.engine.seen[-1]["body"]["messages"][-1]["content"]
    served = await wait_recorded(redis, 2)
    database = server.now.follower.database
    bodies = {
        s.id: {"kind": "correction", "completion_id": s.id, "choice": 0, "text": "Better."}
        for s in served
    }
    rows = [
        a_signal(f"f{n}", i, kind=FeedbackKind.CORRECTION.value, other_completion_id=None, body=b)
        for n, (i, b) in enumerate(bodies.items())
    ]
    async with database.write() as connection:
        await completions.record(connection, served)
        await add(connection, rows)
        signals = await training.signals(connection)
    found = examine(signals, server.base.digest, Shares(0.0, 0.0), FilterSettings())
    made, _ = pairs.build(found, ties=False)
    assert {row.prompt[0]["content"] for row in made} == {"word one", "word two"}
    assert all(len(row.prompt) == 1 for row in made)
    assert "SAUCE" not in repr(made)
