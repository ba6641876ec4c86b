"""Which examples a prompt gets: picked for it, and as many as the context has room for. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import msgspec

from learnback.models.example_bank import Entry, system_key
from learnback.models.retrieval import Index
from learnback.models.strategy import Strategy

Fields = Mapping[str, msgspec.Raw]

ASSUMED_CONTEXT = 2048
"""Tokens, for an engine that does not say how many it holds."""
TEMPLATE = 64
"""Tokens that a chat template may put around a prompt, its own system text among them."""
TURN = 16
"""Tokens that a chat template may put around one message."""
ANSWER_SHARE = 4
"""A caller who names no limit gets a quarter of the context for the answer."""


class Skipped(StrEnum):
    """Why a strategy, or a part of it, was not applied."""

    NO_PROMPT = "no_prompt"
    """There is no text that it could be put around, such as with token ids."""
    ECHO = "echo"
    TOOLS = "tools"
    """Examples in plain words would teach the model not to call tools. Only the system text is
    put in."""
    STRUCTURED_OUTPUT = "structured_output"
    """As with tools."""
    NOT_TEXT = "not_text"
    """An image takes nobody knows how much of the context, so no example is shown."""
    CONTINUED = "continued"
    """The engine puts the conversation so far before what was sent: examples would stand in its
    middle."""
    NO_EXAMPLES = "no_examples"
    """The tenant has none under this system text."""
    NO_ROOM = "no_room"
    """The context holds the prompt and the answer, and no example besides."""


@dataclass(frozen=True, slots=True)
class Prompter:
    """A strategy that is ready to be applied."""

    strategy: Strategy
    index: Index | None = None


@dataclass(frozen=True, slots=True)
class Applied:
    """What a strategy makes of a request: the fields that change, and what was shown."""

    changed: dict[str, Any] = field(default_factory=dict)
    examples: tuple[str, ...] = ()
    """Ids of the bank's entries that are shown."""
    left_out: int = 0
    """Examples that were picked and did not fit."""
    skipped: Skipped | None = None


@dataclass(frozen=True, slots=True)
class Shown:
    """Examples as (user, assistant), in the order in which they stand in the prompt."""

    turns: list[tuple[str, str]] = field(default_factory=list)
    ids: tuple[str, ...] = ()
    left_out: int = 0
    skipped: Skipped | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """One request on its way through a strategy."""

    prompter: Prompter
    fields: Fields
    tenant: str
    context: int
    bare: Skipped | None
    """Why nothing but the system text may be put in; None: all may."""

    @property
    def strategy(self) -> Strategy:
        """What is put around the prompt."""
        return self.prompter.strategy

    @property
    def instruction(self) -> str:
        """The text after the user's last words; none where only the system text may be put in."""
        return "" if self.bare else self.strategy.instruction

    def read(self, name: str) -> Any:
        """A field's value."""
        return read(self.fields, name)

    def applied(self, changed: dict[str, Any], shown: Iterable[Shown]) -> Applied:
        """The outcome, with all that was shown in all prompts of the request."""
        parts = list(shown)
        return Applied(
            changed,
            tuple(dict.fromkeys(i for part in parts for i in part.ids)),
            sum(part.left_out for part in parts),
            next((part.skipped for part in parts if part.skipped), None),
        )


def choose(request: Request, own: list[str | None], rest: list[dict[str, Any]], used: int) -> Shown:
    """The examples for a conversation; `own` are the caller's system texts, and the conversation
    has `used` bytes."""
    strategy, index = request.strategy, request.prompter.index
    if request.bare or not (strategy.examples or strategy.bank):
        return Shown(skipped=request.bare)
    if given(request.fields, "previous_response_id"):
        return Shown(skipped=Skipped.CONTINUED)
    said = [text_of(message.get("content")) for message in rest]
    if None in said or None in own:
        return Shown(skipped=Skipped.NOT_TEXT)
    picked: list[Entry] = []
    wanted = strategy.max_examples - len(strategy.examples)
    asked = next((t for m, t in _backwards(rest, said) if m.get("role") == "user" and t), None)
    if index is not None and asked and wanted > 0:
        key = system_key("\n\n".join(text for text in own if text))
        picked = index.pick(request.tenant, key, asked, wanted, strategy.reward_weight)
    return _fitting(request, picked, used)


def _backwards(
    messages: list[dict[str, Any]], texts: list[str | None]
) -> Iterable[tuple[dict[str, Any], str | None]]:
    return zip(reversed(messages), reversed(texts), strict=True)


def _fitting(request: Request, picked: list[Entry], used: int) -> Shown:
    """As many examples as there is room for: the written ones first, then the best."""
    strategy = request.strategy
    written = [("", example.user, example.assistant) for example in strategy.examples]
    best = [(entry.id, entry.user, _shown_answer(strategy, entry)) for entry in picked]
    room = _room(request, used)
    kept = []
    for example in (*written, *best):
        cost = text_bytes(example[1]) + text_bytes(example[2]) + 2 * TURN
        if cost <= room:
            room -= cost
            kept.append(example)
    left_out = len(written) + len(best) - len(kept)
    if not kept:
        return Shown(left_out=left_out, skipped=_why_none(left_out))
    fixed = [example for example in kept if not example[0]]
    turns = fixed + [example for example in reversed(kept) if example[0]]
    return Shown(
        [(user, assistant) for _, user, assistant in turns],
        tuple(example[0] for example in kept if example[0]),
        left_out,
    )


def _why_none(left_out: int) -> Skipped:
    return Skipped.NO_ROOM if left_out else Skipped.NO_EXAMPLES


def _room(request: Request, used: int) -> int:
    """Bytes for examples, so that prompt and answer still fit the context.

    A token is at least one byte in every tokenizer that can write any text, so bytes are never
    fewer than tokens: with this many, examples can't be what makes a prompt too long.
    """
    strategy = request.strategy
    ours = text_bytes(strategy.system) + text_bytes(request.instruction) + TEMPLATE
    free = request.context - used - ours - _answer_tokens(request)
    return min(free, strategy.max_example_bytes)


def _answer_tokens(request: Request) -> int:
    for name in ("max_completion_tokens", "max_tokens", "max_output_tokens"):
        limit = request.read(name)
        if isinstance(limit, int) and limit > 0:
            return limit
    return request.context // ANSWER_SHARE


def _shown_answer(strategy: Strategy, entry: Entry) -> str:
    if strategy.strategy == "chain_of_thought" and entry.reasoning:
        return f"{entry.reasoning}\n\n{entry.answer}"
    return entry.answer


def text_bytes(text: str) -> int:
    """The length of a text in UTF-8."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def text_of(content: Any) -> str | None:
    """The text of a message; None if it has other parts as well."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return None
    texts = [part.get("text") if isinstance(part, dict) else None for part in content]
    if not all(isinstance(text, str) for text in texts):
        return None
    return "".join(str(text) for text in texts)


def given(fields: Fields, name: str) -> bool:
    """Whether a field is there and says something."""
    raw = fields.get(name)
    return raw is not None and bytes(raw) not in {b"null", b"false", b"[]", b"{}", b'""'}


def read(fields: Fields, name: str) -> Any:
    """A field's value; None if it is not there."""
    raw = fields.get(name)
    return None if raw is None else msgspec.json.decode(raw)
