"""Simulated canaries: how often equal versions are told apart, and how soon different ones are.

The decisions are the controller's own: `sequential` for the evidence, `canary.decide` for what
follows. What is simulated is people: they come at random times, differ in how easily they are
pleased, ask a different number of times, are in a worse mood at some hours, say something only
sometimes and mostly when unhappy, and are heard after a delay. Requests fail in bursts. All arrays
are (canaries, people), in the order in which people come. Where the policy measures preference, the
step's share of people sees both versions' answers side by side as well.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from pydantic import BaseModel, ConfigDict

from learnback.release.canary import CanaryVerdict
from learnback.release.policy import CanaryPolicy, Measure, Metric, Step
from learnback.release.replay import Paths, end
from learnback.release.sequential import Bools, Floats, People, Scores, paired, scores
from learnback.release.side_by_side import SideBySide

POLICY = CanaryPolicy(
    steps=(
        Step(traffic=0.01, min_people=20),
        Step(traffic=0.1, min_people=100),
        Step(traffic=0.5, min_people=200),
        Step(traffic=1.0),
    ),
    metrics=(
        Metric(measure=Measure.FEEDBACK, aim="improve"),
        Metric(measure=Measure.ERRORS, margin=0.02),
        Metric(measure=Measure.LATENCY, margin=0.05),
    ),
)
COMPARING = POLICY.model_copy(
    update={
        "metrics": (Metric(measure=Measure.PREFERENCE, aim="improve"), *POLICY.metrics[1:]),
    }
)
"""The same, by what people prefer of two answers."""
CHUNK = 20
"""Canaries at once: arrays that fit the processor's cache are twice as fast."""
KINDS = 3


@dataclass(frozen=True)
class Town:
    """Who comes. Times in hours."""

    people: int = 10_000
    per_hour: float = 500.0
    pleased: float = 0.6
    """Share of visits that please, with stable."""
    mood: float = 0.1
    """How far that goes up and down over a day."""
    visits: float = 2.0
    """Requests of a person within their window, at least one."""
    unhappy_say: float = 0.45
    happy_say: float = 0.15
    """How often they say so within the window; the silent are of the same kind as these."""
    scorer: float = 0.8
    """How often the learned reward sees rightly whether an answer pleases."""
    fails: float = 0.01
    slow: float = 0.05
    prefer_say: float = 0.3
    """How often those who see two answers side by side say which is better."""
    habit: float = 0.1
    """Share of people who take the first of two answers without reading."""
    alike: float = 0.5
    """How often the prompt alone decides whether both versions' answers to it please."""


@dataclass(frozen=True)
class Chunk:
    """Simulated canaries."""

    at: Floats
    treated: Bools
    share: Floats
    last_step: Bools
    """The people of the last step before everybody; only there a version is promoted."""
    feedback: People
    errors: People
    latency: People
    preference: SideBySide | None = None
    """None: nobody sees two answers."""


class Outcomes(BaseModel):
    """What became of many canaries with the same true difference."""

    model_config = ConfigDict(frozen=True)

    effect: float
    canaries: int
    promoted: float
    """Share of canaries."""
    rolled_back: float
    people: float | None
    """Median number of people who had come when it was decided; None if most never were."""
    exposed: float | None
    """Median number of them who had got the candidate, those still in their window included."""
    votes: float | None
    """Median number of people whose word counted by then."""
    hours: float | None
    fixed_size: float | None
    """People for a test of fixed size at 50%, at the same alpha and with a power of 80%."""
    peeking: float
    """Share that a z-test of what people say, looked at after everybody, would have promoted."""
    comparing: bool
    """Whether people said which of two answers is better, not how they liked one."""
    decided_after: list[int]
    """People at each decision, ascending; undecided ones are left out."""


def simulate(
    effect: float,
    canaries: int,
    *,
    town: Town = Town(),
    policy: CanaryPolicy = POLICY,
    seed: int = 0,
    progress: Callable[[int], None] = lambda done: None,
) -> Outcomes:
    """Many canaries of a version that pleases in `effect` more of its visits."""
    parts = []
    for start in range(0, canaries, CHUNK):
        size = min(CHUNK, canaries - start)
        rng = np.random.default_rng([seed, start, round((effect + 1) * 1e6)])
        parts.append(_decisions(draw(rng, size, effect, town, policy), town, policy))
        progress(start + size)
    found = {k: np.concatenate([part[k] for part in parts]) for k in parts[0]}
    decided = found["promoted"] | found["rolled_back"]
    return Outcomes(
        effect=effect,
        canaries=canaries,
        promoted=float(found["promoted"].mean()),
        rolled_back=float(found["rolled_back"].mean()),
        people=_median(found["people"], decided),
        exposed=_median(found["exposed"], decided),
        votes=_median(found["votes"], decided),
        hours=_median(found["hours"], decided),
        fixed_size=_fixed_size(effect, float(np.nanmean(found["variance"])), policy.alpha),
        peeking=float(found["peeked"].mean()),
        comparing=policy.metrics[0].measure is Measure.PREFERENCE,
        decided_after=sorted(int(n) for n in found["people"][decided]),
    )


def draw(
    rng: np.random.Generator, canaries: int, effect: float, town: Town, policy: CanaryPolicy
) -> Chunk:
    """People and what happens to them."""
    shape = (canaries, town.people)
    at = np.cumsum(rng.exponential(1 / town.per_hour, shape), axis=1)
    share, treated, last = _assign(rng, at, policy)
    visits = rng.geometric(1 / town.visits, shape)
    easy = rng.beta(4 * town.pleased, 4 * (1 - town.pleased), shape)
    mood = town.mood * np.sin(2 * np.pi * at / 24)
    chance = np.clip(easy + mood + effect * treated, 0.0, 1.0)
    pleased = rng.binomial(visits, chance) / visits
    said, kind = _said(rng, pleased, town)
    burst = np.where(np.sin(at * 7.3) > 0.97, 10.0, 1.0)  # an incident every hour or so
    failed = rng.binomial(visits, np.clip(town.fails * burst, 0, 1)) / visits
    slow = rng.binomial(visits, np.clip(town.slow * (1 + mood * 5), 0, 1)) / visits
    both = None
    if any(metric.measure is Measure.PREFERENCE for metric in policy.metrics):
        both = SideBySide.draw(
            rng, share, visits, (easy + mood, effect), (town.prefer_say, town.habit, town.alike)
        )
    return Chunk(
        at=at,
        treated=treated,
        share=share,
        last_step=last,
        feedback=People(treated, share, said, kind, KINDS),
        errors=People(treated, share, 1 - failed),
        latency=People(treated, share, 1 - slow),
        preference=both,
    )


def _said(
    rng: np.random.Generator, pleased: Floats, town: Town
) -> tuple[Floats, np.ndarray[tuple[int, ...], np.dtype[np.int8]]]:
    """What people say, nan for the silent; and of what kind they look to the learned reward.

    The learned reward is noisy: within what it sees, who says something does not hang on what
    they would say. That is what the correction assumes.
    """
    noise = rng.normal(0, 1 - town.scorer, pleased.shape)
    seen = np.clip(pleased + noise, 0, 1)
    kind = np.minimum(KINDS - 1, (seen * KINDS).astype(np.int8)).astype(np.int8)
    unhappy = 1 - kind / (KINDS - 1)
    says = town.happy_say + (town.unhappy_say - town.happy_say) * unhappy
    return np.where(rng.random(pleased.shape) < says, pleased, np.nan), kind


def _assign(
    rng: np.random.Generator, at: Floats, policy: CanaryPolicy
) -> tuple[Floats, Bools, Bools]:
    """Each person's share and version. A step ends when enough people's windows are over."""
    window = policy.window.total_seconds() / 3600
    place = rng.random(at.shape)
    share = np.empty(at.shape)
    begins = np.zeros(at.shape[0], dtype=np.int64)
    column = np.arange(at.shape[1])
    shares = [step for step in policy.steps if step.traffic < 1]
    for step in shares:
        in_step = column >= begins[:, None]
        share = np.where(in_step, step.traffic, share)
        if step is shares[-1]:
            break
        enough = np.cumsum(in_step & (place < step.traffic), axis=1) >= step.min_people
        closes = np.where(enough.any(axis=1), at[np.arange(len(at)), enough.argmax(axis=1)], np.inf)
        begins = (at <= (closes + window)[:, None]).sum(axis=1)
    last = column >= begins[:, None]
    return share, place < share, last


def _decisions(chunk: Chunk, town: Town, policy: CanaryPolicy) -> dict[str, Floats | Bools]:
    """When each canary is decided, and how, looked at after every person."""
    found = {metric: _scores(chunk, metric.measure) for metric in policy.metrics}
    ends = _ends({metric: Paths.of(one, metric) for metric, one in found.items()}, chunk, policy)
    n = chunk.at.shape[1]
    row = np.arange(len(ends))
    index = np.array([n - 1 if one is None else one[0] for one in ends])
    verdict = [None if one is None else one[1] for one in ends]
    hours = chunk.at[row, index] + policy.window.total_seconds() / 3600
    come = (chunk.at <= hours[:, None]).sum(axis=1)
    opinion = policy.metrics[0]
    return {
        "promoted": np.array([one is CanaryVerdict.PROMOTE for one in verdict]),
        "rolled_back": np.array([one is CanaryVerdict.ROLL_BACK for one in verdict]),
        "people": come,
        "exposed": np.cumsum(_sees_it(chunk), axis=1)[row, np.maximum(come, 1) - 1],
        "votes": np.cumsum(_votes(chunk, opinion.measure), axis=1)[row, index],
        "hours": hours,
        "variance": np.full(len(ends), _variance(chunk, opinion.measure, found[opinion])),
        "peeked": _peeked(chunk, opinion.measure),
    }


def _ends(
    paths: dict[Metric, Paths], chunk: Chunk, policy: CanaryPolicy
) -> list[tuple[int, CanaryVerdict] | None]:
    """By the controller's decision; where it stands is told by the people who came."""
    last = len(policy.steps) - 2
    step = np.where(chunk.last_step, last, max(last - 1, 0))  # both may roll back, one promote
    people = np.cumsum(chunk.last_step & chunk.treated, axis=1)
    return [
        end({metric: path.row(i) for metric, path in paths.items()}, step[i], people[i], policy)
        for i in range(len(chunk.at))
    ]


def _scores(chunk: Chunk, measure: Measure) -> Scores:
    if measure is Measure.PREFERENCE:
        assert chunk.preference is not None  # noqa: S101
        return paired(chunk.preference.difference, chunk.preference.first)
    people: People = getattr(chunk, measure.value)
    return scores(people)


def _sees_it(chunk: Chunk) -> Bools:
    """Who gets the candidate's answer, alone or beside stable's."""
    if chunk.preference is None:
        return chunk.treated
    return chunk.treated | chunk.preference.asked


def _votes(chunk: Chunk, opinion: Measure) -> Bools:
    """Whose opinion counts."""
    if opinion is Measure.PREFERENCE and chunk.preference is not None:
        return ~np.isnan(chunk.preference.difference)
    return ~np.isnan(chunk.feedback.outcome)


def _variance(chunk: Chunk, opinion: Measure, found: Scores) -> float:
    """Of z at the last step, for each person who comes; the silent ones say that much less."""
    counted = chunk.last_step & (found.counts if opinion is Measure.PREFERENCE else True)
    if not counted.any():
        return float("nan")
    return float(found.z[counted].var() / (counted.sum() / chunk.last_step.sum()))


def _peeked(chunk: Chunk, opinion: Measure, z: float = 1.645, least: int = 50) -> Bools:
    """Whether a one-sided z-test of the answers' means ever says "better" at 95%."""
    if opinion is Measure.PREFERENCE and chunk.preference is not None:
        return chunk.preference.peeked(z, least)
    people = chunk.feedback
    known = ~np.isnan(people.outcome)
    y = np.where(known, people.outcome, 0.0)
    counts, means, errors = [], [], []
    for arm in (people.treated, ~people.treated):
        member = arm & known
        n = np.maximum(np.cumsum(member, axis=1), 1)
        mean = np.cumsum(np.where(member, y, 0.0), axis=1) / n
        square = np.cumsum(np.where(member, y * y, 0.0), axis=1) / n
        counts.append(n)
        means.append(mean)
        errors.append(np.maximum(square - mean * mean, 1e-6) / n)
    enough = (counts[0] >= least) & (counts[1] >= least)
    better = (means[0] - means[1]) > z * np.sqrt(errors[0] + errors[1])
    result: Bools = (enough & better).any(axis=1)
    return result


def _fixed_size(effect: float, variance: float, alpha: float) -> float | None:
    """People for a one-sided test with 80% power; z has this variance at a share of 50%."""
    if effect == 0 or not np.isfinite(variance):
        return None
    z_alpha, z_power = 1.6448536269514722, 0.8416212335729143
    if abs(alpha - 0.05) > 1e-12:
        raise ValueError("the fixed-size test is tabulated for alpha 0.05")
    return float((z_alpha + z_power) ** 2 * variance / effect**2)


def _median(values: Floats | Bools, decided: Bools) -> float | None:
    """The median over all canaries, those that were never decided counting as endless."""
    if decided.mean() <= 0.5:
        return None
    return float(np.median(np.where(decided, values, np.inf)))
