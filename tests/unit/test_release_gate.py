"""The gate promotes on evidence only, and fails closed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from learnback.release.analysis import win_rate
from learnback.release.gate import Evaluation, Judge, Verdict, decide, superseded
from learnback.release.policy import GatePolicy
from learnback.release.probes import AnswerProfile

POLICY = GatePolicy()


def a_profile(**changes: Any) -> AnswerProfile:
    values: dict[str, Any] = {
        "answers": 64,
        "median_words": 20.0,
        "empty_rate": 0.0,
        "refusal_rate": 0.0,
        "degenerate_rate": 0.0,
    }
    return AnswerProfile(**values | changes)


def an_evaluation(wins: int = 50, losses: int = 10, ties: int = 4, **changes: Any) -> Evaluation:
    """One that passes."""
    values = [1.0] * wins + [0.0] * losses + [0.5] * ties
    base: dict[str, Any] = {
        "candidate": "new",
        "stable": "old",
        "judge": Judge(version="judge", held_out_pairs=100, held_out_correct=80),
        "distance": 0.2,
        "prompts": len(values),
        "answered": len(values),
        "wins": wins,
        "losses": losses,
        "ties": ties,
        "win_rate": win_rate(values),
        "candidate_answers": a_profile(),
        "stable_answers": a_profile(),
    }
    return Evaluation(**base | changes)


def test_clear_evidence_passes() -> None:
    report = decide(an_evaluation(), POLICY)
    assert report.verdict is Verdict.PASSED
    assert all(check.passed for check in report.checks)


@pytest.mark.parametrize(
    ("changes", "failing"),
    [
        ({"judge": None}, "judge_accuracy_low"),
        ({"judge": Judge(version="j")}, "judge_accuracy_low"),
        ({"judge": Judge(version="j", held_out_pairs=0, held_out_correct=0)}, "judge_accuracy_low"),
        (
            {"judge": Judge(version="j", held_out_pairs=60, held_out_correct=34)},
            "judge_accuracy_low",
        ),
        ({"distance": None}, "distance_from_reference"),
        ({"distance": float("nan")}, "distance_from_reference"),
        ({"distance": float("inf")}, "distance_from_reference"),
        ({"distance": 3.0}, "distance_from_reference"),
        ({"answered": 40}, "answered"),
        ({"candidate_answers": None}, "length_ratio"),
        ({"stable_answers": a_profile(median_words=0.0)}, "length_ratio"),
        ({"candidate_answers": a_profile(median_words=2.0)}, "length_ratio"),
        ({"candidate_answers": a_profile(median_words=90.0)}, "length_ratio"),
        ({"candidate_answers": a_profile(empty_rate=0.2)}, "empty_increase"),
        ({"candidate_answers": a_profile(refusal_rate=0.2)}, "refusal_increase"),
        ({"candidate_answers": a_profile(degenerate_rate=0.2)}, "degenerate_increase"),
        ({"stable_answers": None}, "empty_increase"),
    ],
)
def test_a_failing_guard_refuses_whatever_was_won(changes: dict[str, Any], failing: str) -> None:
    report = decide(an_evaluation(**changes), POLICY)
    assert report.verdict is Verdict.REFUSED
    assert failing in {check.name for check in report.checks if not check.passed}
    assert any(failing in reason for reason in report.reasons)


def test_brevity_is_legitimate() -> None:
    short = an_evaluation(candidate_answers=a_profile(median_words=6.0))
    assert decide(short, POLICY).verdict is Verdict.PASSED


def test_what_stable_does_too_is_not_held_against_the_candidate() -> None:
    both = a_profile(refusal_rate=0.5, degenerate_rate=0.4, empty_rate=0.3)
    report = decide(an_evaluation(candidate_answers=both, stable_answers=both), POLICY)
    assert report.verdict is Verdict.PASSED


@pytest.mark.parametrize(
    ("wins", "losses", "ties", "verdict"),
    [
        (10, 50, 4, Verdict.REFUSED),
        (33, 31, 0, Verdict.INCONCLUSIVE),
        (0, 0, 64, Verdict.INCONCLUSIVE),
        (6, 0, 58, Verdict.INCONCLUSIVE),
        (20, 0, 0, Verdict.INCONCLUSIVE),  # too few prompts
        (40, 20, 4, Verdict.PASSED),
    ],
)
def test_verdicts(wins: int, losses: int, ties: int, verdict: Verdict) -> None:
    assert decide(an_evaluation(wins, losses, ties), POLICY).verdict is verdict


def test_nothing_measured_never_passes() -> None:
    nothing = Evaluation(candidate="new", stable="old", note="the ledger has no prompts")
    report = decide(nothing, POLICY)
    assert report.verdict is Verdict.REFUSED
    assert report.reasons[-1] == "the ledger has no prompts"


def test_the_report_is_json() -> None:
    report = decide(an_evaluation(), POLICY).as_json()
    assert report["verdict"] == "passed"
    assert superseded("newer").as_json()["reasons"] == ["superseded by a newer candidate: newer"]


@given(
    st.integers(0, 80),
    st.integers(0, 80),
    st.one_of(st.none(), st.floats(0, 5)),
    st.floats(0, 1),
    st.floats(0, 200),
    st.integers(0, 100),
)
def test_passing_means_that_every_check_passed(
    wins: int, losses: int, distance: float | None, empty: float, words: float, correct: int
) -> None:
    evaluation = an_evaluation(
        wins,
        losses,
        0,
        distance=distance,
        candidate_answers=a_profile(empty_rate=empty, median_words=words),
        judge=Judge(version="j", held_out_pairs=100, held_out_correct=correct),
    )
    report = decide(evaluation, POLICY)
    assert (report.verdict is Verdict.PASSED) == all(check.passed for check in report.checks)
    if report.verdict is Verdict.PASSED:
        assert evaluation.win_rate is not None
        assert evaluation.win_rate.low > 0.5
        assert wins > losses
    assert report.reasons


def test_equal_versions_are_rarely_promoted_by_luck() -> None:
    """2,000 candidates that are no better, seen by a perfect judge: at most 5% pass."""
    rng = np.random.default_rng(5)
    passed, base = 0, an_evaluation()
    for trial in range(2000):
        wins = int(rng.binomial(64, 0.5))
        evaluation = base.model_copy(
            update={
                "prompts": 64,
                "answered": 64,
                "wins": wins,
                "losses": 64 - wins,
                "win_rate": win_rate([1.0] * wins + [0.0] * (64 - wins), seed=trial, resamples=400),
            }
        )
        passed += decide(evaluation, POLICY).verdict is Verdict.PASSED
    assert passed / 2000 <= 0.05


@pytest.mark.parametrize("pairs", [20, 60, 150])
def test_noise_is_refused_since_its_judge_is_a_coin(pairs: int) -> None:
    """People without any preference: even a candidate that pleases their judge is refused."""
    rng = np.random.default_rng(pairs)
    passed, praised = 0, an_evaluation()
    for _ in range(2000):
        judge = Judge(
            version="noise",
            held_out_pairs=pairs,
            held_out_correct=float(rng.binomial(pairs, 0.5)),
        )
        passed += (
            decide(praised.model_copy(update={"judge": judge}), POLICY).verdict is Verdict.PASSED
        )
    assert passed / 2000 <= 0.05
