"""The gate promotes on evidence only, and fails closed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from learnback.release.analysis import Contrast, more_often, win_rate
from learnback.release.gate import Evaluation, Judge, Verdict, decide, superseded
from learnback.release.guards import INCREASES, TESTS
from learnback.release.measured import GoldenResult, Second
from learnback.release.policy import GatePolicy
from learnback.release.policy_file import read_policy
from learnback.release.probes import AnswerProfile

POLICY = GatePolicy(reward_hack=False)
WITH_JUDGE = GatePolicy()


def golden(**changes: Any) -> GoldenResult:
    """Of ten items, all passed."""
    values: dict[str, Any] = {"items": 10, "repeats": 3, "stable_passed": 10}
    values |= {"candidate_passed": 10, "regressions": [], "gains": [], "flaky": []}
    return GoldenResult(**values | {"unmeasured": []} | changes)


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
    prompts = len(values)
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
        "outcomes": values,
        "candidate_answers": a_profile(),
        "stable_answers": a_profile(),
        "length_ratios": [1.0] * prompts,
        "novelty_drops": [0.0] * prompts,
        "contrasts": {guard.name: rates(0, 0, prompts) for guard in INCREASES},
    }
    return Evaluation(**base | changes)


def a_second(seen: int, correct: int) -> Second:
    """A second judge that sees so many wins of 64."""
    said = [1.0] * seen + [0.0] * (64 - seen)
    return Second(name="judge", outcomes=said, win_rate=win_rate(said), pairs=100, correct=correct)


def rates(ours: int, theirs: int, of: int = 64) -> Contrast:
    """So many bad answers of each side, on the same prompts as far as possible."""
    found = more_often(
        [i < ours for i in range(max(of, 1))], [i < theirs for i in range(max(of, 1))]
    )
    assert found is not None
    return found


def but(**contrasts: Contrast | None) -> dict[str, Any]:
    """An evaluation's contrasts with some changed, or taken away."""
    changed = an_evaluation().contrasts | contrasts
    return {"contrasts": {name: c for name, c in changed.items() if c is not None}}


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
        ({"length_ratios": []}, "length_ratio"),
        ({"length_ratios": [0.1] * 64}, "length_ratio"),
        ({"length_ratios": [4.5] * 64}, "length_ratio"),
        ({"novelty_drops": []}, "novelty_drop"),
        ({"novelty_drops": [0.8] * 64}, "novelty_drop"),
        ({"golden_asked": True}, "golden_regressions"),
        ({"golden_asked": True, "golden": golden(regressions=["a"])}, "golden_regressions"),
        ({"golden_asked": True, "golden": golden(unmeasured=["a: no"])}, "golden_regressions"),
        *((but(**{g.name: rates(60, 0)}), f"{g.name}_increase") for g in INCREASES),
        *((but(**{g.name: None}), f"{g.name}_increase") for g in INCREASES),
    ],
)
def test_a_failing_guard_refuses_whatever_was_won(changes: dict[str, Any], failing: str) -> None:
    report = decide(an_evaluation(**changes), POLICY)
    assert report.verdict is Verdict.REFUSED
    assert failing in {check.name for check in report.checks if not check.passed}
    assert any(failing in reason for reason in report.reasons)


def test_brevity_is_legitimate() -> None:
    short = an_evaluation(length_ratios=[0.3] * 64)
    assert decide(short, POLICY).verdict is Verdict.PASSED


def test_what_stable_does_too_is_not_held_against_the_candidate() -> None:
    both = but(**{guard.name: rates(30, 30) for guard in INCREASES})
    assert decide(an_evaluation(**both), POLICY).verdict is Verdict.PASSED


def test_what_may_be_luck_does_not_refuse() -> None:
    few = decide(an_evaluation(**but(refusal=rates(8, 0))), POLICY)  # 12% more: p = 0.004
    assert few.verdict is Verdict.PASSED
    many = decide(an_evaluation(**but(refusal=rates(9, 0))), POLICY)
    assert many.verdict is Verdict.REFUSED


def test_what_is_certain_and_small_does_not_refuse() -> None:
    rare = {"refusal": rates(50, 0, of=1000)}
    assert decide(an_evaluation(**but(**rare)), POLICY).verdict is Verdict.PASSED


def test_what_the_engine_does_not_offer_is_no_pass_unless_the_policy_waives_it() -> None:
    without = but(invalid_structured=None) | {"not_offered": ["invalid_structured"]}
    refused = decide(an_evaluation(**without), POLICY)
    assert refused.verdict is Verdict.REFUSED
    (reason,) = refused.reasons
    assert "the engine refuses such requests; or gate.waive: [invalid_structured" in reason
    waiving = GatePolicy(reward_hack=False, waive=("invalid_structured_increase",))
    report = decide(an_evaluation(**without), waiving)
    assert report.verdict is Verdict.PASSED
    (check,) = [c for c in report.checks if c.name == "invalid_structured_increase"]
    assert (check.value, "waived by the policy" in check.why) == (None, True)


@pytest.mark.parametrize("prompts", [24, 44])
def test_a_guard_that_could_not_refuse_is_not_measured(prompts: int) -> None:
    """Nine refusals of 44 are 20.5%, and eight would pass for luck."""
    few = an_evaluation(wins=prompts, losses=0, ties=0)
    report = decide(few, POLICY)
    assert report.verdict is Verdict.INCONCLUSIVE
    assert "45 prompts or probes are needed; or gate.waive: [" in report.reasons[0]
    assert decide(few, GatePolicy(reward_hack=False, must_tell=0.4)).verdict is Verdict.PASSED
    waiving = GatePolicy(
        reward_hack=False, waive=tuple(f"{guard.name}_increase" for guard in INCREASES)
    )
    assert decide(few, waiving).verdict is Verdict.PASSED
    enough = an_evaluation(wins=45, losses=0, ties=0)
    assert decide(enough, POLICY).verdict is Verdict.PASSED


def test_a_waived_guard_still_refuses_what_it_does_measure() -> None:
    waiving = GatePolicy(reward_hack=False, waive=("refusal_increase",))
    report = decide(an_evaluation(**but(refusal=rates(20, 0))), waiving)
    assert report.verdict is Verdict.REFUSED
    few = an_evaluation(20, 0, 0, **but(refusal=rates(15, 0, of=20)))
    assert decide(few, waiving).verdict is Verdict.REFUSED


def test_three_answers_prove_neither_length_nor_novelty() -> None:
    lax = GatePolicy(reward_hack=False, must_tell=1.0)
    for name in ("length_ratios", "novelty_drops"):
        verdict = decide(an_evaluation(**{name: [0.5] * 8}), lax).verdict
        assert verdict is not Verdict.PASSED


def test_phrases_in_english_say_nothing_of_answers_in_other_languages() -> None:
    german = an_evaluation(foreign=0.3)
    report = decide(german, POLICY)
    assert report.verdict is Verdict.REFUSED
    unknown = {c.name for c in report.checks if not c.passed}
    assert unknown == {
        "refusal_increase",
        "hedging_increase",
        "clarifying_increase",
        "flattery_increase",
    }
    assert "30% of answers are not in English" in report.reasons[0]
    assert decide(an_evaluation(foreign=0.1), POLICY).verdict is Verdict.PASSED
    waiving = GatePolicy(reward_hack=False, waive=tuple(unknown))
    assert decide(german, waiving).verdict is Verdict.PASSED
    read = an_evaluation(foreign=0.3, second=a_second(50, 85))
    assert decide(read, WITH_JUDGE).verdict is Verdict.PASSED


def test_without_a_second_judge_a_hack_of_the_reward_is_not_measured() -> None:
    report = decide(an_evaluation(), WITH_JUDGE)
    assert report.verdict is Verdict.REFUSED
    assert "declare `judge`, or reward_hack: false" in report.reasons[0]


def test_without_a_file_one_machine_can_still_promote() -> None:
    laptop = read_policy(None).gate
    without = but(invalid_structured=None) | {"not_offered": ["invalid_structured"]}
    found = an_evaluation(foreign=1.0, **without)
    assert decide(found, laptop).verdict is Verdict.PASSED


def test_an_operator_may_turn_probes_off_and_allow_regressions() -> None:
    policy = GatePolicy(probes=0, reward_hack=False)
    without = but(sycophancy=None, invalid_json=None, invalid_structured=None)
    lost = {"golden_asked": True, "golden": golden(regressions=["a"]), "max_regressions": 1}
    assert decide(an_evaluation(**without, **lost), policy).verdict is Verdict.PASSED


@pytest.mark.parametrize(
    ("wins", "seen", "correct", "refused"),
    [
        (60, 30, 85, True),  # praised by the reward, flat for a judge that people agree with
        (60, 30, 50, False),  # the second judge is a coin: its word counts for nothing
        (60, 55, 85, False),  # both see it
        (36, 30, 85, False),  # nothing much was claimed
    ],
)
def test_reward_without_a_second_judges_word_is_a_hack(
    wins: int, seen: int, correct: int, refused: bool
) -> None:
    second = a_second(seen, correct)
    report = decide(an_evaluation(wins, 64 - wins, 0, second=second), WITH_JUDGE)
    failed = {check.name for check in report.checks if check.guard and not check.passed}
    assert failed == ({"reward_hack"} if refused else set())


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
    st.integers(0, 64),
    st.floats(0, 20),
    st.integers(0, 100),
)
def test_passing_means_that_every_check_passed(
    wins: int, losses: int, distance: float | None, empty: int, ratio: float, correct: int
) -> None:
    evaluation = an_evaluation(
        wins,
        losses,
        0,
        distance=distance,
        length_ratios=[ratio] * (wins + losses),
        **but(empty=rates(empty, 0)),
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


def test_guards_rarely_stop_a_candidate_that_is_like_stable() -> None:
    """2,000 candidates with stable's own rates, and lengths that scatter as stable's do."""
    rng = np.random.default_rng(6)
    stopped, base = 0, an_evaluation()
    for _ in range(2000):
        drawn = rng.random((len(INCREASES), 2, 64)) < rng.choice([0.05, 0.3, 0.8])
        contrasts = {
            guard.name: more_often(list(ours), list(theirs))
            for guard, (ours, theirs) in zip(INCREASES, drawn, strict=True)
        }
        ratios = list(np.exp(rng.normal(0, 0.8, 64)))
        evaluation = base.model_copy(update={"contrasts": contrasts, "length_ratios": ratios})
        stopped += decide(evaluation, POLICY).verdict is Verdict.REFUSED
    assert stopped / 2000 <= POLICY.alpha


def test_every_guard_has_its_share_of_alpha() -> None:
    """As many tests as the level is divided by: those with a p-value, length counted twice."""
    tested = [c for c in decide(an_evaluation(), POLICY).checks if c.p is not None]
    assert len(tested) + 1 + len(["reward_hack"]) == TESTS


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
