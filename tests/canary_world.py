"""People who use a canary: routed as inference does it, recorded as the feedback process does."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any

from sqlalchemy import insert
from tests.release_world import BASE, World, a_completion

from learnback.contracts.messages import CompletionScored, CompletionServed
from learnback.contracts.models import (
    Alias,
    CompletionEnd,
    Timings,
    Track,
    VersionKind,
    VersionState,
)
from learnback.core.clock import now
from learnback.core.ids import new_id, uuid7
from learnback.inference.routing import Assignment, Servable, Snapshot, position, route
from learnback.ledger import completions, releases, rewards
from learnback.ledger.database import Database
from learnback.ledger.tables import feedback
from learnback.registry import store
from learnback.release.loading import loaded

GOOD, BETTER = "tiny-dpo-000000000001", "tiny-dpo-000000000002"
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
    "watch_after": "PT0S",
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
    compares: float = 0.0
    """How often a person asks for two answers side by side."""


LIKED = {GOOD: Habits(likes=0.95), BASE: Habits(likes=0.3)}


@dataclass
class Town:
    """People who come once each; `habits` by version."""

    world: World
    habits: dict[str, Habits]
    default: Habits = field(default_factory=Habits)
    random: random.Random = field(default_factory=lambda: random.Random(5))
    came: int = 0
    regulars: int | None = None
    """So many live there and come again and again, in turns; None: nobody comes twice."""
    reward_model: str = "tiny-reward-0"
    first_favoured: float = 0.0
    """How often a person prefers the first of two answers, whatever they are."""
    saw_it: set[str] = field(default_factory=set)
    """Who got an answer of the candidate."""
    unverified: list[str] = field(default_factory=list)
    """Versions that answered though they had not passed the gate, or a replica lacked them."""

    @property
    def who(self) -> str:
        """The person who comes now."""
        return f"person {self.came % self.regulars if self.regulars else self.came}"

    async def come(self, count: int) -> None:
        """`count` people ask, and some say what they think."""
        async with self.world.database.read() as connection:
            release = await store.release(connection)
            states = {v.name: v.state for v in await store.list_versions(connection)}
            candidate = release.candidate.version
            everywhere = candidate is None or (await loaded(connection, candidate)).everywhere
        served, signals = [], []
        for _ in range(count):
            self.came += 1
            given = route(_snapshot(release), "learnback", self.who)
            if states[given.version.name] not in {"passed", "promoted"}:
                self.unverified.append(given.version.name)
            if given.version.name == candidate and not everywhere:
                self.unverified.append(candidate)
            completion, signal = self._visit(given)
            served.append(completion)
            if given.track is Track.CANDIDATE:
                self.saw_it.add(self.who)
            signals += signal
            served += self._copy(release, completion)
            both, preferred = self._compare(release)
            if both:
                self.saw_it.add(self.who)
            served += both
            signals += preferred
        async with self.world.database.write() as connection:
            await completions.record(connection, served)
            await rewards.record(connection, [self._scored(one) for one in served])
            if signals:
                await connection.execute(insert(feedback), signals)

    def _copy(self, release: store.Release, shown: CompletionServed) -> list[CompletionServed]:
        """The candidate's answer to a copy of the request, as inference would record it."""
        candidate = release.candidate
        if candidate.version is None or shown.track is not Track.STABLE:
            return []
        if position(shown.subject or "", f"mirror\0{candidate.version}") >= candidate.mirror:
            return []
        assigned = Assignment(
            Servable(candidate.version, VersionKind.ADAPTER, candidate.version),
            Track.MIRRORED,
            candidate.mirror,
        )
        unseen, _ = self._visit(assigned)
        return [unseen.model_copy(update={"pair": shown.id})]

    def _compare(
        self, release: store.Release
    ) -> tuple[list[CompletionServed], list[dict[str, Any]]]:
        """Two answers side by side in an order by chance, and what the person says of them."""
        stable, candidate = release.stable.version, release.candidate.version
        if candidate is None or stable is None or self.random.random() >= self.default.compares:
            return [], []
        person = self.who
        if position(person, f"compare\0{candidate}") >= release.candidate.weight:
            return [], []
        order = self.random.sample([stable, candidate], 2)
        pair = new_id("pair")
        both = []
        for place, version in enumerate(order):
            servable = Servable(version, VersionKind.ADAPTER, version)
            answer, _ = self._visit(Assignment(servable, Track.COMPARED, release.candidate.weight))
            both.append(answer.model_copy(update={"pair": pair, "place": place}))
        likes = {v: self.habits.get(v, self.default).likes for v in order}
        wins = self.random.random() < 0.5 + (likes[candidate] - likes[stable]) / 2
        first_wins = (order[0] == candidate) == wins
        if self.random.random() < self.first_favoured:
            first_wins = True
        return both, [a_preference(both[0].id, both[1].id, "first" if first_wins else "second")]

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

    def _visit(self, given: Assignment) -> tuple[CompletionServed, list[dict[str, Any]]]:
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
            subject=self.who,
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
        "other_completion_id": None,
        "rater_kind": "human",
        "body": {"kind": "thumbs", "completion_id": completion_id, "value": value},
        "created_at": at,
        "received_at": at - timedelta(seconds=1),  # within any window
        "changed_at": at,
    }


def a_preference(first: str, second: str, preferred: str) -> dict[str, Any]:
    """A row of the ledger, joined."""
    body = {
        "kind": "preference",
        "first": {"completion_id": first, "choice": 0},
        "second": {"completion_id": second, "choice": 0},
        "preferred": preferred,
    }
    row = a_thumb(first, "up") | {"kind": "preference", "body": body}
    return row | {"other_completion_id": second}


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


def decided(world: World) -> Any:
    async def so() -> bool:
        return (await world.version(GOOD)).state in {
            VersionState.PROMOTED,
            VersionState.ROLLED_BACK,
            VersionState.REFUSED,
        }

    return so


async def candidate_of(world: World) -> store.AliasState:
    async with world.database.read() as c:
        return await store.alias_state(c, Alias.CANDIDATE)


async def shares(world: World) -> list[tuple[str | None, float]]:
    """What the candidate alias named, oldest first."""
    async with world.database.read() as c:
        moves = await store.history(c, Alias.CANDIDATE)
    return [(m.version, m.weight) for m in reversed(moves)]


async def looks_at(world: World, version: str = GOOD) -> list[releases.Look]:
    async with world.database.read() as c:
        return await releases.looks_of(c, version)


async def never() -> bool:
    return False


class Time:
    """What all clocks show; it stands still until it is moved."""

    at = datetime.now(UTC)

    @classmethod
    def now(cls, zone: tzinfo) -> datetime:
        """As `datetime.now`."""
        return cls.at.astimezone(zone)


class Killed(BaseException):
    """As `kill -9`: nothing after it runs in this controller."""


class Mortal:
    """A ledger whose user dies at its n-th transaction, just before or just after the commit."""

    def __init__(self, database: Database, at: int, committed: bool) -> None:
        self.database, self.at, self.committed = database, at, committed
        self.count = 0
        self.died = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self.database, name)

    @asynccontextmanager
    async def write(self) -> AsyncIterator[Any]:
        self.count += 1
        dies = self.count == self.at
        async with self.database.write() as connection:
            yield connection
            if dies and not self.committed:
                self.died = True
                raise Killed
        if dies:
            self.died = True
            raise Killed
