"""What is known of answers that nobody saw: pair by pair against those that were shown."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import numpy as np

from learnback.core.clock import now
from learnback.ledger import canaries
from learnback.ledger.canaries import Pair, Served
from learnback.ledger.database import Database
from learnback.release.canary import measure_pairs
from learnback.release.pairs import PairedCrowd
from learnback.release.places import Places
from learnback.release.plans import OVERLAP, SETTLE, Plan, Sight, latencies
from learnback.release.policy import Measure


@dataclass
class Copies:
    """Everybody whose requests were copied, read from the ledger bit by bit."""

    version: str
    plan: Plan
    since: datetime
    settle: timedelta = SETTLE
    crowd: PairedCrowd = field(init=False)
    _places: dict[str, float] = field(default_factory=dict)
    _rewards: Places = field(init=False)
    _read_to: datetime = field(init=False)

    def __post_init__(self) -> None:
        """Nobody has been seen."""
        self.crowd = PairedCrowd(self.plan.policy.window)
        self._rewards = Places(self.plan.stable)
        self._read_to = self.since

    async def look(self, database: Database, step_since: datetime) -> Sight:
        """Read on and measure; `step_since` is when this share began."""
        at = now()
        until = at - self.settle
        after = max(self.since, self._read_to - OVERLAP)
        async with database.read() as connection:
            self.crowd.add(await canaries.copies_between(connection, self.version, after, at))
            pairs = [pair for person in self.crowd.close(until) for pair in person.pairs]
            ids = [one.id for pair in pairs for one in (pair.stable, pair.candidate)]
            self._places |= await self._rewards.of(connection, ids)
        self._read_to = max(self._read_to, at)
        return await asyncio.to_thread(self._measure, step_since)

    def _measure(self, step_since: datetime) -> Sight:
        policy = self.plan.policy
        measured = []
        for metric in policy.mirrored_metrics:
            found = [self._difference(metric.measure, p.pairs) for p in self.crowd.closed]
            measured.append(measure_pairs(np.array(found, dtype=np.float64), metric, policy.alpha))
        sides: dict[str, list[float]] = {"stable": [], "candidate": []}
        for pair in (pair for person in self.crowd.closed for pair in person.pairs):
            for name, one in (("stable", pair.stable), ("candidate", pair.candidate)):
                if one.first_byte_s is not None:
                    sides[name].append(one.first_byte_s)
        at_step = sum(1 for person in self.crowd.closed if person.since >= step_since)
        return Sight(measured, at_step, latencies(sides), exposed=0, mirrored=True)

    def _difference(self, measure: Measure, pairs: Sequence[Pair]) -> float:
        """Candidate minus stable, the mean over a person's pairs; nan if none tells."""
        if measure is Measure.REWARD:
            known = [p for p in pairs if {p.stable.id, p.candidate.id} <= self._places.keys()]
            found = [self._places[p.candidate.id] - self._places[p.stable.id] for p in known]
        else:
            good = self._well if measure is Measure.ERRORS else self._in_time
            found = [float(good(p.candidate)) - float(good(p.stable)) for p in pairs]
        return float(np.mean(found)) if found else float("nan")

    def _well(self, one: Served) -> bool:
        return not one.failed

    def _in_time(self, one: Served) -> bool:
        slow_s = self.plan.policy.slow.total_seconds()
        return one.first_byte_s is not None and one.first_byte_s <= slow_s
