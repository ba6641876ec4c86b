"""What is known of answers that nobody saw: pair by pair against those that were shown.

The unit is a person, as in the canary: all copies of their requests within a window after the
first one are one observation, the mean of the differences. A person counts once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import numpy as np

from learnback.core.clock import now
from learnback.ledger import canaries
from learnback.ledger.canaries import Copy, Served
from learnback.ledger.database import Database
from learnback.release.canary import Measured, measure_pairs
from learnback.release.places import Places
from learnback.release.plans import OVERLAP, SETTLE, Plan, Sight, latencies
from learnback.release.policy import Measure


@dataclass
class Copied:
    """One person's copied requests within the window."""

    since: datetime
    copies: list[Copy]


@dataclass
class Copies:
    """Everybody whose requests were copied, read from the ledger bit by bit."""

    version: str
    plan: Plan
    since: datetime
    settle: timedelta = SETTLE
    closed: list[Copied] = field(default_factory=list)
    """Those whose window is over; only ever appended to, so that what was tested stays."""
    _waiting: dict[str, Copied] = field(default_factory=dict)
    _done: set[str] = field(default_factory=set)
    _seen: set[str] = field(default_factory=set)
    _places: dict[str, float] = field(default_factory=dict)
    _rewards: Places = field(init=False)
    _read_to: datetime = field(init=False)

    def __post_init__(self) -> None:
        """Nobody has been seen."""
        self._read_to = self.since
        self._rewards = Places(self.plan.stable)

    async def look(self, database: Database, step_since: datetime) -> Sight:
        """Read on and measure; `step_since` is when this share began."""
        until = now() - self.settle
        after = max(self.since, self._read_to - OVERLAP)
        async with database.read() as connection:
            for copy in await canaries.copies_between(connection, self.version, after, until):
                self._add(copy)
            over = self._close(until)
            ids = [one.id for p in over for c in p.copies for one in (c.shown, c.unseen)]
            self._places |= await self._rewards.of(connection, ids)
        self._read_to = max(self._read_to, until)
        return await asyncio.to_thread(self._measure, step_since)

    def _add(self, copy: Copy) -> None:
        """Take a copy in; each once, and only within its person's window."""
        name = copy.shown.subject or copy.shown.id
        if copy.unseen.id in self._seen or name in self._done:
            return
        self._seen.add(copy.unseen.id)
        person = self._waiting.setdefault(name, Copied(copy.shown.at, []))
        if copy.shown.at <= person.since + self.plan.policy.window:
            person.copies.append(copy)

    def _close(self, until: datetime) -> list[Copied]:
        """Those whose window is over for the first time, by the time they came."""
        window = self.plan.policy.window
        over = {n: p for n, p in self._waiting.items() if p.since + window <= until}
        for name in over:
            del self._waiting[name]
        self._done |= over.keys()
        found = sorted(over.values(), key=lambda p: p.since)
        self.closed.extend(found)
        return found

    def _measure(self, step_since: datetime) -> Sight:
        policy = self.plan.policy
        slow_s = policy.slow.total_seconds()
        measured: list[Measured] = []
        for metric in policy.mirrored_metrics:
            found = [self._difference(metric.measure, p.copies, slow_s) for p in self.closed]
            measured.append(measure_pairs(np.array(found, dtype=np.float64), metric, policy.alpha))
        sides: dict[str, list[float]] = {"stable": [], "candidate": []}
        for copy in (c for p in self.closed for c in p.copies):
            for name, one in (("stable", copy.shown), ("candidate", copy.unseen)):
                if one.first_byte_s is not None:
                    sides[name].append(one.first_byte_s)
        at_step = sum(1 for p in self.closed if p.since >= step_since)
        return Sight(measured, at_step, latencies(sides), exposed=0, mirrored=True)

    def _difference(self, measure: Measure, copies: Sequence[Copy], slow_s: float) -> float:
        """Candidate minus stable, the mean over a person's copies; nan if none tells."""
        if measure is Measure.REWARD:
            known = [c for c in copies if {c.shown.id, c.unseen.id} <= self._places.keys()]
            found = [self._places[c.unseen.id] - self._places[c.shown.id] for c in known]
        else:
            good = _well if measure is Measure.ERRORS else _in_time
            found = [good(c.unseen, slow_s) - good(c.shown, slow_s) for c in copies]
        return float(np.mean(found)) if found else float("nan")


def _well(one: Served, _: float) -> float:
    return float(not one.failed)


def _in_time(one: Served, slow_s: float) -> float:
    return float(one.first_byte_s is not None and one.first_byte_s <= slow_s)
