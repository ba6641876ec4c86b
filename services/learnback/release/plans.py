"""What is fixed as a canary begins, and what a look at it sees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from pydantic import BaseModel, ConfigDict

from learnback.release.canary import Measured
from learnback.release.policy import CanaryPolicy
from learnback.release.quantiles import Quantile, quantile
from learnback.release.spans import Spell

SETTLE = timedelta(seconds=10)
"""How late a completion may be recorded: the way over the stream takes a second or two."""
OVERLAP = timedelta(minutes=2)
"""Recorded so long ago is read again at each look: a transaction may have ended later."""
LATENCIES = (0.5, 0.95)


class Plan(BaseModel):
    """What was fixed as replicas began to load a version."""

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
    exposed: int
    """People who have got the candidate so far, those in their window included."""
    mirrored: bool = False
    """Whether these are answers that nobody saw."""
    spells: Sequence[Spell] = ()
    """The worst span of time by each measure."""

    def as_json(self) -> dict[str, Any]:
        """For the ledger."""
        return {
            "metrics": [m.model_dump(mode="json") for m in self.measured],
            "first_byte_s": {
                track: [q.model_dump(mode="json") for q in found]
                for track, found in self.latency.items()
            },
            "exposed": self.exposed,
            "mirrored": self.mirrored,
            "spells": [s.model_dump(mode="json") for s in self.spells],
        }


def latencies(first_bytes: Mapping[str, Sequence[float]]) -> dict[str, list[Quantile]]:
    """Quantiles of the first byte with their intervals, by track."""
    return {
        track: [found for q in LATENCIES if (found := quantile(values, q)) is not None]
        for track, values in first_bytes.items()
    }
