"""What all signals together say, read, sifted and split once for all shapes. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from learnback.contracts.models import FeedbackStatus
from learnback.ledger.training import Outcome, Signal
from learnback.retraining.datasets import agreement, filters
from learnback.retraining.datasets.agreement import Agreement
from learnback.retraining.datasets.duplicates import NEAR_HELD_OUT, Messages, likeness
from learnback.retraining.datasets.reading import CantUse, Comparison, Opinion, read
from learnback.retraining.datasets.split import Shares, Side, sides
from learnback.retraining.settings import FilterSettings


@dataclass(frozen=True)
class Examined:
    """What may be learned from, by id, and what became of the rest.

    Every signal is in exactly one of `comparisons`, `opinions`, `unusable` and `set_aside`.
    """

    comparisons: tuple[Comparison, ...]
    opinions: tuple[Opinion, ...]
    sides: Mapping[str, Side]
    unusable: Mapping[str, Outcome]
    """For good, by feedback id."""
    set_aside: Mapping[str, Outcome]
    """As things are, by feedback id: a later dataset may decide otherwise."""
    outvoted: Mapping[str, Outcome]
    """Of signals that an earlier run quarantined: they only count as votes."""
    agreement: Mapping[str, Agreement]
    """Of the raters, by kind of judgement, before anybody was set aside."""
    filters: FilterSettings
    shares: Shares
    base_digest: str
    groups: Mapping[str, str] = field(default_factory=dict)
    """For each prompt's key that of its group of near-duplicates."""


def examine(
    signals: Sequence[Signal], base_digest: str, shares: Shares, bounds: FilterSettings
) -> Examined:
    """Look at all `signals`; their order does not matter."""
    comparisons, opinions, unusable = _read(signals, base_digest, bounds)
    aside = filters.set_aside(comparisons, opinions, bounds)
    everything: list[Comparison | Opinion] = [*comparisons, *opinions]
    said = [one for one in everything if one.feedback_id not in aside]
    where = sides(said, shares)
    held_out = {one.prompt_key for one in said if where[one.feedback_id] == "prompt"}
    like = likeness(prompts_of(said), held_out, bounds.max_resemblance)
    aside |= {
        one.feedback_id: NEAR_HELD_OUT
        for one in said
        if one.prompt_key in like.near_held_out and where[one.feedback_id] == "train"
    }
    kept = [one for one in said if one.feedback_id not in aside]
    return Examined(
        comparisons=tuple(one for one in kept if isinstance(one, Comparison)),
        opinions=tuple(one for one in kept if isinstance(one, Opinion)),
        sides={one.feedback_id: where[one.feedback_id] for one in kept},
        unusable=unusable,
        set_aside=aside,
        outvoted={
            s.id: Outcome(s.status, s.status_reason)
            for s in signals
            if s.status is FeedbackStatus.QUARANTINED
        },
        agreement=_agreement(comparisons, opinions),
        filters=bounds,
        shares=shares,
        base_digest=base_digest,
        groups=like.groups,
    )


def prompts_of(said: Iterable[Comparison | Opinion]) -> dict[str, Messages]:
    """By key, as the first signal has it."""
    latest_first = sorted(said, key=lambda one: one.feedback_id, reverse=True)
    return {one.prompt_key: one.prompt for one in latest_first}


def _read(
    signals: Sequence[Signal], base_digest: str, bounds: FilterSettings
) -> tuple[list[Comparison], list[Opinion], dict[str, Outcome]]:
    comparisons: list[Comparison] = []
    opinions: list[Opinion] = []
    unusable: dict[str, Outcome] = {}
    for signal in sorted(signals, key=lambda s: s.id):
        try:
            said = read(signal, base_digest)
            filters.check(said, bounds)
        except CantUse as error:
            unusable[signal.id] = error.outcome
            continue
        if isinstance(said, Comparison):
            comparisons.append(said)
        else:
            opinions.append(said)
    return comparisons, filters.centred(opinions, bounds.center_from), unusable


def _agreement(
    comparisons: Sequence[Comparison], opinions: Sequence[Opinion]
) -> dict[str, Agreement]:
    compared = agreement.of_comparisons(comparisons)
    judged = agreement.of_opinions(opinions)
    return {
        "comparisons": agreement.measure(_verdicts(compared), agreement.nominal),
        "opinions": agreement.measure(_verdicts(judged), agreement.interval),
    }


def _verdicts(items: Sequence[agreement.Judged]) -> list[list[float]]:
    return [[verdict for _, verdict in item] for item in items]
