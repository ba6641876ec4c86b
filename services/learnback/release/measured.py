"""What an evaluation measured and what the gate said of it, as the ledger keeps them."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from learnback.contracts.models import VersionKind
from learnback.ledger.evaluations import Pair
from learnback.release.analysis import Contrast, Estimate
from learnback.release.probes import AnswerProfile


class Verdict(StrEnum):
    """What the gate says; only `passed` may be promoted without force."""

    PASSED = "passed"
    REFUSED = "refused"
    INCONCLUSIVE = "inconclusive"
    """No guard failed, but the evidence does not suffice either way."""


class Judge(BaseModel):
    """The reward model that scored, and how it did on preferences that it was not fitted to."""

    model_config = ConfigDict(frozen=True)

    version: str
    held_out_pairs: int | None = None
    held_out_correct: float | None = None
    """Ties count as halves."""
    note: str | None = None
    """Why it is this one, where that weakens what it says."""


class Second(BaseModel):
    """What a second judge said of the same answers, which no candidate was ever trained on."""

    model_config = ConfigDict(frozen=True)

    name: str
    """A model's name, or that of another reward model."""
    keys: list[str] = []
    outcomes: list[float] = []
    """By prompt: 1 if the candidate's answer is better, 0.5 for a tie, 0 if worse."""
    win_rate: Estimate | None = None
    consistent: float | None = None
    """Share of prompts on which it said the same in both orders; None: it sees no order."""
    agreement: Estimate | None = None
    """Share of prompts on which it and the reward model, both decided, say the same."""
    pairs: int = 0
    """People's comparisons on which it was tried."""
    correct: float = 0.0
    """Of those, how many it got right; ties count as halves."""
    note: str | None = None

    @property
    def accuracy(self) -> float:
        """How often people agree with it, drawn towards a coin while it was tried on few pairs."""
        return max(0.5, (self.correct + 1) / (self.pairs + 2))


class GoldenResult(BaseModel):
    """How both versions did on the operator's golden set."""

    model_config = ConfigDict(frozen=True)

    items: int
    repeats: int
    stable_passed: int
    candidate_passed: int
    regressions: list[str]
    """Items that stable passes each time and the candidate fails more often than not."""
    gains: list[str]
    flaky: list[str]
    """Items that stable passes sometimes: they count neither way."""
    unmeasured: list[str]
    """Items whose check could not be done, with the reason."""


class Evaluation(BaseModel):
    """All that was measured of a candidate against the stable version; None: it was not."""

    model_config = ConfigDict(frozen=True)

    candidate: str
    stable: str
    kind: VersionKind = VersionKind.ADAPTER
    judge: Judge | None = None
    second: Second | None = None
    """None: there is no judge beside the reward model."""
    distance: float | None = None
    prompts: int = 0
    """Held-out prompts that stable answered."""
    answered: int = 0
    """Of those, how many the candidate answered."""
    wins: int = 0
    ties: int = 0
    losses: int = 0
    win_rate: Estimate | None = None
    keys: list[str] = []
    """The prompts whose answers were both judged: digests, never texts."""
    outcomes: list[float] = []
    """By prompt of `keys`: 1 for a win of the candidate, 0.5 for a tie, 0 for a loss."""
    rewards: list[list[float]] = []
    """The candidate's by prompt of `keys`, then stable's."""
    words: list[list[int]] = []
    """The candidate's answers', then stable's."""
    length_ratios: list[float] = []
    """The candidate's words per stable's."""
    novelty_drops: list[float] = []
    """How much less of the candidate's answer is its own."""
    contrasts: dict[str, Contrast] = {}
    """What neither should do, by the guard's name."""
    foreign: float = 0.0
    """Share of both sides' answers that are not in English."""
    not_offered: list[str] = []
    """Guards whose requests the engine refuses of stable too."""
    golden: GoldenResult | None = None
    """None: the operator has no golden set, or it was not asked."""
    golden_asked: bool = False
    """Whether the policy names a golden set."""
    max_regressions: int = 0
    """As the policy had it."""
    strangers: Estimate | None = None
    """The win rate on prompts of people whom no version has learned from; None: there are none."""
    candidate_answers: AnswerProfile | None = None
    stable_answers: AnswerProfile | None = None
    note: str | None = None
    """Why something was not measured."""
    seconds: float = 0.0


class Check(BaseModel):
    """One threshold: what was measured, what is asked for, and why it is asked for."""

    model_config = ConfigDict(frozen=True)

    name: str
    value: float | None
    threshold: str
    passed: bool
    why: str
    guard: bool = True
    """False: it decides between passed and inconclusive, and refuses nothing."""
    p: float | None = None
    """The chance of such a value if candidate and stable were alike; None: no test."""


class GateReport(BaseModel):
    """The gate's decision with everything that it rests on."""

    model_config = ConfigDict(frozen=True)

    verdict: Verdict
    reasons: list[str]
    checks: list[Check]
    evaluation: Evaluation | None = None
    stable_revision: int | None = None
    """The alias's revision that the candidate was compared with."""
    pairs: list[Pair] = Field(default=[], exclude=True)
    """Both answers to each prompt: kept beside the report, where erasing reaches them."""

    def as_json(self) -> dict[str, Any]:
        """For the ledger."""
        return self.model_dump(mode="json")
