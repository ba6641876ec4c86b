"""What says nothing new: the same again by one rater, rows that nearly repeat another one, and
prompts that are nearly those that are held out. Pure.

Near-duplicates make a model learn by heart, and held-out figures better than they are (Lee et al.
2022, "Deduplicating training data makes language models better", arXiv:2107.06499).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field

from learnback.contracts.models import FeedbackStatus
from learnback.ledger.training import Outcome
from learnback.retraining.datasets.reading import Comparison, Opinion
from learnback.retraining.datasets.resemblance import Document, alike, grouped, repeats
from learnback.retraining.datasets.rows import PreferenceRow, R, Row

Messages = Sequence[Mapping[str, str]]

DUPLICATE = Outcome(FeedbackStatus.ACCEPTED, "duplicate")
"""Its rater said the same of the same texts again, later: that word counts until it is taken
back."""
NEAR_DUPLICATE = Outcome(FeedbackStatus.ACCEPTED, "near_duplicate")
"""Another row of this dataset says nearly the same."""
NEAR_HELD_OUT = Outcome(FeedbackStatus.ACCEPTED, "near_held_out")
"""Its prompt is nearly one that is held out."""


def said_again(said: Sequence[Comparison | Opinion]) -> set[str]:
    """Signals after which the same rater said the same of the same texts again, by feedback id."""
    latest: dict[tuple[object, ...], str] = {}
    for one in sorted(said, key=lambda s: (s.received_at, s.feedback_id)):
        latest[*one.voice, one.prompt_key, *_verdict(one)] = one.feedback_id
    return {one.feedback_id for one in said} - set(latest.values())


def _verdict(said: Comparison | Opinion) -> tuple[object, ...]:
    texts = tuple(text.key for text in said.texts)
    if isinstance(said, Opinion):
        return (*texts, said.value, said.rating)
    return (*texts, said.tie, said.correction)


@dataclass(frozen=True)
class Likeness:
    """Which prompts are nearly the same."""

    groups: Mapping[str, str] = field(default_factory=dict)
    """For each prompt's key that of its group: rows of different groups are never alike."""
    near_held_out: frozenset[str] = frozenset()
    """Keys of prompts that are not held out, but like one that is."""


def likeness(prompts: Mapping[str, Messages], held_out: Set[str], above: float) -> Likeness:
    """Of prompts by their keys; where everything may be alike, nothing is."""
    if above >= 1:
        return Likeness()
    keys = [*sorted(held_out), *sorted(prompts.keys() - held_out)]
    found = grouped([_asked(prompts[key]) for key in keys], above, first=len(held_out))
    return Likeness(
        groups={key: keys[group] for key, group in zip(keys, found.of, strict=True)},
        near_held_out=frozenset(keys[place] for place in found.near_first),
    )


def distinct(
    rows: Sequence[R], group_of: Mapping[str, str], above: float
) -> tuple[list[R], dict[str, Outcome]]:
    """The rows without those that nearly repeat another one of their side, and what becomes of the
    signals that speak for none any more. Of near ones that is kept for which most signals speak."""
    by_group: defaultdict[str, list[R]] = defaultdict(list)
    for row in rows:
        by_group[group_of.get(row.prompt_key, row.prompt_key)].append(row)
    kept: list[R] = []
    gone: list[R] = []
    for group in by_group.values():
        if len(group) == 1 or above >= 1:
            kept += group
            continue
        ranked = sorted(group, key=lambda row: (-len(row.feedback_ids), row.canonical))
        near = _near(ranked, above)
        kept += [row for i, row in enumerate(ranked) if i not in near]
        gone += [ranked[i] for i in near]
    speaking = {i for row in kept for i in row.feedback_ids}
    return kept, {i: NEAR_DUPLICATE for row in gone for i in row.feedback_ids if i not in speaking}


def _near(ranked: Sequence[Row], above: float) -> set[int]:
    places = [i for i, row in enumerate(ranked) if not _fine(row, above)]
    found = repeats([_document(ranked[i]) for i in places], above)
    return {places[i] for i in found}


def _fine(row: Row, above: float) -> bool:
    """Whether a pair's own answers are alike: what it teaches is finer than what is measured here,
    and another one like it may teach the opposite."""
    return isinstance(row, PreferenceRow) and alike((row.chosen,), (row.rejected,), above)


def _document(row: Row) -> Document:
    """What may tell it from others, the shortest first; numbers may differ."""
    own = [getattr(row, name) for name in row.columns]
    flags = [str(value) for value in own if isinstance(value, bool)]
    texts = [value for value in own if isinstance(value, str)]
    return (row.side, *flags, *_asked(row.prompt), *texts)


def _asked(prompt: Messages) -> Document:
    roles = " ".join(message["role"] for message in prompt)
    return (roles, *(message["content"] for message in prompt))
