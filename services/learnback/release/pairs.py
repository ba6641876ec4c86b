"""People to whom both versions answered, in the order in which they came.

The unit is a person, as in the canary: all their pairs within a window after the first one are one
observation. A person counts once.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from learnback.ledger.canaries import Pair


@dataclass
class Paired:
    """One person's pairs within the window."""

    since: datetime
    pairs: list[Pair]


@dataclass
class PairedCrowd:
    """Everybody seen so far; grows by `add`."""

    window: timedelta
    closed: list[Paired] = field(default_factory=list)
    """Those whose window is over; only ever appended to, so that what was tested stays."""
    _waiting: dict[str, Paired] = field(default_factory=dict)
    _done: set[str] = field(default_factory=set)
    _seen: set[str] = field(default_factory=set)

    def add(self, pairs: Iterable[Pair]) -> None:
        """Take pairs in, oldest first; each once, and only within its person's window."""
        for pair in pairs:
            first = pair.stable
            name = first.subject or first.id
            if pair.candidate.id in self._seen or name in self._done:
                continue
            self._seen.add(pair.candidate.id)
            person = self._waiting.setdefault(name, Paired(first.at, []))
            if first.at <= person.since + self.window:
                person.pairs.append(pair)

    def close(self, until: datetime) -> list[Paired]:
        """Those whose window was over at `until` for the first time, by the time they came."""
        over = {n: p for n, p in self._waiting.items() if p.since + self.window <= until}
        for name in over:
            del self._waiting[name]
        self._done |= over.keys()
        found = sorted(over.values(), key=lambda p: p.since)
        self.closed.extend(found)
        return found

    @property
    def people(self) -> set[str]:
        """All who were seen, also within their window."""
        return self._done | self._waiting.keys()
