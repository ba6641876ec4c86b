"""Labels: whether people liked an answer, by thumbs, ratings, and what they preferred to what.

A comparison is two labels, as the authors of KTO make them of preferences (Ethayarajh et al. 2024,
arXiv:2402.01306, sec. 4.1): so a run on labels forgets no comparison. All that people say of one
answer to one prompt is one row.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from learnback.contracts.models import Preferred
from learnback.ledger.training import Outcome
from learnback.retraining.datasets.examining import Examined
from learnback.retraining.datasets.reading import Comparison, Opinion, Said, Text
from learnback.retraining.datasets.rows import LabelRow
from learnback.retraining.datasets.split import Side
from learnback.retraining.datasets.votes import (
    CONTRADICTED,
    DISAGREE,
    FEW_VOTES,
    HELD_OUT,
    NEUTRAL,
    TRAINED,
    independent,
    last_words,
    settled,
)
from learnback.retraining.settings import FilterSettings

MIN_WEIGHT = 0.1
"""Nearer to the middle than this an answer is neither good nor bad."""
RANKED = (TRAINED, HELD_OUT, FEW_VOTES, CONTRADICTED, DISAGREE, NEUTRAL)
"""Which outcome a comparison keeps whose two labels fare differently: the first one."""
Item = tuple[Side, str, str]
"""Side, prompt, text."""
Shaped = tuple[list[LabelRow], dict[str, Outcome]]


@dataclass(frozen=True)
class _Vote:
    """How good somebody finds an answer, from 0 to 1."""

    said: Said
    text: Text
    value: float


def build(examined: Examined) -> Shaped:
    """The rows, and what becomes of each signal; each speaks of one or two answers."""
    items: defaultdict[Item, list[_Vote]] = defaultdict(list)
    everything: list[Comparison | Opinion] = [*examined.comparisons, *examined.opinions]
    for said in everything:
        for vote in _votes(said):
            side = examined.sides[said.feedback_id]
            items[side, said.prompt_key, vote.text.key].append(vote)
    rows: list[LabelRow] = []
    outcomes: dict[str, Outcome] = {}
    for item, votes in items.items():
        row, became = _judge(item, votes, examined.filters)
        rows += [row] if row else []
        for feedback_id, outcome in became.items():
            known = outcomes.get(feedback_id, outcome)
            outcomes[feedback_id] = min(known, outcome, key=RANKED.index)
    return rows, outcomes


def _votes(said: Comparison | Opinion) -> Iterator[_Vote]:
    if isinstance(said, Opinion):
        yield _Vote(said, said.answer, said.value)
        return
    up, down = 0.5 + said.strength / 2, 0.5 - said.strength / 2
    chosen, rejected = {
        None: (up, down),
        Preferred.TIE_GOOD: (up, up),
        Preferred.TIE_BAD: (down, down),
    }[said.tie]
    yield _Vote(said, said.chosen, chosen)
    yield _Vote(said, said.rejected, rejected)


def _judge(
    item: Item, votes: Sequence[_Vote], filters: FilterSettings
) -> tuple[LabelRow | None, dict[str, Outcome]]:
    """One answer."""
    words = _last(votes)
    corrected = any(isinstance(v.said, Comparison) and v.said.correction for v in words)
    if independent([v.said for v in words]) < filters.min_votes and not corrected:
        return None, {v.said.feedback_id: FEW_VOTES for v in votes}
    mean = sum(sorted(v.value for v in words)) / len(words)
    label, weight = mean > 0.5, round(2 * abs(mean - 0.5), 6)
    share = sum(_agrees(v, label=label) for v in words) / len(words)
    if weight < MIN_WEIGHT or share < filters.min_item_agreement:
        split = {_agrees(v, label=True) for v in words if v.value != 0.5}
        why = DISAGREE if weight >= MIN_WEIGHT else CONTRADICTED if len(split) == 2 else NEUTRAL
        return None, {v.said.feedback_id: why for v in votes}
    agreed = [v for v in votes if _agrees(v, label=label) and not v.said.outvoted]
    became = {v.said.feedback_id: _otherwise(v) for v in votes}
    became |= {v.said.feedback_id: settled(item[0]) for v in agreed}
    return (_row(item, agreed, label, weight) if agreed else None), became


def _last(votes: Sequence[_Vote]) -> list[_Vote]:
    by_id = {v.said.feedback_id: v for v in votes}
    return [by_id[said.feedback_id] for said in last_words([v.said for v in votes])]


def _agrees(vote: _Vote, *, label: bool) -> bool:
    return vote.value > 0.5 if label else vote.value < 0.5


def _otherwise(vote: _Vote) -> Outcome:
    """Of a vote that is not with the others."""
    return NEUTRAL if vote.value == 0.5 else CONTRADICTED


def _row(item: Item, agreed: Sequence[_Vote], label: bool, weight: float) -> LabelRow:
    first = min((v.said for v in agreed), key=lambda s: json.dumps(s.prompt, sort_keys=True))
    return LabelRow(
        feedback_ids=tuple(sorted(v.said.feedback_id for v in agreed)),
        prompt=first.prompt,
        prompt_key=item[1],
        completion=min(v.text.text for v in agreed),
        label=label,
        finished=all(v.text.finished for v in agreed),
        weight=weight,
        side=item[0],
    )
