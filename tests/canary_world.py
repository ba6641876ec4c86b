"""People who use a canary: routed as inference does it, recorded as the feedback process does."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from sqlalchemy import insert
from tests.release_world import World, a_completion

from learnback.contracts.messages import CompletionScored, CompletionServed
from learnback.contracts.models import CompletionEnd, Timings, VersionKind
from learnback.core.clock import now
from learnback.core.ids import new_id, uuid7
from learnback.inference.routing import Assignment, Servable, Snapshot, route
from learnback.ledger import completions, rewards
from learnback.ledger.tables import feedback
from learnback.registry import store
from learnback.release.loading import loaded

CANARY: dict[str, Any] = {
    "steps": [
        {"traffic": "10%", "min_people": 5},
        {"traffic": "50%", "min_people": 20},
        {"traffic": "100%"},
    ],
    "metrics": [
        {"measure": "feedback", "aim": "improve"},
        {"measure": "errors", "margin": "10%"},
    ],
    "window": "PT0.001S",
}
"""Steps and windows of a canary that takes moments."""


@dataclass
class Habits:
    """What happens to people with a version: chances."""

    likes: float = 0.5
    fails: float = 0.0
    speaks: float = 0.8
    reward: float = 0.0
    """Mean of the learned reward; it spreads by 1."""


@dataclass
class Town:
    """People who come once each; `habits` by version."""

    world: World
    habits: dict[str, Habits]
    default: Habits = field(default_factory=Habits)
    random: random.Random = field(default_factory=lambda: random.Random(5))
    came: int = 0
    reward_model: str = "tiny-reward-0"
    unverified: list[str] = field(default_factory=list)
    """Versions that answered though they had not passed the gate, or a replica lacked them."""

    async def come(self, count: int) -> None:
        """`count` people who were not here before ask, and some say what they think."""
        async with self.world.database.read() as connection:
            release = await store.release(connection)
            states = {v.name: v.state for v in await store.list_versions(connection)}
            candidate = release.candidate.version
            everywhere = candidate is None or (await loaded(connection, candidate)).everywhere
        served, signals = [], []
        for _ in range(count):
            self.came += 1
            given = route(_snapshot(release), "learnback", f"person {self.came}")
            if states[given.version.name] not in {"passed", "promoted"}:
                self.unverified.append(given.version.name)
            if given.version.name == candidate and not everywhere:
                self.unverified.append(candidate)
            completion, signal = self._visit(given)
            served.append(completion)
            signals += signal
        async with self.world.database.write() as connection:
            await completions.record(connection, served)
            await rewards.record(connection, [self._scored(one) for one in served])
            if signals:
                await connection.execute(insert(feedback), signals)

    def _scored(self, served: CompletionServed) -> CompletionScored:
        habits = self.habits.get(served.version, self.default)
        return CompletionScored(
            completion_id=served.id,
            tenant="default",
            scorer="model",
            scorer_version=self.reward_model,
            version=served.version,
            track=served.track,
            at=now(),
            score=self.random.gauss(habits.reward, 1.0),
        )

    def _visit(self, given: Assignment) -> tuple[Any, list[dict[str, Any]]]:
        habits = self.habits.get(given.version.name, self.default)
        failed = self.random.random() < habits.fails
        completion = a_completion(
            "A question.",
            0,
            id=f"chatcmpl-{uuid7()}",
            created_at=now(),
            version=given.version.name,
            track=given.track,
            probability=given.probability,
            subject=f"person {self.came}",
            status_code=500 if failed else 200,
            end=CompletionEnd.ENGINE_ERROR if failed else CompletionEnd.COMPLETE,
            timings=Timings(first_byte_s=0.2, duration_s=0.5),
        )
        if failed or self.random.random() > habits.speaks:
            return completion, []
        up = self.random.random() < habits.likes
        return completion, [a_thumb(completion.id, "up" if up else "down")]


def a_thumb(completion_id: str, value: str) -> dict[str, Any]:
    """A row of the ledger, joined."""
    at = now()
    return {
        "id": new_id("fb"),
        "tenant": "default",
        "kind": "thumbs",
        "status": "recorded",
        "revision": 1,
        "completion_id": completion_id,
        "rater_kind": "human",
        "body": {"kind": "thumbs", "completion_id": completion_id, "value": value},
        "created_at": at,
        "received_at": at - timedelta(seconds=1),  # within any window
        "changed_at": at,
    }


def _snapshot(release: store.Release) -> Snapshot:
    names = [n for n in (release.stable.version, release.candidate.version) if n]
    return Snapshot(
        public_names=frozenset({"learnback"}),
        versions={n: Servable(n, VersionKind.ADAPTER, n) for n in names},
        stable=release.stable.version,
        candidate=release.candidate.version,
        weight=release.candidate.weight if release.candidate.version else 0.0,
    )


async def live(
    town: Town, look: Callable[[], Any], rounds: int, people: int, until: Callable[[], Any]
) -> bool:
    """Look and let people come, in turns, until something is so; whether it came to be."""
    for _ in range(rounds):
        await look()
        if await until():
            return True
        await town.come(people)
    return False
