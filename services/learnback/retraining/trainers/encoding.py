"""From rows to tokens: what can be trained on, and why the rest can't. Nothing is ever cut."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from jinja2 import TemplateError

from learnback.retraining.plan import RunPlan
from learnback.retraining.trainers.failures import BadData
from learnback.retraining.trainers.loading import context_of, end_tokens, generation_of
from learnback.retraining.trainers.rows import Messages, Row

ROLES = {"system", "developer", "user", "assistant", "tool"}


class Skip(Exception):
    """A row can't be trained on; the message is the reason that is counted."""


class Encoded(NamedTuple):
    """A prompt and an answer to it, as token ids."""

    prompt_ids: list[int]
    answer_ids: list[int]


class Answer(NamedTuple):
    """An answer's text, and whether it ended by itself."""

    text: str
    finished: bool


class Usable(NamedTuple):
    """A row that can be trained on, with its answers as tokens."""

    row: Any
    answers: list[Encoded]


@dataclass
class Skipped:
    """The rows that were left out."""

    counts: Counter[str] = field(default_factory=Counter)
    reasons: dict[str, str] = field(default_factory=dict)
    """By feedback id."""

    def add(self, feedback_id: str, reason: str) -> None:
        """Leave a row out; what a kept twin of it taught is not lost."""
        self.counts[reason] += 1
        if feedback_id and reason != "duplicate":
            self.reasons[feedback_id] = reason


@dataclass(frozen=True)
class Encoder:
    """Turns chats into tokens by the base model's template, up to `limit` tokens."""

    tokenizer: Any
    limit: int
    ends: frozenset[int] = frozenset()
    """The tokens that end an answer."""

    @classmethod
    def of(cls, plan: RunPlan, tokenizer: Any) -> Encoder:
        """For a plan: no longer than it says, and no longer than the base model can see."""
        limit = min(plan.hyperparameters.max_length, context_of(plan.base_model))
        ends = end_tokens(generation_of(plan.base_model), tokenizer)
        return cls(tokenizer, limit, ends)

    def encode(self, prompt: Messages, answer: Answer) -> Encoded:
        """The answer begins where the tokens of prompt and whole part. Raises Skip."""
        if not answer.text.strip():
            raise Skip("empty")
        asked = self.question(prompt)
        whole = self._ids([*prompt, {"role": "assistant", "content": answer.text}])
        if len(whole) > self.limit:
            raise Skip("too_long")
        start = _common_prefix(asked, whole)
        ids = whole[start:]
        if not answer.finished:
            ids = without_false_end(ids, self.ends)
        return Encoded(asked[:start], ids)

    def question(self, prompt: Messages) -> list[int]:
        """A prompt up to where the answer begins. Raises Skip."""
        if any(message["role"] not in ROLES for message in prompt):
            raise Skip("unknown_role")
        asked = self._ids(prompt, add_generation_prompt=True)
        if len(asked) >= self.limit:
            raise Skip("prompt_too_long")
        return asked

    def _ids(self, messages: Messages, *, add_generation_prompt: bool = False) -> list[int]:
        try:
            text = self.tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=add_generation_prompt
            )
        except TemplateError as error:
            raise Skip("refused_by_template") from error
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])


def select(
    rows: Sequence[Row],
    encoder: Encoder,
    answers: Callable[[Row], Sequence[Answer]],
    refuse: Callable[[Row], str | None],
) -> tuple[list[Usable], Skipped]:
    """The rows that can be trained on, and what was left out for which reason.

    ``answers`` are a row's own; ``refuse`` names the reason of its method against it. Raises
    BadData if none is left.
    """
    usable: list[Usable] = []
    skipped = Skipped()
    seen: set[str] = set()
    for row in rows:
        key = repr(row._replace(feedback_id=""))
        try:
            if reason := "duplicate" if key in seen else refuse(row):
                raise Skip(reason)
            usable.append(Usable(row, [encoder.encode(row.prompt, a) for a in answers(row)]))
            seen.add(key)
        except Skip as reason_to_skip:
            skipped.add(row.feedback_id, str(reason_to_skip))
    if rows and not usable:
        counts = dict(skipped.counts)
        raise BadData(f"no row can be trained on: {len(rows)} in the dataset, skipped {counts}")
    return usable, skipped


def without_false_end(ids: list[int], ends: frozenset[int]) -> list[int]:
    """Take the end-of-turn token (and what the template puts after it) off an answer that was
    cut by its token limit: it must not be taught to end there.
    """
    places = [i for i, token in enumerate(ids) if token in ends]
    return ids[: places[-1]] if places else ids


def padded(sequences: Sequence[Encoded], pad_token_id: int) -> dict[str, torch.Tensor]:
    """input_ids, attention_mask and completion_mask, each (rows, seq), filled up at the right."""
    width = max(len(prompt) + len(answer) for prompt, answer in sequences)
    ids = torch.full((len(sequences), width), pad_token_id)
    attention = torch.zeros((len(sequences), width), dtype=torch.long)
    completion = torch.zeros((len(sequences), width), dtype=torch.long)
    for i, (prompt, answer) in enumerate(sequences):
        length = len(prompt) + len(answer)
        ids[i, :length] = torch.tensor(prompt + answer)
        attention[i, :length] = 1
        completion[i, len(prompt) : length] = 1
    return {"input_ids": ids, "attention_mask": attention, "completion_mask": completion}


def column(examples: Iterable[Mapping[str, Any]], name: str) -> torch.Tensor:
    """One number of every example: (rows,)."""
    return torch.tensor([example[name] for example in examples], dtype=torch.float)


def _common_prefix(one: Sequence[int], other: Sequence[int]) -> int:
    for i, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return i
    return min(len(one), len(other))
