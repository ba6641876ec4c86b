"""Signals as request bodies, for `send_batch` and `supersede`. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, TypedDict, Unpack

Preferred = Literal["first", "second", "tie_good", "tie_bad"]
Signal = dict[str, Any]


@dataclass(frozen=True)
class Answer:
    """One answer of a completion; `choice` is its index where `n > 1` gave several."""

    completion_id: str
    choice: int = 0


@dataclass(frozen=True)
class Text:
    """An answer that no model gave here."""

    text: str


@dataclass(frozen=True)
class Rater:
    """Who judged; raters are told apart by `id`."""

    id: str | None = None
    kind: Literal["human", "llm_judge", "code"] = "human"


class Common(TypedDict, total=False):
    """What every signal may carry."""

    rater: Rater | str | None
    """A string is a human's id."""
    reason: str | None
    tags: Sequence[str] | None
    created_at: datetime | None
    """With a zone."""
    metadata: Mapping[str, str] | None
    idempotency_key: str | None
    """Your own key for this signal; default: a random one for each call."""


def thumbs(
    completion_id: str, value: Literal["up", "down"], *, choice: int = 0, **common: Unpack[Common]
) -> Signal:
    """A thumb up or down."""
    return _signal("thumbs", common, completion_id=completion_id, choice=choice, value=value)


def rating(
    completion_id: str,
    value: float,
    *,
    scale: tuple[float, float] = (1, 5),
    choice: int = 0,
    **common: Unpack[Common],
) -> Signal:
    """A number on a scale (least, most); more is better."""
    ends = {"min": scale[0], "max": scale[1]}
    return _signal(
        "rating", common, completion_id=completion_id, choice=choice, value=value, scale=ends
    )


def preference(
    first: str | Answer | Text,
    second: str | Answer | Text,
    preferred: Preferred,
    *,
    strength: float = 1.0,
    **common: Unpack[Common],
) -> Signal:
    """Which of two answers to one prompt is better, in the order in which they were shown.

    A string is a completion's id. At most one side is a `Text`.
    """
    sides = {"first": _side(first), "second": _side(second)}
    return _signal("preference", common, **sides, preferred=preferred, strength=strength)


def correction(
    completion_id: str, text: str, *, choice: int = 0, **common: Unpack[Common]
) -> Signal:
    """A better answer."""
    return _signal("correction", common, completion_id=completion_id, choice=choice, text=text)


def comment(completion_id: str, text: str, **common: Unpack[Common]) -> Signal:
    """Words about a completion."""
    return _signal("comment", common, completion_id=completion_id, text=text)


def outcome(session_id: str, name: str, value: float, **common: Unpack[Common]) -> Signal:
    """A named number for a whole session."""
    return _signal("outcome", common, session_id=session_id, name=name, value=value)


def _signal(kind: str, common: Common, **fields: Any) -> Signal:
    signal: Signal = {"kind": kind, **fields}
    for name, value in common.items():
        if value is not None:
            signal[name] = _plain(name, value)
    return signal


def _plain(name: str, value: Any) -> Any:
    if name == "rater":
        rater = Rater(value) if isinstance(value, str) else value
        return {"id": rater.id, "kind": rater.kind}
    if name == "created_at":
        return value.isoformat()
    if name == "tags":
        return list(value)
    return dict(value) if name == "metadata" else value


def _side(side: str | Answer | Text) -> dict[str, Any]:
    if isinstance(side, Text):
        return {"text": side.text}
    answer = Answer(side) if isinstance(side, str) else side
    return {"completion_id": answer.completion_id, "choice": answer.choice}
