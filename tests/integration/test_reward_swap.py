"""The reward process goes over to another reward model of either kind while completions stream."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import wait_until
from tests.factories import a_model_trained
from tests.learning import a_completion
from tests.reward_models import make_linear, make_neural, publish
from tests.tiny_model import tiny_model

from learnback.contracts.messages import CompletionScored
from learnback.contracts.models import VersionKind
from learnback.contracts.streams import COMPLETIONS, MODELS, REWARDS
from learnback.core import bus
from learnback.core.settings import CommonSettings
from learnback.ledger.database import Database
from learnback.models.reward import load
from learnback.reward.app import create_app
from learnback.reward.settings import RewardSettings
from learnback.reward.worker import Worker

__all__ = ["tiny_model"]

pytestmark = [pytest.mark.timeout(180), pytest.mark.xdist_group("neural-reward")]

PROMPTS = [({"role": "user", "content": f"q{i}"},) for i in range(3)]
LONG, SHORT = "thanks thanks thanks please yes good morning", "no bad"


ITEMS = [(prompt, text) for prompt in PROMPTS for text in (LONG, SHORT)]


async def model_scores(redis: Any) -> list[CompletionScored]:
    entries = await redis.xrange(REWARDS.key)
    found = [bus.decode(REWARDS, entry_id, fields).message for entry_id, fields in entries]
    return [message for message in found if message and message.scorer == "model"]


async def until_scoring_with(worker: Worker, version: str) -> None:
    def there() -> bool:
        return worker.current.scorer is not None and worker.current.scorer.version == version

    await wait_until(there, f"{version} scores")


async def drained(redis: Any) -> bool:
    groups = await redis.xinfo_groups(COMPLETIONS.key)
    return all(g["pending"] == g["lag"] == 0 for g in groups if g["name"] == b"reward")


async def test_every_completion_is_scored_once_by_a_whole_model_through_all_swaps(
    redis: Any, sqlite_database: Database, tmp_path: Path, tiny_model: Path
) -> None:
    folders = [
        make_linear(tmp_path / "linear", better=LONG, worse=SHORT),
        make_neural(tmp_path / "neural-0", tiny_model, 0),
        make_neural(tmp_path / "neural-1", tiny_model, 1),
        make_linear(tmp_path / "linear-again", better=SHORT, worse=LONG),
    ]
    torn = make_neural(tmp_path / "torn", tiny_model, 2)
    weights = torn / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:2000])
    app = create_app(
        RewardSettings(look_every=timedelta(hours=1)),
        CommonSettings(home=tmp_path),
        database=sqlite_database,
        redis=redis,
    )
    worker: Worker = app.state.worker
    names = {}
    served = 0
    stop = asyncio.Event()

    async def people() -> None:
        nonlocal served
        while not stop.is_set():
            batch = [a_completion(f"c{served + i}", f"q{i}", LONG, SHORT) for i in range(3)]
            await bus.publish(redis, COMPLETIONS, batch)
            served += len(batch)
            await asyncio.sleep(0.02)

    async with app.router.lifespan_context(app):
        asking = asyncio.create_task(people())
        for folder in [*folders[:3], torn, folders[3]]:
            name = await publish(sqlite_database, tmp_path, folder)
            await bus.publish(redis, MODELS, [a_model_trained(name, kind=VersionKind.REWARD_MODEL)])
            if folder is torn:
                await wait_until(lambda: worker.current.problem, "the torn model is refused")
                continue
            names[name] = folder
            await until_scoring_with(worker, name)
        stop.set()
        await asking

        await wait_until(lambda: drained(redis), "all completions are scored")
    scored = await model_scores(redis)
    assert {s.scorer_version for s in scored} == set(names)
    assert max(Counter((s.completion_id, s.choice) for s in scored).values()) == 1
    first = min(int(s.completion_id[1:]) for s in scored)
    assert {s.completion_id for s in scored} == {f"c{i}" for i in range(first, served)}
    for name, folder in names.items():
        expected = [scored.score for scored in load(folder).score_batch(ITEMS)]
        for s in (s for s in scored if s.scorer_version == name):
            place = 2 * (int(s.completion_id[1:]) % 3) + s.choice
            assert s.score == pytest.approx(expected[place], abs=1e-4)
