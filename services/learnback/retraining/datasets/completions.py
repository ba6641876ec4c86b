"""Completions to imitate: what raters wrote themselves, and answers that several rated highest."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence

from learnback.ledger.training import Outcome
from learnback.retraining.datasets.examining import Examined
from learnback.retraining.datasets.reading import Comparison, Opinion, Said, Text
from learnback.retraining.datasets.rows import DemonstrationRow
from learnback.retraining.datasets.split import Side
from learnback.retraining.datasets.votes import CONTRADICTED, independent, last_words, settled

Item = tuple[Side, str, str]
"""Side, prompt, text."""
Shaped = tuple[list[DemonstrationRow], dict[str, Outcome]]


def build(examined: Examined) -> Shaped:
    """The rows, and what becomes of each signal that speaks of one."""
    written: defaultdict[Item, list[Comparison]] = defaultdict(list)
    judged: defaultdict[Item, list[tuple[Said, Text, float]]] = defaultdict(list)
    for one in examined.comparisons:
        if one.correction:
            side = examined.sides[one.feedback_id]
            if not one.outvoted:
                written[side, one.prompt_key, one.chosen.key].append(one)
            judged[side, one.prompt_key, one.rejected.key].append((one, one.rejected, 0.0))
    for opinion in examined.opinions:
        item = (examined.sides[opinion.feedback_id], opinion.prompt_key, opinion.answer.key)
        judged[item].append((opinion, opinion.answer, opinion.value))
    rows = [_row(item, [(c, c.chosen) for c in said], 1.0) for item, said in written.items()]
    outcomes = {c.feedback_id: settled(i[0]) for i, said in written.items() for c in said}
    for item, opinions in judged.items():
        mean = _mean(opinions)
        voters = independent([said for said, *_ in opinions])
        enough = voters >= examined.filters.min_top_votes and mean >= examined.filters.top
        if not enough or item in written:
            continue
        for_it = [(s, text) for s, text, value in opinions if value > 0.5 and not s.outvoted]
        if not for_it:
            continue
        rows.append(_row(item, for_it, round(mean, 6)))
        winners = {said.feedback_id for said, _ in for_it}
        for said, *_ in opinions:
            if isinstance(said, Opinion):
                speaks = said.feedback_id in winners
                outcomes[said.feedback_id] = settled(item[0]) if speaks else CONTRADICTED
    return rows, outcomes


def _mean(opinions: Sequence[tuple[Said, Text, float]]) -> float:
    values = {said.feedback_id: value for said, _, value in opinions}
    words = last_words([said for said, *_ in opinions])
    return sum(sorted(values[one.feedback_id] for one in words)) / len(words)


def _row(item: Item, said: Sequence[tuple[Said, Text]], weight: float) -> DemonstrationRow:
    first = min((one for one, _ in said), key=lambda s: json.dumps(s.prompt, sort_keys=True))
    return DemonstrationRow(
        feedback_ids=tuple(sorted(one.feedback_id for one, _ in said)),
        prompt=first.prompt,
        prompt_key=item[1],
        completion=min(text.text for _, text in said),
        finished=all(text.finished for _, text in said),
        weight=weight,
        side=item[0],
    )
