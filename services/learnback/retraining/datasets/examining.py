"""What all signals together say, read, sifted and split once for all shapes. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from learnback.contracts.models import FeedbackStatus
from learnback.ledger.training import Outcome, Signal
from learnback.retraining.datasets import agreement, filters
from learnback.retraining.datasets.agreement import Agreement
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


def examine(
    signals: Sequence[Signal], base_digest: str, shares: Shares, bounds: FilterSettings
) -> Examined:
    """Look at all `signals`; their order does not matter."""
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
    opinions = filters.centred(opinions, bounds.center_from)
    aside = filters.set_aside(comparisons, opinions, bounds)
    kept = tuple(c for c in comparisons if c.feedback_id not in aside)
    kept_opinions = tuple(o for o in opinions if o.feedback_id not in aside)
    return Examined(
        comparisons=kept,
        opinions=kept_opinions,
        sides=sides([*kept, *kept_opinions], shares),
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
    )


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
