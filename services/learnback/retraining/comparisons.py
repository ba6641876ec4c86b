"""From a signal to "this text is better than that one", or the reason why not. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from learnback.contracts.models import CompletionEnd, FeedbackKind, FeedbackStatus, Preferred
from learnback.ledger.training import Answered, Outcome, Signal


class Unusable(StrEnum):
    """Why a signal can't become a preference pair. For good: no later signal changes it."""

    TIE = "tie"
    EMPTY = "empty_text"
    IDENTICAL = "identical_texts"
    NOT_STORED = "not_stored"
    """The caller asked for no storage, so the texts are not known."""
    ERASED = "completion_erased"
    NO_WHOLE_ANSWER = "no_whole_answer"
    """The answer broke off: the client hung up or the engine failed."""
    NOT_PLAIN_TEXT = "not_plain_text"
    """Images, tool calls or another part that the trainer does not learn from."""
    OTHER_BASE = "other_base_model"
    NO_TARGET = "no_such_answer"
    PROMPTS_DIFFER = "prompts_differ"


QUARANTINED = frozenset({Unusable.NO_TARGET, Unusable.PROMPTS_DIFFER})
"""Of these the signal itself is wrong; all others are fine, but of no use to training."""


class CantCompare(Exception):
    """Carries the reason out of the reading of a signal."""

    def __init__(self, reason: Unusable) -> None:
        super().__init__(reason)
        self.reason = reason

    @property
    def outcome(self) -> Outcome:
        """What the ledger says of the signal."""
        quarantined = self.reason in QUARANTINED
        status = FeedbackStatus.QUARANTINED if quarantined else FeedbackStatus.RECORDED
        return Outcome(status, self.reason.value)


@dataclass(frozen=True)
class Text:
    """One side of a comparison; not `finished` if a token limit cut it off."""

    text: str
    finished: bool = True


@dataclass(frozen=True)
class Comparison:
    """One person's word: `chosen` is the better answer to `prompt`."""

    feedback_id: str
    tenant: str
    rater: str | None
    received_at: datetime
    prompt: tuple[dict[str, str], ...]
    prompt_key: str
    chosen: Text
    rejected: Text
    strength: float


def compare(signal: Signal, base_digest: str) -> Comparison:
    """Read a preference or a correction. Raises CantCompare if no pair can be made of it."""
    about = signal.completion or signal.other
    if about is None:
        raise CantCompare(Unusable.NO_TARGET)
    if signal.other and signal.other.prompt_key != about.prompt_key:
        raise CantCompare(Unusable.PROMPTS_DIFFER)
    chosen, rejected = _sides(signal, base_digest)
    if any(_surrogates(side.text) for side in (chosen, rejected)):
        raise CantCompare(Unusable.NOT_PLAIN_TEXT)
    if not chosen.text.strip() or not rejected.text.strip():
        raise CantCompare(Unusable.EMPTY)
    if chosen.text == rejected.text:
        raise CantCompare(Unusable.IDENTICAL)
    return Comparison(
        feedback_id=signal.id,
        tenant=signal.tenant,
        rater=signal.rater_id,
        received_at=signal.received_at,
        prompt=_plain(about.prompt),
        prompt_key=about.prompt_key,
        chosen=chosen,
        rejected=rejected,
        strength=float(signal.body.get("strength") or 1.0),
    )


def _sides(signal: Signal, base_digest: str) -> tuple[Text, Text]:
    """(chosen, rejected)."""
    if signal.kind == FeedbackKind.CORRECTION:
        given = _answer(signal.completion, signal.choice, base_digest)
        return Text(str(signal.body.get("text") or "")), given
    preferred = signal.body.get("preferred")
    if preferred not in (Preferred.FIRST, Preferred.SECOND):
        raise CantCompare(Unusable.TIE)
    first = _side(signal, signal.body.get("first"), base_digest)
    second = _side(signal, signal.body.get("second"), base_digest)
    return (first, second) if preferred == Preferred.FIRST else (second, first)


def _side(signal: Signal, target: Any, base_digest: str) -> Text:
    if not isinstance(target, Mapping):
        raise CantCompare(Unusable.NO_TARGET)
    if target.get("text") is not None:
        return Text(str(target["text"]))
    wanted, choice = target.get("completion_id"), target.get("choice")
    for answered in (signal.completion, signal.other):
        if answered is not None and answered.id == wanted:
            return _answer(answered, choice, base_digest)
    raise CantCompare(Unusable.NO_TARGET)


def _answer(answered: Answered | None, choice: int | None, base_digest: str) -> Text:
    """The text of one choice of a recorded completion."""
    if answered is None:
        raise CantCompare(Unusable.NO_TARGET)
    if answered.erased:
        raise CantCompare(Unusable.ERASED)
    if not answered.stored:
        raise CantCompare(Unusable.NOT_STORED)
    if answered.end != CompletionEnd.COMPLETE:
        raise CantCompare(Unusable.NO_WHOLE_ANSWER)
    if answered.base_digest not in (None, base_digest):
        raise CantCompare(Unusable.OTHER_BASE)
    for given in answered.choices:
        if given.get("index") == (choice or 0):
            if given.get("tool_calls"):
                raise CantCompare(Unusable.NOT_PLAIN_TEXT)
            return Text(str(given.get("text") or ""), given.get("finish_reason") != "length")
    raise CantCompare(Unusable.NO_TARGET)


def _surrogates(text: str) -> bool:
    """Half a character, such as a torn emoji: no file and no tokenizer takes it."""
    return any("\ud800" <= c <= "\udfff" for c in text)


def _plain(prompt: Sequence[Mapping[str, Any]]) -> tuple[dict[str, str], ...]:
    """The prompt as roles and texts, which is all that the trainer renders."""
    messages = tuple({"role": str(m.get("role") or "user"), "content": _content(m)} for m in prompt)
    if not messages or any(_surrogates(m["content"]) for m in messages):
        raise CantCompare(Unusable.NOT_PLAIN_TEXT)
    return messages


def _content(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    if message.get("tool_calls") or message.get("role") == "tool":
        raise CantCompare(Unusable.NOT_PLAIN_TEXT)
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else [content]
    texts = [part.get("text") if isinstance(part, Mapping) else None for part in parts]
    if not all(isinstance(text, str) for text in texts):
        raise CantCompare(Unusable.NOT_PLAIN_TEXT)
    return "".join(str(text) for text in texts)
