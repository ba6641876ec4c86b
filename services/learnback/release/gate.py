"""The gate: may a candidate replace the stable version? Pure, and every number says why.

A candidate passes if the lower bound of its win rate is over one half and no guard fails. A guard
that could not be measured fails: what nobody looked at is not safe. One that saw too few answers to
tell anything from luck leaves it inconclusive.
"""

from __future__ import annotations

from learnback.release.guards import answer_guards, distance_check, golden_check, judge_check
from learnback.release.measured import Check, Evaluation, GateReport, Judge, Verdict
from learnback.release.policy import GatePolicy

__all__ = [
    "Check",
    "Evaluation",
    "GateReport",
    "Judge",
    "Verdict",
    "decide",
    "preconditions",
    "refused",
    "superseded",
]


def decide(evaluation: Evaluation, policy: GatePolicy) -> GateReport:
    """The verdict: guards refuse; then the win rate passes, refuses, or does not suffice.

    Without any answers there is nothing to guard, and the verdict is inconclusive at best.
    """
    checks = preconditions(evaluation, policy)
    if evaluation.prompts:
        checks += answer_guards(evaluation, policy)
        if evaluation.golden_asked:
            checks.append(golden_check(evaluation.golden, evaluation.max_regressions))
    proven = _proofs(evaluation, policy)
    failed = [check for check in checks if check.guard and not check.passed]
    worse = evaluation.win_rate is not None and evaluation.win_rate.high < policy.min_win_rate
    if failed:
        return _report(Verdict.REFUSED, failed, [*checks, *proven], evaluation)
    missing = [check for check in (*checks, *proven) if not check.passed]
    if not missing:
        return _report(Verdict.PASSED, proven, [*checks, *proven], evaluation)
    verdict = Verdict.REFUSED if worse else Verdict.INCONCLUSIVE
    return _report(verdict, missing, [*checks, *proven], evaluation)


def preconditions(evaluation: Evaluation, policy: GatePolicy) -> list[Check]:
    """The guards that need no answers: where one fails, nothing needs to be generated."""
    return [judge_check(evaluation.judge, policy), distance_check(evaluation, policy)]


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


def _proofs(evaluation: Evaluation, policy: GatePolicy) -> list[Check]:
    rate = evaluation.win_rate
    judged = rate.n if rate else 0
    shown = f"{rate.rate:.0%} [{rate.low:.0%}, {rate.high:.0%}]" if rate else "no comparison"
    return [
        Check(
            name="held_out_prompts",
            value=float(judged),
            threshold=f">= {policy.min_prompts}",
            passed=judged >= policy.min_prompts,
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
