"""Which of two answers side by side people prefer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import numpy as np
from sqlalchemy.ext.asyncio import AsyncConnection

from learnback.ledger import canaries
from learnback.ledger.canaries import Pair, Signal
from learnback.release.observing import scored
from learnback.release.pairs import Paired, PairedCrowd
from learnback.release.sequential import Floats


@dataclass
class Comparisons:
    """Everybody who saw both versions side by side, read from the ledger bit by bit."""

    version: str
    window: timedelta
    crowd: PairedCrowd = field(init=False)
    _said: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Nobody has been seen."""
        self.crowd = PairedCrowd(self.window)

    async def read(self, connection: AsyncConnection, after: datetime, until: datetime) -> None:
        """Take in what was shown, and what those said whose window is over now."""
        self.crowd.add(await canaries.compared_between(connection, self.version, after, until))
        over = self.crowd.close(until)
        ids = [pair.candidate.id for person in over for pair in person.pairs]
        signals = await canaries.signals_about(connection, ids)
        self._said += [preference(person, signals, self.window) for person in over]

    def differences(self) -> Floats:
        """For each person how much more often the candidate won than lost, (n,), in [-1, 1]; nan
        for the silent."""
        return np.array(self._said, dtype=np.float64)


def preference(person: Paired, signals: Sequence[Signal], window: timedelta) -> float:
    """Wins of the candidate less its losses, over what a person said of their pairs in time."""
    pairs = {pair.candidate.id: pair for pair in person.pairs}
    said = []
    for signal in signals:
        votes = dict(scored(signal)) if signal.kind == "preference" else {}
        for candidate_id in votes.keys() & pairs.keys():
            if signal.at <= person.since + window:
                said.append(_vote(votes, pairs[candidate_id]))
    known = [vote for vote in said if vote is not None]
    return sum(known) / len(known) if known else float("nan")


def _vote(votes: Mapping[str, float], pair: Pair) -> float | None:
    """1 if the candidate's answer won, -1 if it lost, 0 for a tie, by whichever place it had; None
    if it was compared with another answer."""
    if pair.stable.id not in votes:
        return None
    return votes[pair.candidate.id] - votes[pair.stable.id]
