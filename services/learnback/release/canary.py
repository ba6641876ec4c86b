"""What a look at a canary says: advance, hold, promote, roll back, or inconclusive. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

import numpy as np
from pydantic import BaseModel, ConfigDict

from learnback.release.policy import CanaryPolicy, Measure, Metric, OnDeadline
from learnback.release.sequential import (
    Floats,
    People,
    estimate,
    interval,
    log_wealth,
    paired,
    scores,
)
from learnback.release.spans import Spell

SPANS_SHARE = 0.2
"""Of the alpha for harm, what spans of time share: they need much evidence in any case."""
WATCH_SHARE = 0.1
"""The same for those after a promotion."""


class CanaryVerdict(StrEnum):
    """What a look decides."""

    ADVANCE = "advance"
    HOLD = "hold"
    PROMOTE = "promote"
    ROLL_BACK = "roll_back"
    WATCH = "watch"
    """It is stable, and some people still have the version before."""
    INCONCLUSIVE = "inconclusive"
    """The deadline is over and nothing is proven; the policy says what to do then."""


class Measured(BaseModel):
    """One metric at one look. Differences are candidate minus stable; more is better."""

    model_config = ConfigDict(frozen=True)

    measure: Measure
    aim: str
    margin: float
    people: int
    """Whose window is over."""
    people_candidate: int
    known: int
    """Of all people, those whose outcome is known."""
    known_candidate: int
    raw: float | None
    """The plain difference of means of those who are known, biased as they are."""
    difference: float | None
    """Corrected for who got the candidate and who answered."""
    low: float
    high: float
    """Always-valid interval of the difference at 1 - alpha."""
    better: float
    """Log of the evidence (e-value) that the difference is over 0."""
    safe: float
    """The same that it is over -margin."""
    harm: float
    """The same that it is under -margin."""


@dataclass(frozen=True)
class Standing:
    """Where a canary is when somebody looks."""

    step: int
    at_step: timedelta
    in_canary: timedelta
    people_at_step: int
    """Who got the candidate at this step and whose window is over."""


@dataclass(frozen=True)
class Decision:
    """The verdict with its reason in a sentence."""

    verdict: CanaryVerdict
    reason: str


def measure(people: People, metric: Metric, alpha: float) -> Measured:
    """Test one metric. Without people nothing is proven, whatever the aim is."""
    known = ~np.isnan(people.outcome)
    treated = people.treated
    found = scores(people)
    empty = treated.size == 0
    low, high = (-1.0, 1.0) if empty else interval(found, alpha)
    return Measured(
        measure=metric.measure,
        aim=metric.aim,
        margin=metric.margin,
        people=int(treated.size),
        people_candidate=int(treated.sum()),
        known=int(known.sum()),
        known_candidate=int((known & treated).sum()),
        raw=_raw(people.outcome, treated, known),
        difference=None if empty else _finite(float(estimate(found))),
        low=low,
        high=high,
        better=0.0 if empty else float(log_wealth(found, 0.0, above=True)[-1]),
        safe=0.0 if empty else float(log_wealth(found, -metric.margin, above=True)[-1]),
        harm=0.0 if empty else float(log_wealth(found, -metric.margin, above=False)[-1]),
    )


def measure_pairs(
    difference: Floats, metric: Metric, alpha: float, first: Floats | None = None
) -> Measured:
    """Test one metric on people to whom both versions answered; nan: nothing is known of them.

    `first` as in `sequential.paired`.
    """
    told = ~np.isnan(difference)
    known = difference[told]
    found = paired(known, None if first is None else first[told])
    empty = known.size == 0
    low, high = (-1.0, 1.0) if empty else interval(found, alpha)
    return Measured(
        measure=metric.measure,
        aim=metric.aim,
        margin=metric.margin,
        people=int(difference.size),
        people_candidate=int(difference.size),
        known=int(known.size),
        known_candidate=int(known.size),
        raw=None if empty else float(known.mean()),
        difference=None if empty else _finite(float(estimate(found))),
        low=low,
        high=high,
        better=0.0 if empty else float(log_wealth(found, 0.0, above=True)[-1]),
        safe=0.0 if empty else float(log_wealth(found, -metric.margin, above=True)[-1]),
        harm=0.0 if empty else float(log_wealth(found, -metric.margin, above=False)[-1]),
    )


def decide(
    measured: Sequence[Measured],
    standing: Standing,
    policy: CanaryPolicy,
    spells: Sequence[Spell] = (),
) -> Decision:
    """Harm first, then the deadline, then whether enough was seen, then whether it is proven.

    `spells`: the worst span of time by each measure.
    """
    worst = max(measured, key=lambda m: m.harm)
    limit = harm_limit(policy)
    if worst.harm >= limit:
        return Decision(CanaryVerdict.ROLL_BACK, f"{_shown(worst)}: worse than is tolerated")
    broke = worst_spell(spells)
    if broke is not None and broke.evidence >= span_limit(policy):
        return Decision(CanaryVerdict.ROLL_BACK, _broke(broke))
    unproven = [m for m in measured if not proven(m, policy)]
    if standing.in_canary >= policy.deadline:
        return _at_deadline(unproven, standing, policy)
    if worst.harm >= limit / 2:
        return Decision(
            CanaryVerdict.HOLD,
            f"{_shown(worst)}: looks worse; nobody else sees it until it is clear",
        )
    missing = _missing(standing, policy)
    if missing:
        return Decision(CanaryVerdict.HOLD, missing)
    following = policy.steps[standing.step + 1]
    if following.traffic < 1:
        return Decision(
            CanaryVerdict.ADVANCE,
            f"no harm seen in {standing.people_at_step} people; on to {following.shown}",
        )
    if unproven:
        return Decision(
            CanaryVerdict.HOLD, "not proven yet: " + "; ".join(_shown(m) for m in unproven)
        )
    return Decision(CanaryVerdict.PROMOTE, "proven: " + "; ".join(_shown(m) for m in measured))


def harm_limit(policy: CanaryPolicy) -> float:
    """Log evidence of harm that rolls back. Spans of time get their shares of alpha; of the rest
    each metric gets an equal part, and so does each that mirrored steps compare.

    By the union bound at most alpha of equal versions is rolled back, however the metrics hang
    together.
    """
    tests = len(policy.metrics) + len(policy.mirrored_metrics)
    spans = SPANS_SHARE if policy.spanned_metrics else 0.0
    after = WATCH_SHARE if policy.watches_after else 0.0
    return math.log(tests / ((1 - spans - after) * policy.alpha))


def span_limit(policy: CanaryPolicy, share: float = SPANS_SHARE) -> float:
    """The same for the evidence of a span of time, which its own part is taken off already."""
    return math.log(len(policy.spanned_metrics) / (share * policy.alpha))


def decide_after(spells: Sequence[Spell], watched_for: timedelta, policy: CanaryPolicy) -> Decision:
    """Of a version that is stable, and is compared with the one before."""
    broke = worst_spell(spells)
    if broke is not None and broke.evidence >= span_limit(policy, WATCH_SHARE):
        return Decision(CanaryVerdict.ROLL_BACK, _broke(broke))
    if watched_for >= policy.watch_after:
        return Decision(CanaryVerdict.PROMOTE, f"nothing went bad within {policy.watch_after}")
    return Decision(
        CanaryVerdict.WATCH,
        f"stable; {policy.holdback:.0%} of people keep the version before, to compare with",
    )


def worst_spell(spells: Sequence[Spell]) -> Spell | None:
    """The one with the most evidence."""
    return max(spells, key=lambda s: s.evidence, default=None)


def proof_limit(policy: CanaryPolicy) -> float:
    """Log evidence that counts as proof.

    All metrics must be proven for promotion, so the chance of a false one is at most that of its
    least likely part: no correction is needed.
    """
    return math.log(1 / policy.alpha)


def proven(found: Measured, policy: CanaryPolicy) -> bool:
    """Whether a metric does what is asked of it."""
    evidence = found.better if found.aim == "improve" else found.safe
    return evidence >= proof_limit(policy)


def _at_deadline(
    unproven: Sequence[Measured], standing: Standing, policy: CanaryPolicy
) -> Decision:
    """What has not taken its steps is not promoted, whatever is proven."""
    left = _steps_left(standing, policy)
    if left is None and not unproven:
        return Decision(CanaryVerdict.PROMOTE, "the deadline is over; all is proven")
    said = "not proven: " + "; ".join(_shown(m) for m in unproven) if unproven else "all is proven"
    found = "; ".join(part for part in (left, said) if part)
    why = f"the deadline is over; {found}; on_deadline: {policy.on_deadline}"
    return Decision(CanaryVerdict.INCONCLUSIVE, why)


def safe_at_deadline(
    measured: Sequence[Measured], standing: Standing, policy: CanaryPolicy
) -> bool:
    """Whether `promote_if_safe` promotes."""
    if policy.on_deadline is not OnDeadline.PROMOTE_IF_SAFE:
        return False
    safe = all(m.safe >= proof_limit(policy) for m in measured)
    return safe and _steps_left(standing, policy) is None


def _steps_left(standing: Standing, policy: CanaryPolicy) -> str | None:
    """What must happen before the last step may come; None: nothing."""
    if policy.steps[standing.step].mirror:
        return "nobody saw it"
    following = policy.steps[standing.step + 1]
    if following.traffic < 1:
        return f"{following.shown} was not reached"
    return _missing(standing, policy)


def _missing(standing: Standing, policy: CanaryPolicy) -> str | None:
    step = policy.steps[standing.step]
    if standing.people_at_step < step.min_people:
        return f"{standing.people_at_step} of {step.min_people} people seen at {step.shown}"
    if standing.at_step < step.at_least:
        return f"{standing.at_step} of {step.at_least} passed at {step.shown}"
    return None


def _broke(found: Spell) -> str:
    sides = f"{_percent(found.candidate)} well, stable's {_percent(found.stable)}"
    return (
        f"{found.measure} went bad between {found.since:%Y-%m-%d %H:%M} and "
        f"{found.since + found.length:%H:%M}: the candidate's answers were {sides}"
        f" ({found.people_candidate} of {found.people} people with the candidate)"
    )


def _percent(share: float | None) -> str:
    return "unknown" if share is None else f"{share:.1%}"


def _raw(outcome: object, treated: object, known: object) -> float | None:
    y, t, k = np.asarray(outcome), np.asarray(treated), np.asarray(known)
    if not (t & k).any() or not (~t & k).any():
        return None
    return float(y[t & k].mean() - y[~t & k].mean())


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _shown(found: Measured) -> str:
    if found.difference is None:
        return f"{found.measure} was not measured"
    tolerated = f", tolerated {-found.margin:+.1%}" if found.margin else ""
    return (
        f"{found.measure} {found.difference:+.1%} [{found.low:+.1%}, {found.high:+.1%}]{tolerated}"
        f" ({found.known_candidate} of {found.known} people with the candidate)"
    )
