"""The controller's own decisions at each of many looks, for simulations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

import numpy as np
from numpy.typing import NDArray

from learnback.release.canary import (
    CanaryVerdict,
    Measured,
    Standing,
    decide,
    harm_limit,
    proof_limit,
)
from learnback.release.policy import CanaryPolicy, Metric
from learnback.release.sequential import Bools, Floats, Scores, log_wealth

ENDS = frozenset({CanaryVerdict.PROMOTE, CanaryVerdict.ROLL_BACK})


@dataclass(frozen=True)
class Paths:
    """The log evidence on one metric after each person, (..., n)."""

    better: Floats
    safe: Floats
    harm: Floats

    @classmethod
    def of(cls, found: Scores, metric: Metric) -> Paths:
        """As `canary.measure`, which says only how it stands at the end."""
        safe = log_wealth(found, -metric.margin, above=True)
        return cls(
            better=log_wealth(found, 0.0, above=True) if metric.margin else safe,
            safe=safe,
            harm=log_wealth(found, -metric.margin, above=False),
        )

    def row(self, number: int) -> Paths:
        """Those of one canary, (n,)."""
        return Paths(self.better[number], self.safe[number], self.harm[number])

    def at(self, index: int, metric: Metric) -> Measured:
        """As a look after this person has it; nothing but the evidence decides."""
        return Measured(
            measure=metric.measure,
            aim=metric.aim,
            margin=metric.margin,
            people=index + 1,
            people_candidate=0,
            known=index + 1,
            known_candidate=0,
            raw=None,
            difference=None,
            low=-1.0,
            high=1.0,
            better=float(self.better[index]),
            safe=float(self.safe[index]),
            harm=float(self.harm[index]),
        )


def end(
    paths: Mapping[Metric, Paths],
    step: NDArray[np.int64],
    people_at_step: NDArray[np.int64],
    policy: CanaryPolicy,
) -> tuple[int, CanaryVerdict] | None:
    """After which person a canary that is looked at after each one ends, and how; None: never.

    `step` and `people_at_step` as in `Standing`, (n,). The controller is asked wherever it could
    say so.
    """
    for index in np.flatnonzero(may_end(paths, policy)):
        standing = Standing(
            int(step[index]), timedelta.max, timedelta(0), int(people_at_step[index])
        )
        seen = [path.at(index, metric) for metric, path in paths.items()]
        verdict = decide(seen, standing, policy).verdict
        if verdict in ENDS:
            return int(index), verdict
    return None


def may_end(paths: Mapping[Metric, Paths], policy: CanaryPolicy) -> Bools:
    """Where some harm or all proofs are over their limits: nowhere else a canary ends, (..., n)."""
    harmed = [path.harm >= harm_limit(policy) for path in paths.values()]
    proven = [
        (path.better if metric.aim == "improve" else path.safe) >= proof_limit(policy)
        for metric, path in paths.items()
    ]
    result: Bools = np.logical_or.reduce(harmed) | np.logical_and.reduce(proven)
    return result
