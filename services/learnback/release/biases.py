"""How far estimates are off when raters are biased, by simulation."""

from __future__ import annotations

import numpy as np
from pydantic import BaseModel, ConfigDict

from learnback.release.sequential import Bools, Floats, estimate, paired, scores
from learnback.release.simulation import CHUNK, POLICY, Town, draw


class Bias(BaseModel):
    """The mean error over many canaries."""

    model_config = ConfigDict(frozen=True)

    raters: str
    truth: float
    """Candidate minus stable."""
    uncorrected: float
    """Error of the plain mean of what is said."""
    corrected: float | None
    """Error of our estimate; None: nothing could correct it, so it is never done so."""


def only_the_unhappy(canaries: int = 100, seed: int = 1, effect: float = 0.1) -> Bias:
    """Who is pleased hardly ever says so."""
    town = Town(people=10_000, unhappy_say=0.5, happy_say=0.02, mood=0.0)
    policy = POLICY.model_copy(update={"steps": POLICY.steps[2:]})
    raw, ours, truth = [], [], []
    for start in range(0, canaries, CHUNK):
        rng = np.random.default_rng([seed, start])
        people = draw(rng, CHUNK, effect, town, policy).feedback
        known, treated = ~np.isnan(people.outcome), people.treated
        raw.append(_mean(people.outcome, known & treated) - _mean(people.outcome, known & ~treated))
        ours.append(estimate(scores(people)))
        rng = np.random.default_rng([seed, start])
        told = Town(**{**vars(town), "unhappy_say": 1.0, "happy_say": 1.0})
        whole = draw(rng, CHUNK, effect, told, policy).feedback
        truth.append(_mean(whole.outcome, treated) - _mean(whole.outcome, ~treated))
    expected = float(np.mean(truth))
    return Bias(
        raters="only the unhappy vote",
        truth=expected,
        uncorrected=float(np.mean(raw)) - expected,
        corrected=float(np.mean(ours)) - expected,
    )


def the_first_favoured(
    canaries: int = 100,
    seed: int = 1,
    effect: float = 0.1,
    habit: float = 0.3,
    *,
    people: int = 2_000,
    drawn: bool = True,
) -> Bias:
    """Of two answers side by side, a share of people takes the first without reading.

    `drawn`: the order is drawn for each pair; otherwise stable's answer always stands first.
    """
    rng = np.random.default_rng([seed, int(drawn)])
    shape = (canaries, people)
    first = rng.random(shape) < (0.5 if drawn else 0.0)
    reads = rng.random(shape) >= habit
    better = rng.random(shape) < (1 + effect) / 2
    difference = np.where(np.where(reads, better, first), 1.0, -1.0)
    corrected = estimate(paired(difference, first.astype(np.float64)))
    order = "in an order by chance" if drawn else "stable's answer always first"
    return Bias(
        raters=f"{habit:.0%} take the first of two answers, {order}",
        truth=effect,
        uncorrected=float(difference.mean()) - effect,
        corrected=float(np.mean(corrected)) - effect if drawn else None,
    )


def _mean(values: Floats, where: Bools) -> Floats:
    result: Floats = np.where(where, values, 0.0).sum(axis=1) / where.sum(axis=1)
    return result
