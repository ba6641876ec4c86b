"""A dataset for one method: its rows in a fixed order, and what becomes of every signal. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from learnback.contracts.models import FeedbackStatus
from learnback.core.ids import digest_text
from learnback.ledger.training import Outcome
from learnback.retraining.datasets import completions, duplicates, labels, pairs, prompts
from learnback.retraining.datasets.examining import Examined
from learnback.retraining.datasets.rows import (
    DemonstrationRow,
    LabelRow,
    PreferenceRow,
    PromptRow,
    R,
    Row,
)
from learnback.retraining.datasets.votes import ANOTHER_METHOD
from learnback.retraining.hyperparameters import Method

Asked = Iterable[tuple[str, prompts.Messages]]
"""Prompts of stored completions, with their keys."""
ROWS: dict[Method, type[Row]] = {
    "sft": DemonstrationRow,
    "dpo": PreferenceRow,
    "reward_model": PreferenceRow,
    "kto": LabelRow,
    "rloo": PromptRow,
}


@dataclass(frozen=True)
class Dataset:
    """What a method learns from, and what becomes of every signal that was looked at.

    An outcome with the status `accepted` is none yet: the signal waits, for its reason.
    """

    method: Method
    train: tuple[Row, ...]
    held_out: tuple[Row, ...]
    outcomes: Mapping[str, Outcome]
    fingerprint: str
    examined: Examined
    prompts_left_out: Mapping[str, int] = field(default_factory=dict)
    """Of a policy that answers by itself: prompts that it is not asked, by reason."""

    @property
    def counts(self) -> dict[str, int]:
        """Signals by outcome and reason; they add up to the number looked at."""
        return dict(Counter(o.reason or o.status.value for o in self.outcomes.values()))

    @cached_property
    def pairs(self) -> list[PreferenceRow]:
        """Of both sides, in a fixed order: the reward model is fitted to them and judged by them,
        whatever the method."""
        compared, _ = _distinct(self.examined, pairs.build(self.examined, ties=False))
        return sorted(compared, key=lambda row: row.canonical)

    @property
    def judging(self) -> list[PreferenceRow]:
        """Pairs of held-out prompts, to which no reward model is fitted."""
        return [row for row in self.pairs if row.side == "prompt"]

    def paid_by(self, reward_model: str) -> Dataset:
        """The same for a policy that is paid by a reward model: what comes of it depends on that
        version too, and on the pairs by which its checkpoint is picked.
        """
        parts = self.fingerprint, reward_model, fingerprint(self.judging)
        return replace(self, fingerprint=digest_text("\n".join(parts)))

    @property
    def settled(self) -> dict[str, Outcome]:
        """The outcomes of signals that do not wait any longer."""
        waits = FeedbackStatus.ACCEPTED
        return {i: o for i, o in self.outcomes.items() if o.status != waits}


def build(examined: Examined, method: Method, asked: Asked = ()) -> Dataset:
    """The dataset of `method`; `asked` are prompts for a policy that answers by itself."""
    rows, outcomes, left_out = _shaped(examined, method, asked)
    ordered = sorted(rows, key=lambda row: row.canonical)
    said = (*examined.comparisons, *examined.opinions)
    waiting = {one.feedback_id: ANOTHER_METHOD for one in said}
    return Dataset(
        method=method,
        train=tuple(row for row in ordered if row.side == "train"),
        held_out=tuple(row for row in ordered if row.side != "train"),
        outcomes={
            **waiting,
            **examined.unusable,
            **examined.set_aside,
            **outcomes,
            **examined.outvoted,
        },
        fingerprint=fingerprint(ordered),
        examined=examined,
        prompts_left_out=left_out,
    )


def _shaped(
    examined: Examined, method: Method, asked: Asked
) -> tuple[Sequence[Row], dict[str, Outcome], dict[str, int]]:
    """Rows, outcomes of signals, and prompts that were left out."""
    if method == "rloo":
        found, left_out = prompts.build(asked, examined)
        return found, {}, left_out
    if method == "sft":
        return *_distinct(examined, completions.build(examined)), {}
    if method == "kto":
        return *_distinct(examined, labels.build(examined)), {}
    return *_distinct(examined, pairs.build(examined, ties=method == "reward_model")), {}


def _distinct(
    examined: Examined, shaped: tuple[list[R], dict[str, Outcome]]
) -> tuple[list[R], dict[str, Outcome]]:
    rows, outcomes = shaped
    above = examined.filters.max_resemblance
    kept, repeating = duplicates.distinct(rows, examined.groups, above)
    return kept, outcomes | repeating


def fingerprint(rows: Iterable[Row]) -> str:
    """SHA-256 over the rows' contents; their order and who said so do not matter."""
    lines = sorted(row.canonical for row in rows)
    return digest_text("\n".join(lines))
