"""From the ledger to what the test takes: people, in the order in which they came.

The unit is a person at a step, not a request: whom the candidate answers is drawn once per person,
so their requests stand and fall together. All that happens to them within a window after their
first request at a step is one observation, the mean of it. The window is the same for both
versions, so that neither quick complaints nor heavy users tilt the test.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import numpy as np

from learnback.ledger.canaries import Served, Signal
from learnback.release.policy import Measure
from learnback.release.sequential import People

QUICK = frozenset({Measure.ERRORS, Measure.ABANDONED, Measure.LATENCY})
"""Known as soon as an answer ends: their window is short, so that a breach shows in a minute."""
QUICK_WINDOW = timedelta(minutes=1)
REWARD_BINS = 3
KINDS = REWARD_BINS + 1
"""Whom people resemble when it comes to saying something: those whose answers have a low, a middle
or a high learned reward, and those whose answers have none."""


@dataclass
class Person:
    """One person at one step; `probability`: of the candidate, given the steps before."""

    since: datetime
    weight: float
    treated: bool
    probability: float
    served: list[Served] = field(default_factory=list)
    over: bool = False
    """Their window is over, and they were tested: what is recorded later changes nothing."""


@dataclass
class Crowd:
    """Everybody seen so far, grouped by person and step; grows by `add`, in order of time."""

    window: timedelta
    closed: list[Person] = field(default_factory=list)
    """Those whose window is over; only ever appended to, so that what was tested stays."""
    with_candidate: set[str] = field(default_factory=set)
    """Who has got the candidate, also within their window."""
    _waiting: list[Person] = field(default_factory=list)
    _open: dict[tuple[str, float], Person] = field(default_factory=dict)
    _stable_at: dict[str, float] = field(default_factory=dict)
    """The largest share at which a person was still with stable."""

    def add(self, served: Sequence[Served]) -> None:
        """Take in completions, oldest first. Those that nobody drew for are left out."""
        for one in served:
            if 0.0 < one.weight < 1.0:
                self._place(one)

    def _place(self, one: Served) -> None:
        name = one.subject or one.id
        person = self._open.get((name, one.weight)) or self._begin(name, one)
        if person is None or person.over:
            return
        if one.at <= person.since + self.window:
            person.served.append(one)

    def _begin(self, name: str, one: Served) -> Person | None:
        """A person whose version was drawn for this step; None if it was settled before.

        Shares only grow and positions are kept (`inference.routing`), so who had the candidate
        keeps it, and of those with stable at share v a part (w - v) / (1 - v) gets it at share w.
        """
        before = self._stable_at.get(name, 0.0)
        if name in self.with_candidate or before >= one.weight:
            return None
        chance = (one.weight - before) / (1.0 - before)
        person = Person(one.at, one.weight, one.candidate, chance)
        self._waiting.append(person)
        self._open[name, one.weight] = person
        if one.candidate:
            self.with_candidate.add(name)
        else:
            self._stable_at[name] = one.weight
        return person

    def close(self, until: datetime) -> list[Person]:
        """Those whose window was over at `until` for the first time, by the time they came."""
        over = [p for p in self._waiting if p.since + self.window <= until]
        over.sort(key=lambda p: p.since)
        self._waiting = [p for p in self._waiting if p.since + self.window > until]
        for person in over:
            person.over = True
        self.closed.extend(over)
        return over


@dataclass(frozen=True)
class Evidence:
    """What is known of the answers beside the record of how they were served."""

    places: dict[str, float] = field(default_factory=dict)
    """By completion, the place of its learned reward among those of stable's answers."""
    signals: list[Signal] = field(default_factory=list)


def people_of(
    measure: Measure,
    persons: Sequence[Person],
    evidence: Evidence,
    slow: timedelta,
    window: timedelta,
) -> People:
    """The test's arrays, (n,)."""
    treated = np.array([p.treated for p in persons], dtype=np.bool_)
    probability = np.array([p.probability for p in persons], dtype=np.float64)
    if measure in QUICK:
        outcome = [_quick(measure, p, slow.total_seconds()) for p in persons]
        return People(treated, probability, np.array(outcome, dtype=np.float64))
    rewards = [_reward(p, evidence) for p in persons]
    if measure is Measure.REWARD:
        kind = np.zeros(len(persons), dtype=np.int8)
        return People(treated, probability, np.array(rewards, dtype=np.float64), kind, 1)
    said = _said(persons, evidence, window)
    kinds = np.array([_kind(reward) for reward in rewards], dtype=np.int8)
    return People(treated, probability, np.array(said, dtype=np.float64), kinds, KINDS)


def _quick(measure: Measure, person: Person, slow_s: float) -> float:
    if measure is Measure.ERRORS:
        good = sum(not s.failed for s in person.served)
    elif measure is Measure.ABANDONED:
        good = sum(not s.abandoned for s in person.served)
    else:
        good = sum(s.first_byte_s is not None and s.first_byte_s <= slow_s for s in person.served)
    return good / len(person.served)


def _reward(person: Person, evidence: Evidence) -> float:
    """The mean place of their answers' rewards; nan without any."""
    found = [evidence.places[one.id] for one in person.served if one.id in evidence.places]
    return sum(found) / len(found) if found else float("nan")


def _kind(reward: float) -> int:
    if np.isnan(reward):
        return REWARD_BINS
    return min(REWARD_BINS - 1, int(reward * REWARD_BINS))


def _said(persons: Sequence[Person], evidence: Evidence, window: timedelta) -> list[float]:
    """The mean of what each said within the window; nan for the silent."""
    about: dict[str, list[tuple[datetime, float]]] = {}
    for signal in evidence.signals:
        for completion_id, score in scored(signal):
            about.setdefault(completion_id, []).append((signal.at, score))
    found: list[float] = []
    for person in persons:
        until = person.since + window
        scores = [s for one in person.served for at, s in about.get(one.id, []) if at <= until]
        found.append(sum(scores) / len(scores) if scores else float("nan"))
    return found


def scored(signal: Signal) -> list[tuple[str, float]]:
    """A signal as numbers in [0, 1] for the completions that it is about; none for mere words.

    A correction says that the answer would not do. Of two answers that were compared, the better
    one gets 1 and the other 0, ties one half.
    """
    body = signal.body
    if signal.kind == "thumbs":
        return [(str(signal.completion_id), 1.0 if body.get("value") == "up" else 0.0)]
    if signal.kind == "correction":
        return [(str(signal.completion_id), 0.0)]
    if signal.kind == "rating":
        scale = body.get("scale") or {}
        low, high = float(scale.get("min", 1.0)), float(scale.get("max", 5.0))
        return [(str(signal.completion_id), (float(body["value"]) - low) / (high - low))]
    return _compared(body) if signal.kind == "preference" else []


def _compared(body: Mapping[str, object]) -> list[tuple[str, float]]:
    first = {"first": 1.0, "second": 0.0}.get(str(body.get("preferred")), 0.5)
    sides = ((body.get("first"), first), (body.get("second"), 1.0 - first))
    return [
        (str(side["completion_id"]), score)
        for side, score in sides
        if isinstance(side, Mapping) and side.get("completion_id")
    ]
