"""Prompts: what people asked, for a policy that makes its own answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from learnback.ledger.prompts import opening_key, prompt_held_out
from learnback.retraining.datasets import duplicates
from learnback.retraining.datasets.examining import Examined, prompts_of
from learnback.retraining.datasets.reading import CantUse, Comparison, Opinion, Unusable, plain
from learnback.retraining.datasets.rows import PromptRow
from learnback.retraining.datasets.split import Shares
from learnback.retraining.settings import FilterSettings

Messages = Sequence[Mapping[str, Any]]


def build(
    asked: Iterable[tuple[str, Messages]], examined: Examined
) -> tuple[list[PromptRow], dict[str, int]]:
    """One row for each distinct prompt of `asked` (key, messages) that is plain text, without
    near-duplicates of each other and of prompts that are held out; and how many prompts were left
    out for which reason."""
    rows, left_out = _rows(asked, examined.shares, examined.filters)
    above = examined.filters.max_resemblance
    said: list[Comparison | Opinion] = [*examined.comparisons, *examined.opinions]
    everything = {**prompts_of(said), **{row.prompt_key: row.prompt for row in rows}}
    held_out = {one.prompt_key for one in said if examined.sides[one.feedback_id] == "prompt"}
    held_out |= {row.prompt_key for row in rows if row.side == "prompt"}
    like = duplicates.likeness(everything, held_out, above)
    far = [row for row in rows if row.prompt_key not in like.near_held_out]
    kept, _ = duplicates.distinct(far, like.groups, above)
    left_out[str(duplicates.NEAR_HELD_OUT.reason)] = len(rows) - len(far)
    left_out[str(duplicates.NEAR_DUPLICATE.reason)] = len(far) - len(kept)
    return kept, dict(+left_out)


def _rows(
    asked: Iterable[tuple[str, Messages]], shares: Shares, filters: FilterSettings
) -> tuple[list[PromptRow], Counter[str]]:
    found: dict[str, PromptRow] = {}
    unusable: dict[str, str] = {}
    for key, messages in asked:
        try:
            prompt = _usable(messages, filters)
        except CantUse as error:
            unusable[key] = error.reason.value
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
    return list(found.values()), Counter(why for key, why in unusable.items() if key not in found)


def _usable(messages: Messages, filters: FilterSettings) -> tuple[dict[str, str], ...]:
    """Raises CantUse."""
    prompt = plain(messages)
    if sum(len(message["content"]) for message in prompt) > filters.max_prompt_characters:
        raise CantUse(Unusable.PROMPT_TOO_LONG)
    return prompt
