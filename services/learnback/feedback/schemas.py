"""Bodies of the API: closed, strict, bounded, and only what both databases can store."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Strict,
    StringConstraints,
    Tag,
    ValidationInfo,
    field_validator,
)
from pydantic_core import PydanticCustomError

from learnback.contracts.models import Preferred, RaterKind
from learnback.core.clock import now

MAX_SKEW = timedelta(minutes=5)
"""How far a caller's clock may be ahead of ours."""
MAX_CHOICE = 1023
MAX_BATCH = 1000
ID_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,95}$"
TIME_SHAPE = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d")


def _storable(text: str) -> str:
    if "\x00" in text:
        raise PydanticCustomError("nul_character", "NUL characters can't be stored")
    return text


def _written_out(value: Any) -> Any:
    if isinstance(value, datetime) or (isinstance(value, str) and TIME_SHAPE.match(value)):
        return value
    raise PydanticCustomError("time", "Write a time with zone, such as 2026-11-23T12:00:00Z")


def _plausible(value: datetime) -> datetime:
    if value.year < 2000:
        raise PydanticCustomError("time_too_old", "This is before the year 2000")
    if value > now() + MAX_SKEW:
        raise PydanticCustomError("time_in_future", "This is more than 5 minutes in the future")
    return value


def _limited(length: int) -> Any:
    return StringConstraints(min_length=1, max_length=length)


Line = Annotated[str, Strict(), _limited(200), AfterValidator(_storable)]
Prose = Annotated[str, Strict(), _limited(65_536), AfterValidator(_storable)]
Remark = Annotated[str, Strict(), _limited(4_096), AfterValidator(_storable)]
MetadataKey = Annotated[str, Strict(), _limited(64), AfterValidator(_storable)]
MetadataValue = Annotated[
    str, Strict(), StringConstraints(max_length=512), AfterValidator(_storable)
]
CompletionId = Annotated[str, Strict(), StringConstraints(pattern=ID_PATTERN)]
ChoiceIndex = Annotated[int, Strict(), Field(ge=0, le=MAX_CHOICE)]
Number = Annotated[float, Strict(), Field(allow_inf_nan=False)]
IdempotencyKey = Annotated[str | None, StringConstraints(pattern=r"^[\x21-\x7e]{1,200}$")]
CreatedAt = Annotated[AwareDatetime, BeforeValidator(_written_out), AfterValidator(_plausible)]


class Closed(BaseModel):
    """An object of a request: unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class RaterIn(Closed):
    """Who judged."""

    id: Line | None = Field(
        None, description="Your identifier of the rater, pseudonymous if you can."
    )
    kind: RaterKind = RaterKind.HUMAN


class Common(Closed):
    """What every signal may carry."""

    rater: RaterIn = RaterIn()
    reason: Remark | None = Field(None, description="Why, in the rater's words.")
    tags: list[Line] = Field(default=[], max_length=16)
    created_at: CreatedAt | None = Field(None, description="When the rater said so; default: now.")
    metadata: dict[MetadataKey, MetadataValue] = Field(default={}, max_length=16)


class ThumbsIn(Common):
    """A thumb up or down."""

    kind: Literal["thumbs"]
    completion_id: CompletionId
    choice: ChoiceIndex = 0
    value: Literal["up", "down"]


class Scale(Closed):
    """The ends of a rating's scale."""

    min: Number = 1.0
    max: Annotated[Number, Field(validate_default=True)] = 5.0

    @field_validator("max")
    @classmethod
    def _ordered(cls, end: float, found: ValidationInfo) -> float:
        if "min" in found.data and not found.data["min"] < end:
            raise PydanticCustomError("scale", "max must be greater than min")
        return end


class RatingIn(Common):
    """A number on a scale; more is better."""

    kind: Literal["rating"]
    completion_id: CompletionId
    choice: ChoiceIndex = 0
    scale: Scale = Scale()
    value: Number

    @field_validator("value")
    @classmethod
    def _within(cls, value: float, found: ValidationInfo) -> float:
        scale = found.data.get("scale")
        if scale is not None and not scale.min <= value <= scale.max:
            raise PydanticCustomError(
                "off_scale",
                "{value} is not on the scale from {min} to {max}",
                {"value": value, "min": scale.min, "max": scale.max},
            )
        return value


class Answer(Closed):
    """One answer of a recorded completion."""

    completion_id: CompletionId
    choice: ChoiceIndex = 0


class Written(Closed):
    """An answer that no model gave here."""

    text: Prose


def _side(value: Any) -> str:
    if isinstance(value, Mapping):
        return "<text>" if "text" in value and "completion_id" not in value else "<completion>"
    return "<text>" if isinstance(value, Written) else "<completion>"


Side = Annotated[
    Annotated[Answer, Tag("<completion>")] | Annotated[Written, Tag("<text>")],
    Discriminator(_side),
]


class PreferenceIn(Common):
    """Which of two answers to one prompt is better; `first` and `second` as they were shown."""

    kind: Literal["preference"]
    first: Side
    second: Side
    preferred: Preferred
    strength: Annotated[Number, Field(gt=0, le=1)] = 1.0

    @field_validator("second")
    @classmethod
    def _two_answers(cls, second: Answer | Written, found: ValidationInfo) -> Answer | Written:
        first = found.data.get("first")
        if isinstance(first, Written) and isinstance(second, Written):
            raise PydanticCustomError("two_texts", "At most one of first and second is a text")
        if first == second:
            raise PydanticCustomError("same_answer", "first and second are the same answer")
        return second


class CorrectionIn(Common):
    """A better answer, written by the rater."""

    kind: Literal["correction"]
    completion_id: CompletionId
    choice: ChoiceIndex = 0
    text: Prose


class CommentIn(Common):
    """Words about a completion."""

    kind: Literal["comment"]
    completion_id: CompletionId
    text: Prose


class OutcomeIn(Common):
    """A named number for a whole session, such as `resolved: 1`."""

    kind: Literal["outcome"]
    session_id: Line
    name: Annotated[Line, Field(max_length=100)]
    value: Number


FeedbackIn = Annotated[
    ThumbsIn | RatingIn | PreferenceIn | CorrectionIn | CommentIn | OutcomeIn,
    Discriminator("kind"),
]


class BatchIn(Closed):
    """Many signals; each item is a feedback body, with its `idempotency_key` where it has one."""

    items: list[dict[str, Any]] = Field(min_length=1, max_length=MAX_BATCH)
