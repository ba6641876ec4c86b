"""An always-valid test of two versions on live traffic. Pure; the last axis of arrays is time.

People come one by one. A person gets the candidate with a known probability, so that

    z = m1 - m0 + T (y - m1) / p - (1 - T) (y - m0) / (1 - p)

has the mean "candidate minus stable", whatever m1 and m0 are, as long as they were fixed before the
person came (T: got the candidate; p: with this probability; y: what came of it, in [0, 1]; m: means
so far). This is augmented inverse-propensity weighting (Robins, Rotnitzky and Zhao 1994): nothing
is assumed of how outcomes move in time, and shares of 1%, 10% and 50% add up in one test.

Where only some people say what they think, y is replaced by

    mu + R (y - mu) / e

(R: they said it; e, mu: how many of their kind say something, and what, so far, with the same
version). Kinds may rest on what happened after the assignment, such as the learned reward of the
answer (Kallus and Mao 2020, arXiv:2003.12408). This is right if, within a kind and a version, who
says something does not hang on what they would say. e and mu are estimated, so the test is then
valid in large samples rather than exactly.

The test is by betting (Waudby-Smith and Ramdas 2023, arXiv:2010.09686): against "the difference is
at most m" one stakes a part lambda of one's wealth on each z - m. If it is true, wealth is a
supermartingale, and ever reaching 1/alpha has a probability of at most alpha (Ville 1939), however
often one looks. Stakes are lambda = delta / (variance + delta^2), the best ones for a difference of
delta over m; the wealth is the mean over several delta (method of mixtures; Howard et al. 2021,
arXiv:1810.08240).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

DELTAS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32)
"""Differences that the stakes are best for. A factor of two between costs at most a tenth of the
growth at any difference between them; six of them cost log(6) of wealth once."""
LARGEST_STAKE = 0.75
"""Of the wealth that one z may take away: never all, or one surprise would end the test."""
PRIOR = 4.0
"""Observations that a guess weighs: 1/2 with the largest variance for everybody, and everybody's
for each version."""
SHRINK = 10.0
"""Members of a kind that the rate of all kinds together weighs against its own."""
LEAST_RESPONSE = 0.02
"""Response rates below count as this: one answer may then speak for 50 people, not for more."""
HABIT_PRIOR = 20.0
"""People that the guess "nobody just takes the first answer" weighs."""
LARGEST_HABIT = 0.8
"""If more seem to, this many are believed: one vote may then count for five."""
BURN_IN = 25
"""Answers with each version before stakes begin, where response rates are estimated."""


@dataclass(frozen=True)
class People:
    """What is known of each person, in the order in which they came; arrays (..., n)."""

    treated: Bools
    """They got the candidate."""
    probability: Floats
    """With this probability, given all that happened before, in (0, 1)."""
    outcome: Floats
    """In [0, 1], more is better; nan: they said nothing."""
    kind: NDArray[np.int8] | None = None
    """Whom they resemble, 0 to `kinds` - 1; None: everybody's outcome is known."""
    kinds: int = 1


@dataclass(frozen=True)
class Scores:
    """z of each person with what was known of it before they came; arrays (..., n)."""

    z: Floats
    variance: Floats
    low: Floats
    high: Floats
    """z can't leave [low, high]."""
    counts: Bools
    """False while too little is known for a stake."""


def scores(people: People) -> Scores:
    """z of each person. Every other number in it rests on the people before alone."""
    treated, p = people.treated, people.probability
    y, low_y, high_y, known = _completed(people)
    arms = [_Arm.of(y, member, known) for member in (~treated, treated)]
    (m0, v0, n0), (m1, v1, n1) = ((a.mean, a.variance, a.answers) for a in arms)
    gap = m1 - m0
    z = gap + np.where(treated, (y - m1) / p, -(y - m0) / (1 - p))
    low = gap + np.minimum((low_y - m1) / p, (m0 - high_y) / (1 - p))
    high = gap + np.maximum((high_y - m1) / p, (m0 - low_y) / (1 - p))
    variance = v1 / p + v0 / (1 - p)
    least = BURN_IN if people.kind is not None else 0
    return Scores(z, variance, low, high, (n0 >= least) & (n1 >= least))


def paired(difference: Floats, first: Floats | None = None) -> Scores:
    """Scores of people to whom both answered: candidate minus stable, (..., n), in [-1, 1]; nan:
    they said nothing, and are as if they had not come.

    Each is an observation of the difference itself, so nothing has to be known of who got what; the
    stake on it rests on the people before alone. `first`: how often the candidate's answer stood
    first, in [0, 1], drawn with a mean of 1/2. Some people take the first answer, whatever it says;
    they pull the mean towards 0, and are corrected for by how much better a version does in the
    first place. At a margin of 0 the test is exact whatever people do: equal versions do equally
    well in an order by chance.
    """
    told = ~np.isnan(difference)
    said = np.where(told, difference, 0.0)
    factor = np.ones(difference.shape)
    if first is not None:
        factor /= 1 - _habit(said, np.where(told, first, 0.5))
    z = said * factor
    n = _before(told)
    mean = _before(z) / (PRIOR + n)
    square = (PRIOR * 0.5 + _before(z * z)) / (PRIOR + n)
    variance = np.maximum(square - mean * mean, 0.05 * PRIOR / (PRIOR + n) + 1e-6)
    return Scores(z, variance, -factor, factor, told)


def _habit(difference: Floats, first: Floats) -> Floats:
    """The share of people before each who take the first answer, (..., n)."""
    place, won = first - 0.5, difference / 2
    slope = _before(place * won) / (_before(place * place) + HABIT_PRIOR / 4)
    result: Floats = np.clip(slope, 0.0, LARGEST_HABIT)
    return result


def log_wealth(found: Scores, margin: float, *, above: bool) -> Floats:
    """Log of the wealth after each person, (..., n): an e-process, at most 1 in the mean if the
    difference is never over `margin` (`above`), or never under it (not `above`)."""
    sign = 1.0 if above else -1.0
    gain = sign * (found.z - margin)
    worst = np.maximum(sign * margin - (found.low if above else -found.high), 1e-12)
    paths = [_path(gain, worst, found, delta) for delta in DELTAS]
    top = np.maximum.reduce(paths)
    total = sum(np.exp(path - top) for path in paths)
    result: Floats = top + np.log(total / len(DELTAS))
    return result


def _path(gain: Floats, worst: Floats, found: Scores, delta: float) -> Floats:
    stake = np.minimum(delta / (found.variance + delta * delta), LARGEST_STAKE / worst)
    steps: Floats = np.where(found.counts, np.log1p(stake * gain), 0.0)
    return np.cumsum(steps, axis=-1)


def estimate(found: Scores) -> Floats:
    """Candidate minus stable after all people, (...): z weighted by one over its variance."""
    weight = found.counts / found.variance
    total = weight.sum(axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        result: Floats = (found.z * weight).sum(axis=-1) / total
    return result


def interval(found: Scores, alpha: float, *, precision: float = 1e-3) -> tuple[float, float]:
    """A confidence sequence's interval for the difference, within [-1, 1]; arrays (n,).

    It holds the (common) difference at all times at once with a probability of 1 - alpha: all
    margins that the two tests, at alpha / 2 each, have not refuted.
    """
    need = float(np.log(2 / alpha))

    def refuted(margin: float, above: bool) -> bool:
        return bool(log_wealth(found, margin, above=above)[-1] >= need)

    return (
        _edge(-1.0, 1.0, lambda m: refuted(m, True), precision),
        _edge(1.0, -1.0, lambda m: refuted(m, False), precision),
    )


def _edge(start: float, end: float, refuted: Callable[[float], bool], precision: float) -> float:
    """The last refuted margin from `start` towards `end`, by bisection; `start` if none is."""
    if not refuted(start + np.sign(end - start) * precision):
        return start
    inside, outside = end, start
    while abs(inside - outside) > precision:
        middle = (inside + outside) / 2
        if refuted(middle):
            outside = middle
        else:
            inside = middle
    return outside


@dataclass(frozen=True)
class _Arm:
    """One version's outcomes before each person."""

    mean: Floats
    variance: Floats
    answers: Floats

    @classmethod
    def of(cls, y: Floats, member: Bools, known: Bools) -> _Arm:
        everybody = _moments(y, np.ones(y.shape, dtype=np.bool_), 0.5, 0.5)
        mean, square = _moments(y, member, *everybody)
        floor = 0.025 * PRIOR / (PRIOR + _before(member)) + 1e-6
        variance = np.maximum(square - mean * mean, floor)
        return cls(np.clip(mean, 0.0, 1.0), variance, _before(member & known))


def _moments(
    y: Floats, member: Bools, prior_mean: Floats | float, prior_square: Floats | float
) -> tuple[Floats, Floats]:
    """Means of y and of its square over the members before each person.

    The candidate's few people are filled up by what everybody's look like: at a share of 1% one
    outcome counts a hundredfold, and a mean that is off costs as much.
    """
    n = _before(member)
    mean = (PRIOR * prior_mean + _before(np.where(member, y, 0.0))) / (PRIOR + n)
    square = (PRIOR * prior_square + _before(np.where(member, y * y, 0.0))) / (PRIOR + n)
    return mean, square


def _completed(people: People) -> tuple[Floats, Floats, Floats, Bools]:
    """Outcomes with those of the silent filled in, the least and the largest that they could
    have been, and who spoke."""
    known = ~np.isnan(people.outcome)
    if people.kind is None:
        if not known.all():
            raise ValueError("an outcome is missing: say of what kind people are")
        none = np.zeros(people.outcome.shape)
        return people.outcome, none, none + 1, known
    said = np.where(known, people.outcome, 0.0)
    rate, mean, least = _by_kind(people, known, said)
    y = mean + np.where(known, (said - mean) / rate, 0.0)
    return y, 1 - 1 / least, 1 / least, known


def _by_kind(people: People, known: Bools, said: Floats) -> tuple[Floats, Floats, Floats]:
    """Before each person: how many of their kind with their version spoke, what they said in the
    mean, and the least rate of all kinds."""
    assert people.kind is not None  # noqa: S101
    rate, mean = np.empty(said.shape), np.empty(said.shape)
    least = np.ones(said.shape)
    for arm in (False, True):
        in_arm = people.treated == arm
        arm_rate, arm_mean = _rates(in_arm, known, said, 0.5, 0.5, 2.0)
        for kind in range(people.kinds):
            member = in_arm & (people.kind == kind)
            its_rate, its_mean = _rates(member, known, said, arm_rate, arm_mean, SHRINK)
            its_rate = np.maximum(its_rate, LEAST_RESPONSE)
            least = np.minimum(least, its_rate)
            rate = np.where(member, its_rate, rate)
            mean = np.where(member, its_mean, mean)
    return rate, mean, least


def _rates(
    member: Bools,
    known: Bools,
    said: Floats,
    prior_rate: Floats | float,
    prior_mean: Floats | float,
    weight: float,
) -> tuple[Floats, Floats]:
    spoke = _before(member & known)
    rate = (spoke + weight * prior_rate) / (_before(member) + weight)
    mean = (_before(np.where(member & known, said, 0.0)) + weight * prior_mean) / (spoke + weight)
    return rate, mean


def _before(values: Floats | Bools) -> Floats:
    """The sum over all people before each, (..., n): exact, so that nothing of theirs is in it."""
    total = np.zeros(values.shape)
    np.cumsum(values[..., :-1], axis=-1, dtype=np.float64, out=total[..., 1:])
    return total
