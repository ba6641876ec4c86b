"""From a signal to what one person said of one answer or of two, or the reason why not. Pure."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from learnback.contracts.models import CompletionEnd, FeedbackKind, FeedbackStatus, Preferred
from learnback.ledger.prompts import opening_key
from learnback.ledger.training import Answered, Outcome, Signal
from learnback.models.plain_text import holds_half

ROLES = frozenset({"system", "developer", "user", "assistant"})
"""What chat templates know; a tool's turn is no plain text."""


class Unusable(StrEnum):
    """Why nothing can be learned from a signal. For good: no later signal changes it."""

    EMPTY = "empty_text"
    IDENTICAL = "identical_texts"
    NOT_STORED = "not_stored"
    """The caller asked for no storage, so the texts are not known."""
    ERASED = "completion_erased"
    NO_WHOLE_ANSWER = "no_whole_answer"
    """The answer broke off: the client hung up or the engine failed."""
    NOT_PLAIN_TEXT = "not_plain_text"
    """Images, tool calls or another part that the trainers do not learn from."""
    UNKNOWN_ROLE = "unknown_role"
    OTHER_BASE = "other_base_model"
    NO_TARGET = "no_such_answer"
    PROMPTS_DIFFER = "prompts_differ"
    ANSWER_TOO_SHORT = "answer_too_short"
    ANSWER_TOO_LONG = "answer_too_long"
    PROMPT_TOO_LONG = "prompt_too_long"
    OTHER_LANGUAGE = "other_language"


QUARANTINED = frozenset({Unusable.NO_TARGET, Unusable.PROMPTS_DIFFER})
"""Of these the signal itself is wrong; all others are fine, but of no use to training."""


class CantUse(Exception):
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
    """An answer; not `finished` if a token limit cut it off."""

    text: str
    finished: bool = True

    @property
    def key(self) -> str:
        """What "the same answer" means: white space at its ends and how characters are composed
        do not matter; white space within does, since code is an answer too."""
        return unicodedata.normalize("NFC", self.text.strip())


@dataclass(frozen=True, kw_only=True)
class Said:
    """One person's word about an answer to `prompt`."""

    feedback_id: str
    tenant: str
    rater: str | None
    received_at: datetime
    trained: bool
    """A model has learned from it before."""
    outvoted: bool
    """It was quarantined since others said otherwise: it counts as a vote, and is no more learned
    from."""
    prompt: tuple[dict[str, str], ...]
    prompt_key: str
    opening: str
    """The key of its conversation up to the first turn of the user, by which it is held out."""

    @property
    def voice(self) -> tuple[str, str, str]:
        """Whose word it is; a signal without rater stands for itself."""
        return (self.tenant, self.rater or "", "" if self.rater else self.feedback_id)

    @property
    def texts(self) -> tuple[Text, ...]:
        """The answers that it is about."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Comparison(Said):
    """`chosen` is the better answer of two, unless it is a tie."""

    chosen: Text
    rejected: Text
    strength: float
    tie: Preferred | None = None
    """`tie_good` or `tie_bad`; the texts then stand in a fixed order that says nothing."""
    correction: bool = False
    """`chosen` was written by the rater, to be imitated."""

    @property
    def texts(self) -> tuple[Text, ...]:
        """Both answers."""
        return (self.chosen, self.rejected)


@dataclass(frozen=True, kw_only=True)
class Opinion(Said):
    """How good one answer is, from 0 to 1."""

    answer: Text
    value: float
    rating: bool
    """A number on a scale, which people use differently; else a thumb."""

    @property
    def texts(self) -> tuple[Text, ...]:
        """The answer."""
        return (self.answer,)


def read(signal: Signal, base_digest: str) -> Comparison | Opinion:
    """What a preference, a correction, a thumb or a rating says. Raises CantUse."""
    about = signal.completion or signal.other
    if about is None:
        raise CantUse(Unusable.NO_TARGET)
    if signal.other and signal.other.prompt_key != about.prompt_key:
        raise CantUse(Unusable.PROMPTS_DIFFER)
    if signal.kind in (FeedbackKind.THUMBS, FeedbackKind.RATING):
        said: Comparison | Opinion = _opinion(signal, about, base_digest)
    else:
        said = _comparison(signal, about, base_digest)
    if any(holds_half(text.text) for text in said.texts):
        raise CantUse(Unusable.NOT_PLAIN_TEXT)
    if not all(text.text.strip() for text in said.texts):
        raise CantUse(Unusable.EMPTY)
    if len({text.key for text in said.texts}) < len(said.texts):
        raise CantUse(Unusable.IDENTICAL)
    return said


def _opinion(signal: Signal, about: Answered, base_digest: str) -> Opinion:
    answer = _answer(signal.completion, signal.choice, base_digest)
    rating = signal.kind == FeedbackKind.RATING
    value = _on_scale(signal.body) if rating else float(signal.body.get("value") == "up")
    return Opinion(answer=answer, value=value, rating=rating, **_common(signal, about))


def _on_scale(body: Mapping[str, Any]) -> float:
    """A rating as a number from 0 to 1, by the ends of its own scale."""
    scale = body.get("scale") or {}
    low, high = float(scale.get("min", 1.0)), float(scale.get("max", 5.0))
    if not low < high:  # such a scale says nothing
        return 0.5
    return min(1.0, max(0.0, (float(body.get("value", low)) - low) / (high - low)))


def _comparison(signal: Signal, about: Answered, base_digest: str) -> Comparison:
    preferred = signal.body.get("preferred")
    tie = preferred if preferred in (Preferred.TIE_GOOD, Preferred.TIE_BAD) else None
    chosen, rejected = _sides(signal, base_digest)
    if tie is not None:
        chosen, rejected = sorted((chosen, rejected), key=lambda t: (t.text, t.finished))
    return Comparison(
        chosen=chosen,
        rejected=rejected,
        strength=float(signal.body.get("strength") or 1.0),
        tie=None if tie is None else Preferred(tie),
        correction=signal.kind == FeedbackKind.CORRECTION,
        **_common(signal, about),
    )


def _common(signal: Signal, about: Answered) -> dict[str, Any]:
    return {
        "feedback_id": signal.id,
        "tenant": signal.tenant,
        "rater": signal.rater_id,
        "received_at": signal.received_at,
        "trained": signal.status == FeedbackStatus.TRAINED,
        "outvoted": signal.status == FeedbackStatus.QUARANTINED,
        "prompt": plain(about.prompt),
        "prompt_key": about.prompt_key,
        "opening": opening_key(about.prompt_key, about.prompt),
    }


def _sides(signal: Signal, base_digest: str) -> tuple[Text, Text]:
    """(chosen, rejected)."""
    if signal.kind == FeedbackKind.CORRECTION:
        given = _answer(signal.completion, signal.choice, base_digest)
        return Text(str(signal.body.get("text") or "")), given
    first = _side(signal, signal.body.get("first"), base_digest)
    second = _side(signal, signal.body.get("second"), base_digest)
    turned = signal.body.get("preferred") == Preferred.SECOND
    return (second, first) if turned else (first, second)


def _side(signal: Signal, target: Any, base_digest: str) -> Text:
    if not isinstance(target, Mapping):
        raise CantUse(Unusable.NO_TARGET)
    if target.get("text") is not None:
        return Text(str(target["text"]))
    wanted, choice = target.get("completion_id"), target.get("choice")
    for answered in (signal.completion, signal.other):
        if answered is not None and answered.id == wanted:
            return _answer(answered, choice, base_digest)
    raise CantUse(Unusable.NO_TARGET)


def _answer(answered: Answered | None, choice: int | None, base_digest: str) -> Text:
    """The text of one choice of a recorded completion."""
    if answered is None:
        raise CantUse(Unusable.NO_TARGET)
    if answered.erased:
        raise CantUse(Unusable.ERASED)
    if not answered.stored:
        raise CantUse(Unusable.NOT_STORED)
    if answered.end != CompletionEnd.COMPLETE:
        raise CantUse(Unusable.NO_WHOLE_ANSWER)
    if answered.base_digest not in (None, base_digest):
        raise CantUse(Unusable.OTHER_BASE)
    for given in answered.choices:
        if given.get("index") == (choice or 0):
            if given.get("tool_calls"):
                raise CantUse(Unusable.NOT_PLAIN_TEXT)
            return Text(str(given.get("text") or ""), given.get("finish_reason") != "length")
    raise CantUse(Unusable.NO_TARGET)


def plain(prompt: Sequence[Mapping[str, Any]]) -> tuple[dict[str, str], ...]:
    """The prompt as roles and texts, which is all that trainers render. Raises CantUse."""
    messages = tuple({"role": str(m.get("role") or "user"), "content": _content(m)} for m in prompt)
    if not messages or any(holds_half(m["content"]) for m in messages):
        raise CantUse(Unusable.NOT_PLAIN_TEXT)
    if not all(m["role"] in ROLES for m in messages):
        raise CantUse(Unusable.UNKNOWN_ROLE)
    return messages


def _content(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    if message.get("tool_calls") or message.get("role") == "tool":
        raise CantUse(Unusable.NOT_PLAIN_TEXT)
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else [content]
    texts = [part.get("text") if isinstance(part, Mapping) else None for part in parts]
    if not all(isinstance(text, str) for text in texts):
        raise CantUse(Unusable.NOT_PLAIN_TEXT)
    return "".join(str(text) for text in texts)
