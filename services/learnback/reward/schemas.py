"""Bodies of the reward process's API."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

MAX_ANSWERS = 64
"""To one prompt in one request: a batch of rollouts, not a data set."""
MAX_ITEMS = 256
"""Prompts with answers in one request; the limit on bytes holds too."""

ScorerName = Annotated[str, Field(min_length=1, max_length=32)]


class MessageIn(BaseModel):
    """A chat message; what else OpenAI's shape holds is let through and not looked at."""

    model_config = ConfigDict(extra="allow")

    role: str = Field(max_length=64)
    content: str | list[dict[str, Any]] | None = None


class ItemIn(BaseModel):
    """A prompt with an answer."""

    model_config = ConfigDict(extra="forbid")

    prompt: str | list[MessageIn]
    answer: str


class ScoreIn(BaseModel):
    """One prompt with one `answer` or several `answers`, or `items` with a prompt each."""

    model_config = ConfigDict(extra="forbid")

    prompt: str | list[MessageIn] | None = None
    answer: str | None = None
    answers: list[str] | None = Field(None, min_length=1, max_length=MAX_ANSWERS)
    items: list[ItemIn] | None = Field(None, min_length=1, max_length=MAX_ITEMS)
    scorers: list[ScorerName] | None = Field(None, min_length=1, max_length=8)
    """Which of `GET /v1/scorers`; none named: all but the judge, which costs a call for each."""


class ScoreOut(BaseModel):
    """A verdict on one answer: a score, or the error that stood in its way."""

    answer: int
    """Its place in the request, from 0."""
    scorer: str
    scorer_version: str
    score: float | None
    error: str | None
    components: dict[str, float]


class ScoresOut(BaseModel):
    """All answers by all scorers."""

    scores: list[ScoreOut]


class CompareIn(BaseModel):
    """Two answers to one prompt."""

    model_config = ConfigDict(extra="forbid")

    prompt: str | list[MessageIn]
    first: str
    second: str
    scorers: list[ScorerName] | None = Field(None, min_length=1, max_length=8)
    """As in `ScoreIn`."""


class ComparisonOut(BaseModel):
    """Which answer is better, or the error that stood in the way of saying so."""

    scorer: str
    scorer_version: str
    preferred: Literal["first", "second", "tie"] | None
    probability: float | None = None
    """The chance that people prefer the first one; only a reward model knows it."""
    position: Literal["first", "last"] | None = None
    """The judge picked the answer in this place in both orders: a tie, by position bias."""
    error: str | None = None


class ComparisonsOut(BaseModel):
    """What each scorer says."""

    comparisons: list[ComparisonOut]


class ScorerOut(BaseModel):
    """A scorer that can be named."""

    name: str
    version: str
    kind: Literal["rules", "linear", "neural", "judge"]


class ScorersOut(BaseModel):
    """All scorers of this moment."""

    scorers: list[ScorerOut]
    problem: str | None
    """Why the reward model that the registry names is not the one that scores."""
