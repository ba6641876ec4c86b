"""Simulated people who see two answers side by side and say which is better."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from learnback.release.sequential import Bools, Floats


@dataclass(frozen=True)
class SideBySide:
    """What they say, (canaries, people), in the order in which they come."""

    asked: Bools
    """They see both."""
    difference: Floats
    """How much more often the candidate wins than loses, in [-1, 1]; nan: they say nothing."""
    first: Floats
    """How often its answer stands first."""

    @classmethod
    def draw(
        cls,
        rng: np.random.Generator,
        share: Floats,
        visits: np.ndarray[tuple[int, ...], np.dtype[np.int64]],
        chances: tuple[Floats, float],
        people: tuple[float, float, float],
    ) -> SideBySide:
        """`chances`: how often stable pleases a person, and how much more often the candidate does.
        `people`: shares of those who speak, who take the first answer whatever it says, and of
        visits on which both please alike.

        Of two answers the one that pleases wins; where both do or neither, it is a tie.
        """
        says, habit, alike = people
        asked = rng.random(share.shape) < share
        first = rng.binomial(visits, 0.5) / visits
        reads = rng.random(share.shape) >= habit
        won = _wins(rng, visits, chances, alike) / visits
        difference = np.where(reads, won, 2 * first - 1)
        speaks = asked & (rng.random(share.shape) < says)
        return cls(asked, np.where(speaks, difference, np.nan), first)

    def peeked(self, z: float, least: int) -> Bools:
        """Whether a one-sided z-test of the mean, looked at after everybody, ever says "better"."""
        told = ~np.isnan(self.difference)
        said = np.where(told, self.difference, 0.0)
        n = np.maximum(np.cumsum(told, axis=1), 1)
        mean = np.cumsum(said, axis=1) / n
        variance = np.maximum(np.cumsum(said * said, axis=1) / n - mean * mean, 1e-6)
        result: Bools = ((n >= least) & (mean > z * np.sqrt(variance / n))).any(axis=1)
        return result


def _wins(
    rng: np.random.Generator,
    visits: np.ndarray[tuple[int, ...], np.dtype[np.int64]],
    chances: tuple[Floats, float],
    alike: float,
) -> Floats:
    """On how many more visits the candidate's answer alone pleased than stable's alone did."""
    pleases, effect = chances
    stable, candidate = np.clip(pleases, 0.0, 1.0), np.clip(pleases + effect, 0.0, 1.0)
    same = rng.binomial(visits, alike)
    apart = visits - same
    told_apart = rng.binomial(same, np.abs(candidate - stable)) * np.sign(effect)
    result: Floats = told_apart + rng.binomial(apart, candidate) - rng.binomial(apart, stable)
    return result
