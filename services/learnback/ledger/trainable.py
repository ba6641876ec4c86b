"""Which signals a training method uses, and why the others are only kept."""

from __future__ import annotations

from learnback.contracts.models import FeedbackKind

TRAINABLE = (
    FeedbackKind.PREFERENCE,
    FeedbackKind.CORRECTION,
    FeedbackKind.THUMBS,
    FeedbackKind.RATING,
)
"""Kinds that say how good an answer is, or which of two is better, or that neither is."""
UNUSED = {
    FeedbackKind.COMMENT: "no training method uses comments",
    FeedbackKind.OUTCOME: "no training method uses outcomes yet",
}


def trainable(kind: FeedbackKind) -> str | None:
    """None if a training method uses such a signal; otherwise the reason why none does."""
    return UNUSED.get(kind)
