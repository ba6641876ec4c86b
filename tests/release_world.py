"""A small world for release tests: held-out prompts, a judge that likes brevity, a fake engine."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from sqlalchemy import delete, insert
from tests.factories import a_version

from learnback.contracts.messages import CompletionServed
from learnback.contracts.models import (
    Alias,
    Choice,
    CompletionEnd,
    Timings,
    Track,
    VersionKind,
    VersionState,
)
from learnback.contracts.streams import RELEASES
from learnback.core.clock import now
from learnback.ledger import completions
from learnback.ledger.database import Database
from learnback.ledger.keys import KeyRing
from learnback.ledger.prompts import prompt_held_out, prompt_key
from learnback.ledger.tables import replicas
from learnback.models import linear_reward
from learnback.registry import store
from learnback.registry.artifacts import ArtifactStore
from learnback.release.asker import Asker
from learnback.release.controller import Controller
from learnback.release.engine import Engine
from learnback.release.measuring import Evaluator
from learnback.release.policy import ReleasePolicy
from learnback.release.settings import ReleaseSettings

BASE, JUDGE = "tiny-base-0", "tiny-reward-0"
LONG = "Well now, that is something which one could really say a great deal more about, I think."
SHORT = "It is rather nice."
OTHER_SHORT = "That is quite fine."


def user(text: str) -> tuple[dict[str, Any], ...]:
    return ({"role": "user", "content": text},)


def held_out_texts(count: int) -> list[str]:
    """Prompts that the ledger keeps for evaluation."""
    found: list[str] = []
    number = 0
    while len(found) < count:
        text = f"Tell me about number {number}."
        if prompt_held_out(prompt_key(user(text))):
            found.append(text)
        number += 1
    return found


def a_completion(text: str, number: int, **changes: Any) -> CompletionServed:
    values: dict[str, Any] = {
        "id": f"chatcmpl-{number:08d}",
        "tenant": "default",
        "created_at": now() - timedelta(seconds=1000 - number),
        "endpoint": "chat.completions",
        "version": BASE,
        "track": Track.STABLE,
        "probability": 1.0,
        "end": CompletionEnd.COMPLETE,
        "status_code": 200,
        "streamed": False,
        "stored": True,
        "prompt": user(text),
        "choices": (Choice(index=0, text="An answer."),),
        "timings": Timings(duration_s=0.1),
    }
    return CompletionServed(**values | changes)


def likes_brevity() -> linear_reward.LinearRewardModel:
    pairs = [
        linear_reward.Pair(user(f"Question {i}?"), f"{SHORT} {i}", f"{LONG} {LONG} {i}")
        for i in range(40)
    ]
    return linear_reward.fit(pairs, l2=30.0, word_scale=0.0)


Speech = Callable[[str, str], str]
"""(version, prompt) -> answer."""


class FakeEngine:
    """Answers the OpenAI API with a function; remembers what it was asked."""

    def __init__(self, says: dict[str, Speech]) -> None:
        self.says = says
        self.asked: list[tuple[str, str]] = []
        self.bodies: list[dict[str, Any]] = []
        self.fails: Callable[[str, str], int | None] = lambda version, prompt: None
        self.app = FastAPI()
        self.app.post("/v1/chat/completions")(self._answer)

    async def _answer(self, request: Request) -> JSONResponse:
        body = await request.json()
        version, prompt = body["model"], body["messages"][-1]["content"]
        self.asked.append((version, prompt))
        self.bodies.append(body | {"authorization": request.headers.get("authorization")})
        status = self.fails(version, prompt)
        if status is not None:
            return JSONResponse({"error": {"message": "no"}}, status)
        if version not in self.says:
            return JSONResponse({"error": {"message": f"no model {version}"}}, 404)
        text = self.says[version](version, prompt)
        return JSONResponse({"choices": [{"message": {"content": text}}]})

    def count(self, version: str) -> int:
        """Answers given for real prompts."""
        return sum(1 for v, prompt in self.asked if v == version and prompt != "Hello")


def always(text: str) -> Speech:
    """The same answer, with the prompt's number in it, so that answers differ."""
    return lambda version, prompt: f"{text} {hashlib.sha256(prompt.encode()).hexdigest()[:4]}"


class World:
    """A ledger with a served base, prompts, a judge, and candidates on demand."""

    def __init__(self, database: Database, redis: Any, folder: Path, engine: FakeEngine) -> None:
        self.database, self.redis, self.folder, self.engine = database, redis, folder, engine
        self.artifacts = ArtifactStore(f"file://{folder / 'artifacts'}")
        self.loaded: list[str] = []
        """What the one replica has, unless a test says otherwise: every candidate at once."""
        self.client = httpx.AsyncClient(
            transport=httpx.ASGITransport(app=engine.app), base_url="http://engine"
        )

    async def prepare(self, prompts: int = 40, judge: dict[str, Any] | None = None) -> None:
        """`judge`: metrics of the reward model; None: a good one; {}: without any."""
        served = [a_completion(text, i) for i, text in enumerate(held_out_texts(prompts))]
        async with self.database.write() as c:
            await completions.record(c, served)
            await store.register(
                c, a_version(BASE, kind=VersionKind.BASE, state=VersionState.PROMOTED)
            )
            await store.move_alias(
                c, Alias.STABLE, BASE, expected_revision=0, actor="test", reason="base"
            )
        await self.add_judge({"held_out_pairs": 100, "held_out_correct": 85.0} | (judge or {}))

    async def add_judge(self, metrics: dict[str, Any]) -> None:
        folder = self.folder / "reward"
        likes_brevity().save(folder)
        digest = self.artifacts.put(folder, JUDGE)
        version = a_version(
            JUDGE,
            kind=VersionKind.REWARD_MODEL,
            artifact=JUDGE,
            artifact_digest=digest,
            metrics=metrics,
        )
        async with self.database.write() as c:
            await store.register(c, version)
            before = await store.alias_state(c, Alias.REWARD)
            await store.move_alias(
                c,
                Alias.REWARD,
                JUDGE,
                expected_revision=before.revision,
                actor="test",
                reason="judge",
            )

    async def candidate(self, name: str, says: Speech | None = None, **changes: Any) -> None:
        if says is not None:
            self.engine.says[name] = says
        values = {"metrics": {"distance_from_reference": 0.1}} | changes
        async with self.database.write() as c:
            await store.register(c, a_version(name, **values))
        self.loaded.append(name)
        await self.replica("replica-1", self.loaded)

    async def replica(self, name: str, versions: list[str] | None, *, serving: bool = True) -> None:
        """A replica says what it has, and lives for a day; None: it ends."""
        async with self.database.write() as c:
            await c.execute(delete(replicas).where(replicas.c.id == name))
            if versions is not None:
                await c.execute(
                    insert(replicas).values(
                        id=name,
                        base_digest=a_version(name).base_digest,
                        serving=serving,
                        versions=versions,
                        seen_at=now() + timedelta(days=1),
                    )
                )

    def controller(self, **changes: Any) -> Controller:
        """A new controller, as after a restart: nothing is left of earlier ones but the disk."""
        gate = {"probes": 0, "must_tell": 0.4, "reward_hack": changes.get("judge") is not None}
        policy = ReleasePolicy.model_validate(
            {
                "gate": gate | changes.pop("gate", {}),
                "canary": changes.pop("canary", {}),
                "golden": changes.pop("golden", None),
                "judge": changes.pop("judge", None),
            }
        )
        judging = changes.pop("judging", None)
        changes = {"lease": 0} | changes  # a new controller need not wait for a dead one
        settings = ReleaseSettings(inference_url="http://engine", **changes)
        api_key = settings.api_key.get_secret_value()
        engine = Engine(self.client, settings.inference_url, api_key)
        engine.pause_s = 0.0
        evaluator = Evaluator(
            self.database,
            self.artifacts,
            engine,
            settings,
            self.folder / "release",
            policy,
            judging=judging,
            asker=Asker(KeyRing(self.database), api_key),
        )
        controller = Controller(self.database, self.redis, evaluator, settings)
        for watching in (controller.rollout, controller.aftercare):
            watching.looker.settle = timedelta(0)  # what tests record is there at once
        return controller

    async def version(self, name: str) -> store.ModelVersion:
        async with self.database.read() as c:
            return await store.get(c, name)

    async def stable(self) -> store.AliasState:
        async with self.database.read() as c:
            return await store.alias_state(c, Alias.STABLE)

    async def moves(self) -> list[tuple[str | None, str]]:
        """(version, actor), newest first."""
        async with self.database.read() as c:
            return [(m.version, m.actor) for m in await store.history(c)]


async def announced(redis: Any) -> list[tuple[str, str | None, int]]:
    """(alias, version, revision) of what was published."""
    entries = await redis.xrange(RELEASES.key)
    found = [RELEASES.message.model_validate_json(fields[b"body"]) for _, fields in entries]
    return [(m.alias.value, m.version, m.revision) for m in found]


@asynccontextmanager
async def a_world(database: Database, redis: Any, folder: Path) -> AsyncIterator[World]:
    engine = FakeEngine({BASE: always(LONG)})
    world = World(database, redis, folder, engine)
    try:
        yield world
    finally:
        await world.client.aclose()
