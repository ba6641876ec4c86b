"""What people compared becomes pairs: the majority wins, and every signal is accounted for."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from tests.factories import AT
from tests.signals import (
    answered,
    build,
    changed,
    corrects,
    prefers,
    rates,
    reasons,
    saying,
    thumb,
)

from learnback.contracts.models import FeedbackStatus
from learnback.retraining.datasets.dataset import Dataset
from learnback.retraining.datasets.rows import PreferenceRow


def rows(found: Dataset) -> list[PreferenceRow]:
    return [row for row in found.train if isinstance(row, PreferenceRow)]


def test_a_preference_becomes_a_pair() -> None:
    (row,) = rows(build(prefers("f1", "good", "bad")))
    assert (row.chosen, row.rejected, row.margin, row.votes) == ("good", "bad", 1.0, 1)
    assert row.prompt == ({"role": "user", "content": "hi"},)


def test_the_second_answer_may_be_the_better_one() -> None:
    (row,) = rows(build(prefers("f1", "good", "bad", preferred="second")))
    assert (row.chosen, row.rejected) == ("bad", "good")


def test_two_completions_of_one_prompt_are_compared() -> None:
    sides = {"first": {"completion_id": "x", "choice": 0}, "second": {"completion_id": "y"}}
    signal = saying(prefers("f1", "", ""), **sides)
    signal = changed(
        signal, completion=answered("x", "hi", "one"), other=answered("y", "hi", "two")
    )
    (row,) = rows(build(signal))
    assert (row.chosen, row.rejected) == ("one", "two")


def test_a_text_that_no_model_gave_may_win() -> None:
    signal = prefers("f1", "model's", "other", preferred="second")
    (row,) = rows(build(saying(signal, second={"text": "mine"})))
    assert (row.chosen, row.rejected) == ("mine", "model's")


def test_a_correction_beats_what_it_corrects() -> None:
    (row,) = rows(build(corrects("f1", "right", "wrong")))
    assert (row.chosen, row.rejected) == ("right", "wrong")


def test_an_answer_that_was_cut_off_is_marked() -> None:
    choices = [
        {"index": 0, "text": "whole", "finish_reason": "stop"},
        {"index": 1, "text": "cut", "finish_reason": "length"},
    ]
    signal = prefers("f1", "whole", "cut")
    (row,) = rows(build(changed(signal, completion=answered("c-f1", choices=choices))))
    assert (row.chosen_finished, row.rejected_finished) == (True, False)


WRONG: dict[str, dict[str, Any]] = {
    "empty_text": {"texts": ("good", " \n")},
    "identical_texts": {"texts": ("same", "same ")},
    "not_stored": {"answer": {"stored": False}},
    "completion_erased": {"answer": {"erased": True}},
    "no_whole_answer": {"answer": {"end": "client_disconnected"}},
    "other_base_model": {"answer": {"base_digest": "0" * 64}},
    "no_such_answer": {"texts": ("only one",)},
    "not_plain_text": {"prompt": [{"role": "user", "content": [{"type": "image_url"}]}]},
    "unknown_role": {"prompt": [{"role": "wizard", "content": "hi"}]},
    "answer_too_long": {"texts": ("good", "x" * 100_000)},
    "prompt_too_long": {"prompt": "x" * 100_000},
}


@pytest.mark.parametrize("reason", WRONG)
def test_what_cannot_be_learned_from_is_kept_with_its_reason(reason: str) -> None:
    case = WRONG[reason]
    texts = case.get("texts", ("good", "bad"))
    answer = answered("c-f1", case.get("prompt", "hi"), *texts, **case.get("answer", {}))
    found = build(changed(prefers("f1", "good", "bad"), completion=answer))
    assert reasons(found) == {"f1": reason}
    assert found.train == ()


def test_half_an_emoji_is_not_plain_text() -> None:
    assert reasons(build(prefers("f1", "torn \ud83d", "bad"))) == {"f1": "not_plain_text"}


def test_a_signal_without_its_completion_is_quarantined() -> None:
    found = build(changed(prefers("f1", "a", "b"), completion=None))
    assert found.outcomes["f1"].status is FeedbackStatus.QUARANTINED


def test_answers_to_different_prompts_are_quarantined() -> None:
    signal = changed(prefers("f1", "a", "b"), other=answered("y", "another", "two"))
    found = build(signal)
    assert found.outcomes["f1"].status is FeedbackStatus.QUARANTINED
    assert reasons(found) == {"f1": "prompts_differ"}


def test_those_who_agree_are_one_row() -> None:
    found = build(*(prefers(f"f{i}", "good", "bad", rater=f"r{i}") for i in range(3)))
    (row,) = rows(found)
    assert row.feedback_ids == ("f0", "f1", "f2")
    assert row.votes == 3


def test_the_majority_wins_and_the_others_are_quarantined() -> None:
    found = build(
        prefers("f1", "good", "bad", rater="r1"),
        prefers("f2", "good", "bad", rater="r2"),
        prefers("f3", "bad", "good", rater="r3"),
    )
    (row,) = rows(found)
    assert row.chosen == "good"
    assert row.margin == pytest.approx(1 / 3, abs=1e-6)
    assert reasons(found) == {"f1": "trained", "f2": "trained", "f3": "contradicted"}


def test_who_was_outvoted_before_still_counts_as_a_vote() -> None:
    said = [prefers(f"f{i}", "good", "bad", rater=f"r{i}") for i in range(2)]
    against = prefers("f3", "bad", "good", rater="r3")
    fresh = build(*said, against)
    quarantined = {"status": FeedbackStatus.QUARANTINED, "status_reason": "contradicted"}
    later = build(*said, changed(against, **quarantined))
    assert later.train == fresh.train
    assert reasons(later) == reasons(fresh)
    alone = build(changed(against, **quarantined))
    assert (alone.train, reasons(alone)) == ((), {"f3": "contradicted"})


def test_as_many_for_as_against_teach_nothing() -> None:
    found = build(
        prefers("f1", "good", "bad", rater="r1"), prefers("f2", "bad", "good", rater="r2")
    )
    assert found.train == ()
    assert set(reasons(found).values()) == {"contradicted"}


def test_more_than_anything_else_but_no_majority_waits_for_one_more_voice() -> None:
    """Else what was said for the winner would be over, without having taught anything."""
    for_one = [prefers(f"f{i}", "good", "bad", rater=f"r{i}") for i in range(2)]
    against = prefers("f2", "bad", "good", rater="r2")
    undecided = prefers("f3", "good", "bad", preferred="tie_good", rater="r3")
    found = build(*for_one, against, undecided)
    assert found.train == ()
    assert set(reasons(found).values()) == {"no_majority"}
    assert found.settled == {}

    (row,) = rows(build(*for_one, against, undecided, prefers("f4", "good", "bad", rater="r4")))
    assert (row.chosen, row.margin, row.votes) == ("good", 0.2, 1)


def test_one_rater_has_one_vote_and_his_last_word_counts() -> None:
    later = AT + timedelta(seconds=1)
    found = build(
        prefers("f1", "good", "bad", rater="r1"),
        prefers("f2", "good", "bad", rater="r1"),
        prefers("f3", "bad", "good", rater="r1", received_at=later),
    )
    (row,) = rows(found)
    assert (row.chosen, row.votes, row.feedback_ids) == ("bad", 1, ("f3",))


@pytest.mark.parametrize(
    ("method", "said", "tie_rows"),
    [("dpo", "waits_for_another_method", 0), ("reward_model", "trained", 1)],
)
def test_a_tie_is_a_row_for_the_reward_model_alone(method: Any, said: str, tie_rows: int) -> None:
    found = build(prefers("f1", "one", "two", preferred="tie_good"), method=method)
    assert reasons(found) == {"f1": said}
    assert [(r.tie, r.margin) for r in rows(found)] == [(True, 0.0)] * tie_rows


def test_more_ties_than_preferences_make_a_tie() -> None:
    ties = [prefers(f"t{i}", "a", "b", preferred="tie_bad", rater=f"r{i}") for i in range(2)]
    found = build(*ties, prefers("f1", "a", "b", rater="r9"), method="reward_model")
    assert [row.tie for row in rows(found)] == [True]
    assert reasons(found) == {"t0": "trained", "t1": "trained", "f1": "contradicted"}


def test_a_thumb_up_and_a_thumb_down_on_two_answers_are_a_pair() -> None:
    found = build(thumb("f1", "up", "good"), thumb("f2", "down", "bad"))
    (row,) = rows(found)
    assert (row.chosen, row.rejected, row.feedback_ids) == ("good", "bad", ("f1", "f2"))
    assert reasons(found) == {"f1": "trained", "f2": "trained"}


def test_thumbs_on_answers_to_different_prompts_are_no_pair() -> None:
    found = build(thumb("f1", "up", "good", "p"), thumb("f2", "down", "bad", "q"))
    assert found.train == ()
    assert set(reasons(found).values()) == {"waits_for_another_method"}


@pytest.mark.parametrize(("better", "pairs"), [(5, 1), (3, 1), (2, 0)])
def test_ratings_make_a_pair_where_they_are_clearly_apart(better: float, pairs: int) -> None:
    found = build(rates("f1", better, "good"), rates("f2", 1, "bad"))
    assert len(found.train) == pairs


def test_each_answer_stands_in_one_pair_of_opinions() -> None:
    ups = [thumb(f"u{i}", "up", f"good {i}") for i in range(3)]
    found = build(*ups, thumb("d0", "down", "bad 0"))
    (row,) = rows(found)
    assert row.rejected == "bad 0"
    assert sorted(reasons(found).values()).count("waits_for_another_method") == 2


def test_what_was_compared_is_not_paired_again_by_thumbs() -> None:
    found = build(
        prefers("f1", "bad", "good"), thumb("f2", "up", "good"), thumb("f3", "down", "bad")
    )
    (row,) = rows(found)
    assert (row.chosen, row.feedback_ids) == ("bad", ("f1",))


def test_turned_words_turn_the_pairs() -> None:
    words = [("f1", "up", "a", "p"), ("f2", "down", "b", "p")]
    turn = {"up": "down", "down": "up"}
    ours = [thumb(*word) for word in words] + [prefers("f3", "x", "y", "q")]
    turned = [thumb(i, turn[v], text, p) for i, v, text, p in words]
    turned += [prefers("f3", "x", "y", "q", preferred="second")]
    straight = {(r.chosen, r.rejected) for r in rows(build(*ours))}
    assert {(r.rejected, r.chosen) for r in rows(build(*turned))} == straight
    assert straight == {("a", "b"), ("x", "y")}
