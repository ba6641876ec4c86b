"""Whether a candidate goes bad while people use it: each span of time is a test of its own.

A person at a step is one observation (`observing`), so a version that begins to fail when all have
been seen fails unseen. Here the same people count again in each span: two minutes, a quarter of an
hour, two hours, a day. It only ever rolls back.

People return, and keep their version: who asks too much of any version asks it in each span, with
the same one. So spans are not independent, and wealth must not be carried from one to the next.
Within a span people are as if they had just been drawn, and its wealth W alone is an e-process
(`sequential`). Each span has a part of alpha, fixed before: it may reject at W >= 1 / (alpha part),
and by Ville's inequality and the union bound some span ever does with a probability of at most
alpha, however spans hang together and however often one looks. It is what the weighted mean of
e-values, the only way to merge dependent ones, comes to (Vovk and Wang 2021, arXiv:1912.06116),
but for looks within a span.

This compares those who come. If a version drives certain people away, later spans lack them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import numpy as np
from pydantic import BaseModel, ConfigDict

from learnback.ledger.canaries import Served
from learnback.release.observing import Crowd, Evidence, Person, people_of
from learnback.release.policy import Measure, Metric
from learnback.release.sequential import People, log_wealth, scores

DAY = timedelta(days=1)
LENGTHS = (timedelta(minutes=2), timedelta(minutes=15), timedelta(hours=2), DAY)
"""Many people show a breach in two minutes, few need a day; each divides it."""
GRACE = timedelta(minutes=10)
"""So late an answer that hung still counts in the span in which it was asked for."""


class Spell(BaseModel):
    """A span in which the candidate did worse than in all others, by one measure."""

    model_config = ConfigDict(frozen=True)

    measure: Measure
    since: datetime
    length: timedelta
    evidence: float
    """Log of the wealth against "not worse than the margin", times the span's part of alpha."""
    people: int
    people_candidate: int
    candidate: float | None
    """Mean outcome in [0, 1], more is better; None: nothing is known of anybody."""
    stable: float | None


@dataclass
class _Span:
    since: datetime
    length: timedelta
    part: float
    crowd: Crowd


@dataclass
class Spans:
    """All spans since a canary began; grows by `add`, in order of time."""

    since: datetime
    window: timedelta
    """How long after a person's first request in a span they are tested."""
    metrics: Sequence[Metric]
    slow: timedelta
    worst: dict[Measure, Spell] = field(default_factory=dict)
    _spans: dict[tuple[timedelta, int], _Span] = field(default_factory=dict)
    _changed: set[tuple[timedelta, int]] = field(default_factory=set)
    _until: datetime = field(init=False)

    def __post_init__(self) -> None:
        """Nobody has been seen."""
        self._until = self.since

    def add(self, served: Sequence[Served]) -> None:
        """Take in completions, oldest first."""
        if not self.metrics:
            return
        for one in served:
            for length in LENGTHS:
                span = self._span(length, (one.at - self.since) // length)
                if span is not None:
                    span.crowd.add([one])

    def _span(self, length: timedelta, number: int) -> _Span | None:
        """None for one that is over and done with."""
        found = self._spans.get((length, number))
        if found is not None:
            return found
        made = _Span(self.since + number * length, length, part(length, number), Crowd(self.window))
        if self._done(made):
            return None
        self._spans[length, number] = made
        return made

    def _done(self, span: _Span) -> bool:
        return span.since + span.length + self.window + GRACE <= self._until

    def close(self, until: datetime) -> list[Person]:
        """Those whose window was over at `until` for the first time, once for each span."""
        self._until = until
        over: list[Person] = []
        for key, span in self._spans.items():
            found = span.crowd.close(until)
            if found:
                self._changed.add(key)
            over += found
        return over

    def measure(self, evidence: Evidence) -> list[Spell]:
        """The worst span so far by each measure; those that are over are forgotten."""
        for key in self._changed:
            span = self._spans[key]
            for metric in self.metrics:
                people = people_of(
                    metric.measure, span.crowd.closed, evidence, self.slow, self.window
                )
                found = _spell(span, people, metric)
                before = self.worst.get(metric.measure)
                if before is None or found.evidence > before.evidence:
                    self.worst[metric.measure] = found
        self._changed.clear()
        self._spans = {key: span for key, span in self._spans.items() if not self._done(span)}
        return [self.worst[m.measure] for m in self.metrics if m.measure in self.worst]


def part(length: timedelta, number: int) -> float:
    """Of alpha for one span, (0, 1); over all spans of all lengths they add up to 1.

    The n-th day gets 1 / (n (n + 1)) of it, so that there is some left however long it takes.
    """
    per_day = DAY // length
    day = number // per_day + 1
    return 1 / (len(LENGTHS) * per_day * day * (day + 1))


def _spell(span: _Span, people: People, metric: Metric) -> Spell:
    wealth = log_wealth(scores(people), -metric.margin, above=False)
    known = ~np.isnan(people.outcome)
    return Spell(
        measure=metric.measure,
        since=span.since,
        length=span.length,
        evidence=float(wealth.max()) + math.log(span.part),
        people=int(people.treated.size),
        people_candidate=int(people.treated.sum()),
        candidate=_mean(people, people.treated & known),
        stable=_mean(people, ~people.treated & known),
    )


def _mean(people: People, member: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]) -> float | None:
    return float(people.outcome[member].mean()) if member.any() else None
