"""Prompts: what people asked, for a policy that makes its own answers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from learnback.ledger.prompts import opening_key, prompt_held_out
from learnback.retraining.datasets import duplicates
from learnback.retraining.datasets.examining import Examined, prompts_of
from learnback.retraining.datasets.reading import CantUse, Comparison, Opinion, plain
from learnback.retraining.datasets.rows import PromptRow
from learnback.retraining.datasets.split import Shares
from learnback.retraining.settings import FilterSettings

Messages = Sequence[Mapping[str, Any]]


def build(asked: Iterable[tuple[str, Messages]], examined: Examined) -> list[PromptRow]:
    """One row for each distinct prompt of `asked` (key, messages) that is plain text, without
    near-duplicates of each other and of prompts that are held out."""
    rows = _rows(asked, examined.shares, examined.filters)
    above = examined.filters.max_resemblance
    said: list[Comparison | Opinion] = [*examined.comparisons, *examined.opinions]
    everything = {**prompts_of(said), **{row.prompt_key: row.prompt for row in rows}}
    held_out = {one.prompt_key for one in said if examined.sides[one.feedback_id] == "prompt"}
    held_out |= {row.prompt_key for row in rows if row.side == "prompt"}
    like = duplicates.likeness(everything, held_out, above)
    far = [row for row in rows if row.prompt_key not in like.near_held_out]
    return duplicates.distinct(far, like.groups, above)[0]


def _rows(
    asked: Iterable[tuple[str, Messages]], shares: Shares, filters: FilterSettings
) -> list[PromptRow]:
    found: dict[str, PromptRow] = {}
    for key, messages in asked:
        try:
            prompt = plain(messages)
        except CantUse:
            continue
        if sum(len(message["content"]) for message in prompt) > filters.max_prompt_characters:
            continue
        row = PromptRow(
            feedback_ids=(),
            prompt=prompt,
            prompt_key=key,
            side="prompt"
            if prompt_held_out(opening_key(key, messages), shares.prompts)
            else "train",
        )
        known = found.get(key)
        if known is None or row.canonical < known.canonical:
            found[key] = row
    return list(found.values())
