"""Which side a word is on, for all shapes alike. Pure.

Split by prompt and by rater, never by row: a word is trained on only if neither its prompt nor its
rater is held out, so that the held-out rows ask about prompts (and partly people) never seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from learnback.core.settings import HELD_OUT_SHARE
from learnback.ledger.prompts import prompt_held_out, rater_held_out
from learnback.retraining.datasets.reading import Said

MIN_RATERS = 10
"""With fewer raters none is held out: a single one might be it, and nothing would ever train."""

Side = Literal["train", "prompt", "rater"]
"""`train`, or what keeps a row out of training."""


@dataclass(frozen=True)
class Shares:
    """How much is held out, of all prompts and of all raters."""

    prompts: float = HELD_OUT_SHARE
    raters: float = 0.1


def sides(said: Sequence[Said], shares: Shares) -> dict[str, Side]:
    """The side of each signal; whom we have learned from once is never held out later."""
    trained = {(one.tenant, one.rater) for one in said if one.trained}
    enough_raters = len({(one.tenant, one.rater) for one in said}) >= MIN_RATERS

    def side(one: Said) -> Side:
        if prompt_held_out(one.opening, shares.prompts):
            return "prompt"
        known = not enough_raters or (one.tenant, one.rater) in trained
        if not known and rater_held_out(one.tenant, one.rater, shares.raters):
            return "rater"
        return "train"

    return {one.feedback_id: side(one) for one in said}
