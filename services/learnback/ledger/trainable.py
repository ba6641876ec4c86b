"""Which signals a training method uses, and why the others are only kept."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from learnback.contracts.models import FeedbackKind, Preferred

UNUSED = {
    FeedbackKind.THUMBS: "no training method uses thumbs yet",
    FeedbackKind.RATING: "no training method uses ratings yet",
    FeedbackKind.COMMENT: "no training method uses comments",
    FeedbackKind.OUTCOME: "no training method uses outcomes yet",
}
TIES = frozenset({Preferred.TIE_GOOD, Preferred.TIE_BAD})


def trainable(kind: FeedbackKind, body: Mapping[str, Any]) -> str | None:
    """None if a training method uses such a signal; otherwise the reason why none does."""
    if kind is FeedbackKind.PREFERENCE and body.get("preferred") in TIES:
        return "no training method uses ties: neither answer was preferred"
    return UNUSED.get(kind)
