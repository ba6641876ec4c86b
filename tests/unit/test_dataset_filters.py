"""What is good enough to learn from, and how far raters agree."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.signals import build, corrects, examined, prefers, reasons, thumb

from learnback.contracts.models import FeedbackStatus
from learnback.retraining.datasets import agreement
from learnback.retraining.datasets.filters import most_each

GERMAN = "Die Antwort auf diese Frage ist leider nicht ganz so einfach, wie man denkt."
ENGLISH = "The answer to this question is unfortunately not quite as easy as one thinks."


def test_too_few_independent_votes_wait() -> None:
    two = [prefers(f"f{i}", "a", "b", rater=f"r{i}") for i in range(2)]
    found = build(*two, min_votes=3)
    assert reasons(found) == {"f0": "too_few_votes", "f1": "too_few_votes"}
    assert found.outcomes["f0"].status is FeedbackStatus.ACCEPTED
    third = prefers("f2", "a", "b", rater="r2")
    assert len(build(*two, third, min_votes=3).train) == 1


def test_people_without_a_name_count_as_one_vote() -> None:
    nameless = [prefers(f"f{i}", "a", "b") for i in range(5)]
    assert build(*nameless, min_votes=2).train == ()
    assert len(build(*nameless, prefers("g", "a", "b", rater="ann"), min_votes=2).train) == 1


def test_a_correction_needs_no_other_votes() -> None:
    assert len(build(corrects("f1", "right", "wrong"), min_votes=3).train) == 1


def test_raters_who_hardly_agree_are_quarantined() -> None:
    said = [prefers(f"f{i}", "a", "b", rater=f"r{i}") for i in range(3)]
    said += [prefers(f"g{i}", "b", "a", rater=f"q{i}") for i in range(2)]
    assert len(build(*said, min_item_agreement=0.6).train) == 1
    found = build(*said, min_item_agreement=0.61)
    assert set(reasons(found).values()) == {"raters_disagree"}
    assert {o.status for o in found.outcomes.values()} == {FeedbackStatus.QUARANTINED}


def test_a_rater_who_agrees_with_nobody_is_quarantined_with_all_he_said() -> None:
    said = [prefers(f"{r}{i}", "a", "b", f"p{i}", rater=r) for r in ("ann", "bob") for i in (1, 2)]
    said += [prefers(f"eve{i}", "b", "a", f"p{i}", rater="eve") for i in (1, 2)]
    said += [thumb("eve9", "up", "spam", "elsewhere", rater="eve")]
    found = build(*said, min_rater_agreement=0.3, min_rater_overlap=2)
    outsiders = {i for i, r in reasons(found).items() if r == "rater_disagrees_with_others"}
    assert outsiders == {"eve1", "eve2", "eve9"}
    patient = build(*said, min_rater_agreement=0.3, min_rater_overlap=3)
    assert reasons(patient)["eve9"] == "waits_for_another_method"


def test_one_rater_cannot_dominate() -> None:
    said = [prefers(f"f{i:03}", "a", "b", f"p{i}", rater="loud") for i in range(500)]
    said += [prefers(f"g{i}", "a", "b", f"q{i}", rater=f"r{i % 12}") for i in range(120)]
    found = build(*said)
    kept = [i for i, r in reasons(found).items() if r == "trained" and i.startswith("f")]
    assert kept == [f"f{i:03}" for i in range(40)]  # 40 of 160 are a quarter
    assert reasons(found)["f499"] == "rater_cap"
    assert found.outcomes["f499"].status is FeedbackStatus.ACCEPTED


def test_a_handful_of_raters_is_not_capped() -> None:
    said = [prefers(f"f{i}", "a", "b", f"p{i}", rater="only") for i in range(50)]
    assert len(build(*said).train) == 50


@given(st.lists(st.integers(1, 50), min_size=1), st.floats(0.05, 1), st.integers(0, 50))
def test_the_cap_is_the_largest_that_keeps_the_share(
    counts: list[int], share: float, others: int
) -> None:
    cap = most_each(counts, share, others)

    def fits(n: int) -> bool:
        return n <= share * (others + sum(min(count, n) for count in counts))

    assert cap == max([n for n in range(1, max(counts) + 1) if fits(n)], default=1)


def test_only_the_languages_asked_for_are_learned_from() -> None:
    said = [prefers("f1", ENGLISH, "no"), prefers("f2", GERMAN, "nein", "q")]
    assert len(build(*said).train) == 2
    found = build(*said, languages=["en"])
    assert reasons(found) == {"f1": "trained", "f2": "other_language"}


def test_too_short_answers_are_kept_with_their_reason() -> None:
    found = build(prefers("f1", "a long answer", "no"), min_answer_characters=3)
    assert reasons(found) == {"f1": "answer_too_short"}


def test_alpha_equals_the_textbook_value() -> None:
    """Krippendorff (2011), example C: four observers, twelve units, gaps; nominal 0.743,
    interval 0.849."""
    units = [
        [1, 1, 1],
        [2, 2, 3, 2],
        [3, 3, 3, 3],
        [3, 3, 3, 3],
        [2, 2, 2, 2],
        [1, 2, 3, 4],
        [4, 4, 4, 4],
        [1, 1, 2, 1],
        [2, 2, 2, 2],
        [5, 5, 5],
        [1, 1],
        [3],
    ]
    assert agreement.krippendorff(units, agreement.nominal) == pytest.approx(0.743, abs=5e-4)
    assert agreement.krippendorff(units, agreement.interval) == pytest.approx(0.849, abs=5e-4)


def test_agreement_is_reported_with_the_dataset() -> None:
    said = [prefers(f"f{i}", "a", "b", rater=f"r{i}") for i in range(3)]
    said += [prefers("f3", "b", "a", rater="r3"), thumb("f4", "up", "a")]
    found = examined(said).agreement
    assert (found["comparisons"].items, found["comparisons"].pairwise) == (1, 0.5)
    assert found["opinions"].items == 0
    assert found["opinions"].alpha is None
