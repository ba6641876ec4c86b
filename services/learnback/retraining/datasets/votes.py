"""Who said what of one item: last words, independence, sides. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

from learnback.contracts.models import FeedbackStatus
from learnback.ledger.training import Outcome
from learnback.retraining.datasets.reading import Said

S = TypeVar("S", bound=Said)

TRAINED, HELD_OUT = Outcome(FeedbackStatus.TRAINED), Outcome(FeedbackStatus.HELD_OUT)
CONTRADICTED = Outcome(FeedbackStatus.QUARANTINED, "contradicted")
"""More others, or as many, said the opposite of the same answers."""
DISAGREE = Outcome(FeedbackStatus.QUARANTINED, "raters_disagree")
"""Too few of those who judged the same answers agree (`min_item_agreement`)."""
NO_MAJORITY = Outcome(FeedbackStatus.ACCEPTED, "no_majority")
"""More say this than anything else, but no more than all else together: one more voice decides."""
NEUTRAL = Outcome(FeedbackStatus.ACCEPTED, "neutral")
"""Neither good nor bad: no label. It waits, since beside another answer it may say something."""
FEW_VOTES = Outcome(FeedbackStatus.ACCEPTED, "too_few_votes")
ANOTHER_METHOD = Outcome(FeedbackStatus.ACCEPTED, "waits_for_another_method")
"""The run's method can't learn from it; a later run by another one may."""


def last_words(said: Iterable[S]) -> list[S]:
    """The latest word of each rater; a signal without rater stands for itself."""
    last: dict[tuple[str, str, str], S] = {}
    for one in sorted(said, key=lambda s: (s.received_at, s.feedback_id)):
        last[one.voice] = one
    return list(last.values())


def independent(said: Sequence[Said]) -> int:
    """How many people there are for certain: those without id might all be one."""
    named = {(one.tenant, one.rater) for one in said if one.rater}
    return len(named) + any(not one.rater for one in said)


def settled(side: str) -> Outcome:
    """What becomes of a signal whose row is on that side of the split."""
    return TRAINED if side == "train" else HELD_OUT
