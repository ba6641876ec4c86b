"""The gate: may a candidate replace the stable version? Pure, and every number says why.

A candidate passes if the lower bound of its win rate is over one half and no guard fails. A guard
that could not be measured fails: what nobody looked at is not safe.
"""

from __future__ import annotations

import math
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict

from learnback.release.analysis import Estimate, proportion
from learnback.release.policy import GatePolicy
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


class Evaluation(BaseModel):
    """All that was measured of a candidate against the stable version; None: it was not."""

    model_config = ConfigDict(frozen=True)

    candidate: str
    stable: str
    judge: Judge | None = None
    distance: float | None = None
    prompts: int = 0
    """Held-out prompts that stable answered."""
    answered: int = 0
    """Of those, how many the candidate answered."""
    wins: int = 0
    ties: int = 0
    losses: int = 0
    win_rate: Estimate | None = None
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


class GateReport(BaseModel):
    """The gate's decision with everything that it rests on."""

    model_config = ConfigDict(frozen=True)

    verdict: Verdict
    reasons: list[str]
    checks: list[Check]
    evaluation: Evaluation | None = None
    stable_revision: int | None = None
    """The alias's revision that the candidate was compared with."""

    def as_json(self) -> dict[str, Any]:
        """For the ledger."""
        return self.model_dump(mode="json")


def decide(evaluation: Evaluation, policy: GatePolicy) -> GateReport:
    """The verdict: guards refuse; then the win rate passes, refuses, or does not suffice.

    Without any answers there is nothing to guard, and the verdict is inconclusive at best.
    """
    checks = preconditions(evaluation, policy)
    if evaluation.prompts:
        checks += _answer_guards(evaluation, policy)
    proven = _proofs(evaluation, policy)
    failed = [check for check in checks if not check.passed]
    worse = evaluation.win_rate is not None and evaluation.win_rate.high < policy.min_win_rate
    if failed:
        return _report(Verdict.REFUSED, failed, [*checks, *proven], evaluation)
    missing = [check for check in proven if not check.passed]
    if not missing:
        return _report(Verdict.PASSED, proven, [*checks, *proven], evaluation)
    verdict = Verdict.REFUSED if worse else Verdict.INCONCLUSIVE
    return _report(verdict, missing, [*checks, *proven], evaluation)


def preconditions(evaluation: Evaluation, policy: GatePolicy) -> list[Check]:
    """The guards that need no answers: where one fails, nothing needs to be generated."""
    return [_judge_check(evaluation.judge, policy), _distance_check(evaluation.distance, policy)]


def superseded(by: str) -> GateReport:
    """The report of a candidate that was never judged since a newer one came."""
    return GateReport(
        verdict=Verdict.REFUSED, reasons=[f"superseded by a newer candidate: {by}"], checks=[]
    )


def refused(reason: str, evaluation: Evaluation | None = None) -> GateReport:
    """The report of a candidate that can't be judged at all."""
    return GateReport(verdict=Verdict.REFUSED, reasons=[reason], checks=[], evaluation=evaluation)


def _report(
    verdict: Verdict, deciding: list[Check], checks: list[Check], evaluation: Evaluation
) -> GateReport:
    reasons = [_reason(check) for check in deciding]
    if evaluation.note:
        reasons.append(evaluation.note)
    return GateReport(verdict=verdict, reasons=reasons, checks=checks, evaluation=evaluation)


def _reason(check: Check) -> str:
    value = "not measured" if check.value is None else f"{check.value:.3g}"
    return f"{check.name} is {value}, asked for is {check.threshold}: {check.why}"


def _judge_check(judge: Judge | None, policy: GatePolicy) -> Check:
    known = judge is not None and judge.held_out_pairs and judge.held_out_correct is not None
    value, seen = None, "there is no reward model with held-out preferences"
    if judge is not None and known:
        accuracy = proportion(judge.held_out_correct or 0.0, judge.held_out_pairs or 0)
        value = accuracy.low
        seen = f"{accuracy.rate:.0%} right of {accuracy.n} held-out preferences"
    return Check(
        name="judge_accuracy_low",
        value=value,
        threshold=f"> {policy.min_judge_accuracy:g}",
        passed=value is not None and value > policy.min_judge_accuracy,
        why=f"a judge that can't tell good from bad proves nothing ({seen})",
    )


def _distance_check(distance: float | None, policy: GatePolicy) -> Check:
    measured = distance if distance is not None and math.isfinite(distance) else None
    return Check(
        name="distance_from_reference",
        value=measured,
        threshold=f"<= {policy.max_distance:g} nats per token",
        passed=measured is not None and measured <= policy.max_distance,
        why="text falls apart far from the base model, whatever the reward says",
    )


def _answer_guards(evaluation: Evaluation, policy: GatePolicy) -> list[Check]:
    ours, theirs = evaluation.candidate_answers, evaluation.stable_answers
    limits = [
        ("empty", policy.max_empty_increase, "an empty answer is never an improvement"),
        ("refusal", policy.max_refusal_increase, "who declines is never wrong, and of no use"),
        ("degenerate", policy.max_degenerate_increase, "text that runs in circles helps nobody"),
    ]
    return [
        _answered_check(evaluation, policy),
        _length_check(ours, theirs, policy),
        *(_increase_check(name, ours, theirs, limit, why) for name, limit, why in limits),
    ]


def _answered_check(evaluation: Evaluation, policy: GatePolicy) -> Check:
    value = evaluation.answered / evaluation.prompts if evaluation.prompts else None
    return Check(
        name="answered",
        value=value,
        threshold=f">= {policy.min_answered:g}",
        passed=value is not None and value >= policy.min_answered,
        why="the candidate must answer where stable does",
    )


def _length_check(
    ours: AnswerProfile | None, theirs: AnswerProfile | None, policy: GatePolicy
) -> Check:
    value = None
    if ours and theirs and ours.median_words is not None and theirs.median_words:
        value = ours.median_words / theirs.median_words
    return Check(
        name="length_ratio",
        value=value,
        threshold=f"in [{policy.min_length_ratio:g}, {policy.max_length_ratio:g}]",
        passed=value is not None and policy.min_length_ratio <= value <= policy.max_length_ratio,
        why="a reward that is earned by length alone is a hack",
    )


def _increase_check(
    name: str, ours: AnswerProfile | None, theirs: AnswerProfile | None, limit: float, why: str
) -> Check:
    value = None
    if ours and theirs and ours.answers and theirs.answers:
        value = getattr(ours, f"{name}_rate") - getattr(theirs, f"{name}_rate")
    return Check(
        name=f"{name}_increase",
        value=value,
        threshold=f"<= {limit:g}",
        passed=value is not None and value <= limit + 1e-12,
        why=why,
    )


def _proofs(evaluation: Evaluation, policy: GatePolicy) -> list[Check]:
    rate = evaluation.win_rate
    shown = f"{rate.rate:.0%} [{rate.low:.0%}, {rate.high:.0%}]" if rate else "no comparison"
    return [
        Check(
            name="held_out_prompts",
            value=float(evaluation.answered),
            threshold=f">= {policy.min_prompts}",
            passed=evaluation.answered >= policy.min_prompts,
            why="fewer prompts can't tell better from worse",
            guard=False,
        ),
        Check(
            name="decided",
            value=float(evaluation.wins + evaluation.losses),
            threshold=f">= {policy.min_decided}",
            passed=evaluation.wins + evaluation.losses >= policy.min_decided,
            why="ties say nothing, and a few wins may be luck",
            guard=False,
        ),
        Check(
            name="win_rate_low",
            value=rate.low if rate else None,
            threshold=f"> {policy.min_win_rate:g}",
            passed=rate is not None and rate.low > policy.min_win_rate,
            why=f"it must be better than stable beyond doubt (win rate {shown})",
            guard=False,
        ),
    ]
