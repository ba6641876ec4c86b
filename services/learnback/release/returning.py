"""Simulated canaries in a town whose people return and hardly ever say what they think.

Some ask rarely and some all day, with whatever version they have; some ask for what fails or is
slow with any version. So a span of time is much like the one before, and people at a step are much
like those at the step before. Both tests of the controller look at the same visits: people at a
step (`sequential`, `canary`), and people in spans of time (`spans`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from learnback.release import simulation
from learnback.release.canary import SPANS_SHARE, WATCH_SHARE, CanaryVerdict, span_limit
from learnback.release.observing import KINDS, QUICK_WINDOW, REWARD_BINS
from learnback.release.plans import SETTLE
from learnback.release.policy import CanaryPolicy, Measure, Step
from learnback.release.replay import Paths, end
from learnback.release.sequential import Bools, Floats, People, log_wealth, scores
from learnback.release.spans import LENGTHS, part

Ints = NDArray[np.int64]

HOUR_S = 3600
POLICY = CanaryPolicy(steps=simulation.POLICY.steps)
"""With the default metrics."""
HALF = POLICY.model_copy(update={"steps": POLICY.steps[2:]})
AFTER = POLICY.model_copy(update={"steps": (Step(traffic=1 - POLICY.holdback), Step(traffic=1.0))})
"""After a promotion: spans alone decide."""
LOOK_S = 30.0
"""Between two looks."""


@dataclass(frozen=True)
class Regulars:
    """Who lives there, and how often the candidate breaks. Times in hours."""

    people: int = 4000
    visits_per_hour: float = 500.0
    hours: float = 48.0
    evenness: float = 0.5
    """Shape of the gamma distribution of how often people come: a tenth make 44% of visits."""
    says: tuple[float, float] = (0.01, 0.03)
    """How often somebody who is pleased says so, and somebody who is not."""
    pleased: float = 0.6
    troubled: float = 0.05
    """Share of people who ask for what often fails, and as many for what is often slow."""
    trouble: float = 0.3
    """How often that is."""
    breaks_at: float = np.inf
    """When the candidate begins to fail, after the canary began."""
    fails: float = 0.0
    """How often it fails from then on."""


@dataclass(frozen=True)
class Visits:
    """All visits of a canary, in the order of time, (n,)."""

    at: Floats
    who: Ints
    place: Floats
    """Of who comes, in [0, 1): below a step's share they get the candidate."""
    share: Floats
    outcome: dict[Measure, Floats]
    kind: NDArray[np.int8]

    @property
    def treated(self) -> Bools:
        """Who gets the candidate."""
        found: Bools = self.place < self.share
        return found


class Returned(BaseModel):
    """What became of many canaries."""

    model_config = ConfigDict(frozen=True)

    canaries: int
    promoted: float
    rolled_back: float
    """By either test."""
    by_people: float
    """By the test of people at a step."""
    by_spans: float
    """By the test of spans, whether or not the other was first."""
    minutes: tuple[float, float] | None
    """From the break to the rollback: the median and the 95th percentile."""
    reached: float | None
    """Median number of people who met the candidate between the break and the rollback."""


def simulate(
    canaries: int,
    *,
    town: Regulars = Regulars(),
    policy: CanaryPolicy = POLICY,
    seed: int = 0,
    progress: Callable[[int], None] = lambda done: None,
) -> Returned:
    """Many canaries, one after the other."""
    found = []
    for number in range(canaries):
        found.append(_canary(np.random.default_rng([seed, number]), town, policy))
        progress(number + 1)
    proof, people, spans, reached = (np.array(column) for column in zip(*found, strict=True))
    harm = np.minimum(people, spans)
    rolled_back = np.isfinite(harm) & (harm <= proof)
    late = (harm - town.breaks_at)[rolled_back] * 60 if np.isfinite(town.breaks_at) else harm[:0]
    return Returned(
        canaries=canaries,
        promoted=float((proof < harm).mean()),
        rolled_back=float(rolled_back.mean()),
        by_people=float(np.isfinite(people).mean()),
        by_spans=float(np.isfinite(spans).mean()),
        minutes=(float(np.median(late)), float(np.quantile(late, 0.95))) if late.size else None,
        reached=float(np.median(reached[rolled_back])) if late.size else None,
    )


def _canary(
    rng: np.random.Generator, town: Regulars, policy: CanaryPolicy
) -> tuple[float, float, float, int]:
    """When it is proven, when each test rolls it back, and whom it reached broken by then."""
    visits, last_step = draw(rng, town, policy)
    after = policy is AFTER
    proof, people = (np.inf, np.inf) if after else _by_people(visits, last_step, policy)
    spans = _by_spans(visits, policy, WATCH_SHARE if after else SPANS_SHARE)
    bad = visits.treated & (visits.at >= town.breaks_at) & (visits.at <= min(people, spans))
    return proof, people, spans, int(np.unique(visits.who[bad]).size)


def draw(
    rng: np.random.Generator, town: Regulars, policy: CanaryPolicy
) -> tuple[Visits, list[tuple[float, Ints]]]:
    """Visits with what came of them; and of each step its share and its people's first visits."""
    often = rng.gamma(town.evenness, size=town.people)
    count = rng.poisson(town.visits_per_hour * town.hours)
    at = np.sort(rng.random(count)) * town.hours
    who = rng.choice(town.people, count, p=often / often.sum())
    place = rng.random(town.people)[who]
    firsts, share = _steps(at, who, place, policy)
    broken = (place < share) & (at >= town.breaks_at) & (rng.random(count) < town.fails)
    outcome, kind = _outcomes(rng, town, who, broken)
    return Visits(at, who, place, share, outcome, kind), firsts


def _steps(
    at: Floats, who: Ints, place: Floats, policy: CanaryPolicy
) -> tuple[list[tuple[float, Ints]], Floats]:
    """Each step's share with its people's first visits, and each visit's share.

    A step ends when enough people's windows are over.
    """
    window = policy.window.total_seconds() / HOUR_S
    share, start, firsts = np.empty(at.shape), 0, []
    steps = [step for step in policy.steps if step.traffic < 1]
    for step in steps:
        share[start:] = step.traffic
        _, index = np.unique(who[start:], return_index=True)
        first = np.sort(index) + start
        seen = first[place[first] < step.traffic]
        if step is not steps[-1] and len(seen) > step.min_people:
            end = int(np.searchsorted(at, at[seen[step.min_people - 1]] + window))
            first = first[first < end]
            start = end
        firsts.append((step.traffic, first))
        if step is not steps[-1] and len(seen) <= step.min_people:
            break
    return firsts, share


def _outcomes(
    rng: np.random.Generator, town: Regulars, who: Ints, broken: Bools
) -> tuple[dict[Measure, Floats], NDArray[np.int8]]:
    pleases = rng.beta(4 * town.pleased, 4 * (1 - town.pleased), town.people)
    odd = [np.where(rng.random(town.people) < town.troubled, town.trouble, 0.01) for _ in range(3)]
    fails, slow, leaves = (rng.random(who.shape) < rate[who] for rate in odd)
    fails |= broken
    pleased = (rng.random(who.shape) < pleases[who]) & ~fails
    reward = np.clip(0.3 + 0.4 * pleased + rng.normal(0, 0.2, who.shape), 0, 1)
    kind = np.minimum(REWARD_BINS - 1, (reward * REWARD_BINS).astype(np.int8)).astype(np.int8)
    kind = np.where(fails, np.int8(REWARD_BINS), kind)
    loud = rng.gamma(1.0, size=town.people)  # raters are the same people again and again
    says = rng.random(who.shape) < loud[who] * np.where(pleased, *town.says)
    outcome = {
        Measure.FEEDBACK: np.where(says & ~fails, pleased.astype(np.float64), np.nan),
        Measure.REWARD: np.where(fails, np.nan, reward),
        Measure.ERRORS: 1.0 - fails,
        Measure.ABANDONED: 1.0 - leaves,
        Measure.LATENCY: 1.0 - slow,
    }
    return outcome, kind


def _by_people(
    visits: Visits, firsts: Sequence[tuple[float, Ints]], policy: CanaryPolicy
) -> tuple[float, float]:
    """When all is proven, and when some metric is proven to be worse; hours."""
    index, chance = _drawn(visits, firsts)
    share = visits.share[index]
    step = np.array([s.traffic for s in policy.steps]).searchsorted(share)
    at_last = (share == policy.steps[-2].traffic) & visits.treated[index]
    paths = {
        metric: Paths.of(scores(_people(visits, metric.measure, index, chance)), metric)
        for metric in policy.metrics
    }
    found = end(paths, step, np.cumsum(at_last), policy)
    if found is None:
        return np.inf, np.inf
    when = _known(visits.at[index[found[0]]])
    return (when, np.inf) if found[1] is CanaryVerdict.PROMOTE else (np.inf, when)


def _drawn(visits: Visits, firsts: Sequence[tuple[float, Ints]]) -> tuple[Ints, Floats]:
    """People's first visits at each step, with the chance of the candidate given those before; as
    `observing.Crowd`."""
    stable_at, had = np.zeros(visits.who.max() + 1), np.zeros(visits.who.max() + 1, dtype=np.bool_)
    index, chance = [], []
    for share, first in firsts:
        first = first[~had[visits.who[first]]]
        who = visits.who[first]
        index.append(first)
        chance.append((share - stable_at[who]) / (1 - stable_at[who]))
        treated = visits.place[first] < share
        had[who[treated]] = True
        stable_at[who[~treated]] = share
    return np.concatenate(index), np.concatenate(chance)


def _people(visits: Visits, measure: Measure, index: Ints, chance: Floats) -> People:
    """As `observing.people_of`."""
    treated, outcome = visits.treated[index], visits.outcome[measure][index]
    if measure is Measure.FEEDBACK:
        return People(treated, chance, outcome, visits.kind[index], KINDS)
    if measure is Measure.REWARD:
        return People(treated, chance, outcome, np.zeros(index.shape, dtype=np.int8), 1)
    return People(treated, chance, outcome)


def _by_spans(visits: Visits, policy: CanaryPolicy, share: float) -> float:
    """When some span of time is proven to be worse; hours."""
    limit, when = span_limit(policy, share), np.inf
    for index, parts in _in_spans(visits):
        chance = visits.share[index]
        for metric in policy.spanned_metrics:
            found = scores(_people(visits, metric.measure, index, chance))
            wealth = log_wealth(found, -metric.margin, above=False) + np.log(parts)[:, None]
            wealth[:, 1:][index[:, 1:] == index[:, :-1]] = -np.inf  # nobody, only filled up
            when = min(when, visits.at[index[wealth >= limit]].min(initial=np.inf))
    return _known(when)


def _in_spans(visits: Visits) -> Iterator[tuple[Ints, Floats]]:
    """For each length: first visits of people in spans, (spans, people), a short span filled up
    with its last one; and each span's part of alpha."""
    for length in LENGTHS:
        number = (visits.at // (length.total_seconds() / HOUR_S)).astype(np.int64)
        _, first = np.unique(number * (visits.who.max() + 1) + visits.who, return_index=True)
        first = np.sort(first)
        spans, begins, counts = np.unique(number[first], return_index=True, return_counts=True)
        column = np.minimum(np.arange(counts.max()), counts[:, None] - 1)
        yield first[begins[:, None] + column], np.array([part(length, int(n)) for n in spans])


def _known(at: float) -> float:
    """Hours when a controller acts on a visit."""
    late = QUICK_WINDOW.total_seconds() + SETTLE.total_seconds() + LOOK_S / 2
    return float(at) + late / HOUR_S
