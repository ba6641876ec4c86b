"""Which of two answers side by side people prefer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import numpy as np
from sqlalchemy.ext.asyncio import AsyncConnection

from learnback.ledger import canaries
from learnback.ledger.canaries import Signal
from learnback.release.canary import Measured, measure_pairs
from learnback.release.observing import scored
from learnback.release.pairs import Paired, PairedCrowd
from learnback.release.policy import Metric


@dataclass(frozen=True)
class Said:
    """What one person said of the answers that they saw side by side."""

    difference: float
    """How much more often the candidate won than lost, in [-1, 1]; nan if they were silent."""
    first: float
    """How often its answer stood first, of those."""


@dataclass
class Comparisons:
    """Everybody who saw both versions side by side, read from the ledger bit by bit."""

    version: str
    window: timedelta
    crowd: PairedCrowd = field(init=False)
    _said: list[Said] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Nobody has been seen."""
        self.crowd = PairedCrowd(self.window)

    async def read(
        self, connection: AsyncConnection, after: datetime, at: datetime, until: datetime
    ) -> None:
        """Take in what was recorded between `after` and `at`, and what those said whose window was
        over at `until`."""
        self.crowd.add(await canaries.compared_between(connection, self.version, after, at))
        over = self.crowd.close(until)
        ids = [pair.candidate.id for person in over for pair in person.pairs]
        signals = await canaries.signals_about(connection, ids)
        self._said += [preference(person, signals, self.window) for person in over]

    def measure(self, metric: Metric, alpha: float) -> Measured:
        """Test what was said so far."""
        difference = np.array([s.difference for s in self._said], dtype=np.float64)
        first = np.array([s.first for s in self._said], dtype=np.float64)
        return measure_pairs(difference, metric, alpha, first)


def preference(person: Paired, signals: Sequence[Signal], window: timedelta) -> Said:
    """Wins of the candidate less its losses, over what a person said of their pairs in time."""
    pairs = {pair.candidate.id: pair for pair in person.pairs}
    votes: list[tuple[float, bool]] = []
    for signal in signals:
        if signal.kind != "preference" or signal.at > person.since + window:
            continue
        given = dict(scored(signal))
        for candidate_id in given.keys() & pairs.keys():
            pair = pairs[candidate_id]
            if pair.stable.id in given:  # else it was compared with another answer
                vote = given[candidate_id] - given[pair.stable.id]
                votes.append((vote, bool(pair.first)))
    if not votes:
        return Said(float("nan"), 0.5)
    said, first = zip(*votes, strict=True)
    return Said(sum(said) / len(votes), sum(first) / len(votes))
