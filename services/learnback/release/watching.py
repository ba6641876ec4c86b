"""Looks at a running canary: reads what is new in the ledger, and measures every metric."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from learnback.core.clock import now
from learnback.ledger import canaries
from learnback.ledger.database import Database
from learnback.release.canary import measure
from learnback.release.comparing import Comparisons
from learnback.release.mirroring import Copies
from learnback.release.observing import (
    QUICK,
    QUICK_WINDOW,
    Crowd,
    Evidence,
    Person,
    people_of,
)
from learnback.release.places import Places
from learnback.release.plans import OVERLAP, SETTLE, Plan, Sight, latencies
from learnback.release.policy import Measure, Step
from learnback.release.spans import Spans

SCORED_WINDOW = timedelta(minutes=5)
"""Learned rewards come within seconds; those that a queue delays for longer are in no span."""


@dataclass
class Watch:
    """Everybody seen in one canary, read from the ledger bit by bit; a new one reads it all."""

    version: str
    plan: Plan
    since: datetime
    settle: timedelta = SETTLE
    quick: Crowd = field(init=False)
    slow: Crowd = field(init=False)
    spans: Spans = field(init=False)
    slow_spans: Spans = field(init=False)
    """Of learned rewards."""
    copies: Copies = field(init=False)
    comparisons: Comparisons = field(init=False)
    _evidence: Evidence = field(init=False)
    _rewards: Places = field(init=False)
    _read_to: datetime = field(init=False)
    _seen: dict[str, datetime] = field(default_factory=dict)
    """When each was read that may be read again."""
    _first_bytes: dict[str, list[float]] = field(init=False)

    def __post_init__(self) -> None:
        """Nobody has been seen."""
        self.quick = Crowd(min(QUICK_WINDOW, self.plan.policy.window))
        self.slow = Crowd(self.plan.policy.window)
        self.spans = self._spans(self.quick.window, quick=True)
        self.slow_spans = self._spans(min(SCORED_WINDOW, self.slow.window), quick=False)
        self.copies = Copies(self.version, self.plan, self.since, self.settle)
        self.comparisons = Comparisons(self.version, self.plan.policy.window)
        self._evidence = Evidence()
        self._rewards = Places(self.plan.stable)
        self._read_to = self.since
        self._first_bytes = {"stable": [], "candidate": []}

    def _spans(self, window: timedelta, *, quick: bool) -> Spans:
        policy = self.plan.policy
        metrics = [m for m in policy.spanned_metrics if (m.measure in QUICK) == quick]
        return Spans(self.since, window, metrics, policy.slow)

    async def look(self, database: Database, step: Step, step_since: datetime) -> Sight:
        """Read on and measure."""
        if step.mirror:
            return await self.copies.look(database, step_since)
        at = now()
        until = at - self.settle
        await self._read(database, at, until)
        self.quick.close(until)
        self.spans.close(until)
        await self._learn(database, self.slow.close(until), self.slow_spans.close(until))
        return await asyncio.to_thread(self._measure, step.traffic)

    async def _read(self, database: Database, at: datetime, until: datetime) -> None:
        """What was recorded by now; who came before `until` and compared has had their say."""
        after = max(self.since, self._read_to - OVERLAP)
        async with database.read() as connection:
            rows = await canaries.served_between(connection, self.version, after, at)
            await self.comparisons.read(connection, after, at, until)
        fresh = [row for row in rows if row.id not in self._seen and row.at > self.since]
        self._seen = {i: read_at for i, read_at in self._seen.items() if read_at > after}
        self._seen |= {row.id: at for row in fresh}
        self._read_to = max(self._read_to, at)
        for crowd in (self.quick, self.slow, self.spans, self.slow_spans):
            crowd.add(fresh)
        for row in fresh:
            if row.first_byte_s is not None and 0 < row.weight < 1:
                track = "candidate" if row.candidate else "stable"
                self._first_bytes[track].append(row.first_byte_s)

    async def _learn(self, database: Database, over: list[Person], in_spans: list[Person]) -> None:
        """What is known of those whose window is over now; it is not read again."""
        ids = [one.id for person in over for one in person.served]
        again = {one.id for person in in_spans for one in person.served} - set(ids)
        fresh = [*ids, *sorted(again - self._evidence.places.keys())]
        async with database.read() as connection:
            self._evidence.places.update(await self._rewards.of(connection, fresh))
            self._evidence.signals.extend(await canaries.signals_about(connection, ids))

    def _measure(self, weight: float) -> Sight:
        policy = self.plan.policy
        measured = []
        for metric in policy.metrics:
            if metric.measure is Measure.PREFERENCE:
                measured.append(self.comparisons.measure(metric, policy.alpha))
                continue
            crowd = self.quick if metric.measure in QUICK else self.slow
            people = people_of(
                metric.measure, crowd.closed, self._evidence, policy.slow, policy.window
            )
            measured.append(measure(people, metric, policy.alpha))
        at_step = sum(1 for p in self.slow.closed if p.treated and p.weight == weight)
        exposed = len(self.slow.with_candidate | self.comparisons.crowd.people)
        spells = [s for one in (self.spans, self.slow_spans) for s in one.measure(self._evidence)]
        return Sight(measured, at_step, latencies(self._first_bytes), exposed, spells=spells)
