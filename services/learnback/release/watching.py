"""Looks at a running canary: reads what is new in the ledger, and measures every metric."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from pydantic import BaseModel, ConfigDict
from sqlalchemy.ext.asyncio import AsyncConnection

from learnback.core.clock import now
from learnback.ledger import canaries
from learnback.ledger.database import Database
from learnback.release.canary import Measured, measure
from learnback.release.observing import (
    QUICK,
    QUICK_WINDOW,
    Crowd,
    Evidence,
    Person,
    people_of,
    place,
)
from learnback.release.policy import CanaryPolicy
from learnback.release.quantiles import Quantile, quantile

SETTLE = timedelta(seconds=10)
"""How late a completion may be recorded: the way over the stream takes a second or two."""
OVERLAP = timedelta(minutes=2)
"""Read again at each look, for what came later still."""
SCALE = 1000
"""Answers of stable whose rewards make a scale: a place on it is known to within 3%."""
LEAST_SCALE = 30
"""With fewer there is no scale yet: who came so early has no reward."""
LATENCIES = (0.5, 0.95)


class Plan(BaseModel):
    """What was fixed as a canary began."""

    model_config = ConfigDict(frozen=True)

    policy: CanaryPolicy
    stable: str
    """What it is compared with."""
    stable_revision: int


@dataclass(frozen=True)
class Sight:
    """What a look saw."""

    measured: list[Measured]
    people_at_step: int
    latency: dict[str, list[Quantile]]
    """First byte in seconds, by version's track: for people, not for decisions."""

    def as_json(self) -> dict[str, Any]:
        """For the ledger."""
        return {
            "metrics": [m.model_dump(mode="json") for m in self.measured],
            "first_byte_s": {
                track: [q.model_dump(mode="json") for q in found]
                for track, found in self.latency.items()
            },
        }


@dataclass
class Watch:
    """Everybody seen in one canary, read from the ledger bit by bit; a new one reads it all."""

    version: str
    plan: Plan
    since: datetime
    settle: timedelta = SETTLE
    quick: Crowd = field(init=False)
    slow: Crowd = field(init=False)
    _evidence: Evidence = field(init=False)
    _scales: dict[str, list[float]] = field(default_factory=dict)
    """By reward model: its rewards of stable's last answers, ascending."""
    _read_to: datetime = field(init=False)
    _seen: dict[str, datetime] = field(default_factory=dict)
    _first_bytes: dict[str, list[float]] = field(init=False)

    def __post_init__(self) -> None:
        """Nobody has been seen."""
        self.quick = Crowd(min(QUICK_WINDOW, self.plan.policy.window))
        self.slow = Crowd(self.plan.policy.window)
        self._evidence = Evidence()
        self._read_to = self.since
        self._first_bytes = {"stable": [], "candidate": []}

    async def look(self, database: Database, weight: float) -> Sight:
        """Read on and measure; `weight` is the step's share."""
        until = now() - self.settle
        await self._read(database, until)
        self.quick.close(until)
        await self._learn(database, self.slow.close(until))
        return await asyncio.to_thread(self._measure, weight)

    async def _read(self, database: Database, until: datetime) -> None:
        after = max(self.since, self._read_to - OVERLAP)
        async with database.read() as connection:
            rows = await canaries.served_between(connection, after, until)
        fresh = [row for row in rows if row.id not in self._seen]
        self._seen = {i: at for i, at in self._seen.items() if at > after - OVERLAP}
        self._seen |= {row.id: row.at for row in fresh}
        self._read_to = max(self._read_to, until)
        for crowd in (self.quick, self.slow):
            crowd.add(fresh)
        for row in fresh:
            if row.first_byte_s is not None and 0 < row.weight < 1:
                track = "candidate" if row.candidate else "stable"
                self._first_bytes[track].append(row.first_byte_s)

    async def _learn(self, database: Database, over: list[Person]) -> None:
        """What is known of those whose window is over now; it is not read again."""
        ids = [one.id for person in over for one in person.served]
        async with database.read() as connection:
            rewards = await canaries.learned_rewards(connection, ids)
            signals = await canaries.signals_about(connection, ids)
            for model in {model for model, _ in rewards.values()} - self._scales.keys():
                await self._take_scale(connection, model)
        for completion_id, (model, score) in rewards.items():
            if model in self._scales:
                self._evidence.places[completion_id] = place(score, self._scales[model])
        self._evidence.signals.extend(signals)

    async def _take_scale(self, connection: AsyncConnection, model: str) -> None:
        """A reward model that came during the canary gets a scale of its own."""
        scores = await canaries.recent_rewards(connection, self.plan.stable, model, SCALE)
        if len(scores) >= LEAST_SCALE:
            self._scales[model] = sorted(scores)

    def _measure(self, weight: float) -> Sight:
        policy = self.plan.policy
        measured = []
        for metric in policy.metrics:
            crowd = self.quick if metric.measure in QUICK else self.slow
            people = people_of(
                metric.measure, crowd.closed, self._evidence, policy.slow, policy.window
            )
            measured.append(measure(people, metric, policy.alpha))
        at_step = sum(1 for p in self.slow.closed if p.treated and p.weight == weight)
        latency = {
            track: [found for q in LATENCIES if (found := quantile(values, q)) is not None]
            for track, values in self._first_bytes.items()
        }
        return Sight(measured, at_step, latency)
