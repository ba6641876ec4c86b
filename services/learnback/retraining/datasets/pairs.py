"""Pairs: what people compared, and answers to one prompt of which they liked one clearly better.

People who compared the same two answers are one row. A pair of single opinions is made only where
nobody compared the two, and each answer stands in at most one such pair, so that no thumb counts
twice.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from learnback.ledger.training import Outcome
from learnback.retraining.datasets.examining import Examined
from learnback.retraining.datasets.reading import Comparison, Opinion
from learnback.retraining.datasets.rows import PreferenceRow
from learnback.retraining.datasets.split import Side
from learnback.retraining.datasets.votes import (
    ANOTHER_METHOD,
    CONTRADICTED,
    DISAGREE,
    FEW_VOTES,
    NO_MAJORITY,
    independent,
    last_words,
    settled,
)
from learnback.retraining.settings import FilterSettings

TIE = "tie"
Item = tuple[Side, str, frozenset[str]]
"""Side, prompt, and the two texts."""
Shaped = tuple[list[PreferenceRow], dict[str, Outcome]]


def build(examined: Examined, *, ties: bool) -> Shaped:
    """The rows, and what becomes of each signal that speaks of one. Without `ties` those wait."""
    items: defaultdict[Item, list[Comparison]] = defaultdict(list)
    for one in examined.comparisons:
        texts = frozenset(text.key for text in one.texts)
        items[examined.sides[one.feedback_id], one.prompt_key, texts].append(one)
    rows: list[PreferenceRow] = []
    outcomes: dict[str, Outcome] = {}
    for (side, *_), comparisons in items.items():
        row, became = _compared(comparisons, side, examined.filters, ties=ties)
        rows += [row] if row else []
        outcomes |= became
    liked, became = _liked(examined, set(items))
    return [*rows, *liked], outcomes | became


def _compared(
    comparisons: Sequence[Comparison], side: Side, filters: FilterSettings, *, ties: bool
) -> tuple[PreferenceRow | None, dict[str, Outcome]]:
    """One item that people compared."""
    words = last_words(comparisons)
    corrected = any(one.correction for one in words)
    if independent(words) < filters.min_votes and not corrected:
        return None, {one.feedback_id: FEW_VOTES for one in comparisons}
    winner = _winner(words)
    share = sum(_choice(one) == winner for one in words) / len(words)
    if winner is None or share <= 0.5 or share < filters.min_item_agreement:
        why = CONTRADICTED if winner is None else NO_MAJORITY if share <= 0.5 else DISAGREE
        return None, {one.feedback_id: why for one in comparisons}
    agreed = [one for one in comparisons if _choice(one) == winner and not one.outvoted]
    useful = bool(agreed) and (ties or winner != TIE)
    outcome = settled(side) if useful else ANOTHER_METHOD
    became = {one.feedback_id: CONTRADICTED for one in comparisons}
    became |= {one.feedback_id: outcome for one in agreed}
    return (_row(agreed, words, side) if useful else None), became


def _choice(one: Comparison) -> str:
    """What a comparison votes for: the better text, with a mark that no text can fake."""
    return TIE if one.tie else f"={one.chosen.key}"


def _winner(words: Sequence[Comparison]) -> str | None:
    """What most raters say; None if as many say something else."""
    ranked = Counter(_choice(one) for one in words).most_common(2)
    if len(ranked) == 2 and ranked[0][1] == ranked[1][1]:
        return None
    return ranked[0][0]


def _row(agreed: Sequence[Comparison], words: Sequence[Comparison], side: Side) -> PreferenceRow:
    winners = [one for one in words if _choice(one) == _choice(agreed[0])]
    ahead = 2 * len(winners) - len(words)
    tie = agreed[0].tie is not None
    strength = sum(sorted(one.strength for one in winners)) / len(winners)
    first = min(agreed, key=lambda c: (json.dumps(c.prompt, sort_keys=True), c.feedback_id))
    return PreferenceRow(
        feedback_ids=tuple(sorted(one.feedback_id for one in agreed)),
        prompt=first.prompt,
        prompt_key=first.prompt_key,
        chosen=first.chosen.text,
        rejected=first.rejected.text,
        margin=0.0 if tie else round(strength * ahead / len(words), 6),
        votes=ahead,
        chosen_finished=all(one.chosen.finished for one in agreed),
        rejected_finished=all(one.rejected.finished for one in agreed),
        tie=tie,
        side=side,
    )


@dataclass(frozen=True)
class _Answer:
    """An answer with all opinions of it."""

    key: str
    opinions: tuple[Opinion, ...]
    votes: int
    value: float

    @property
    def text(self) -> str:
        """As it was given."""
        return min(one.answer.text for one in self.opinions)

    @property
    def finished(self) -> bool:
        """Whether no rater saw it cut off."""
        return all(one.answer.finished for one in self.opinions)


def _liked(examined: Examined, compared: set[Item]) -> Shaped:
    """Pairs of answers that raters judged one by one."""
    prompts: defaultdict[tuple[Side, str], defaultdict[str, list[Opinion]]] = defaultdict(
        lambda: defaultdict(list)
    )
    for one in examined.opinions:
        prompts[examined.sides[one.feedback_id], one.prompt_key][one.answer.key].append(one)
    rows: list[PreferenceRow] = []
    outcomes: dict[str, Outcome] = {}
    for (side, key), answers in prompts.items():
        judged = [_answer(text, opinions) for text, opinions in answers.items()]
        enough = [a for a in judged if independent(a.opinions) >= examined.filters.min_votes]
        for better, worse in _apart(enough, examined.filters.min_gap):
            if (side, key, frozenset((better.key, worse.key))) in compared:
                continue
            row = _liked_row(better, worse, side)
            if not row.feedback_ids:
                continue
            rows.append(row)
            for one in (*better.opinions, *worse.opinions):
                speaks = one.feedback_id in row.feedback_ids
                outcomes[one.feedback_id] = settled(side) if speaks else CONTRADICTED
    return rows, outcomes


def _answer(key: str, opinions: Sequence[Opinion]) -> _Answer:
    words = last_words(opinions)
    value = sum(sorted(one.value for one in words)) / len(words)
    return _Answer(key, tuple(opinions), len(words), value)


def _apart(answers: Sequence[_Answer], gap: float) -> list[tuple[_Answer, _Answer]]:
    """(better, worse): the best with the worst, the next with the next, while clearly apart.

    Equals are taken by text on both sides, so that turned words give the turned pairs.
    """
    half = len(answers) // 2
    best = sorted(answers, key=lambda a: (-a.value, a.key))[:half]
    worst = sorted(answers, key=lambda a: (a.value, a.key))[:half]
    pairs = zip(best, worst, strict=True)
    return [(better, worse) for better, worse in pairs if better.value - worse.value >= gap]


def _liked_row(better: _Answer, worse: _Answer, side: Side) -> PreferenceRow:
    speaking = [one for one in better.opinions if one.value > worse.value]
    speaking += [one for one in worse.opinions if one.value < better.value]
    first = min(better.opinions, key=lambda o: json.dumps(o.prompt, sort_keys=True))
    return PreferenceRow(
        feedback_ids=tuple(sorted(one.feedback_id for one in speaking if not one.outvoted)),
        prompt=first.prompt,
        prompt_key=first.prompt_key,
        chosen=better.text,
        rejected=worse.text,
        margin=round(better.value - worse.value, 6),
        votes=min(better.votes, worse.votes),
        chosen_finished=better.finished,
        rejected_finished=worse.finished,
        side=side,
    )
