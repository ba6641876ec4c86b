"""A dataset accounts for every signal, never splits a prompt, and does not depend on order."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.factories import AT

from learnback.contracts.models import FeedbackKind, FeedbackStatus
from learnback.ledger.prompts import prompt_held_out, prompt_key, rater_held_out
from learnback.ledger.training import Answered, Signal
from learnback.retraining import dataset
from learnback.retraining.dataset import Dataset, Shares

BASE = "b" * 64
NOTHING_HELD_OUT = Shares(prompts=0.0, raters=0.0)


def answered(name: str, prompt: Any = "hi", *texts: str, **changes: Any) -> Answered:
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    values: dict[str, Any] = {
        "id": name,
        "version": "tiny-base",
        "base_digest": BASE,
        "end": "complete",
        "stored": True,
        "erased": False,
        "prompt": messages,
        "prompt_key": prompt_key(messages),
        "choices": [
            {"index": i, "text": text, "finish_reason": "stop", "tool_calls": []}
            for i, text in enumerate(texts)
        ],
    }
    return Answered(**values | changes)


def prefers(
    name: str,
    better: str,
    worse: str,
    prompt: Any = "hi",
    *,
    rater: str | None = None,
    **changes: Any,
) -> Signal:
    """One person saw `better` first and liked it; both are choices of one completion."""
    values: dict[str, Any] = {
        "id": name,
        "tenant": "default",
        "kind": FeedbackKind.PREFERENCE,
        "status": FeedbackStatus.ACCEPTED,
        "received_at": AT,
        "rater_id": rater,
        "rater_kind": "human",
        "body": {
            "first": {"completion_id": f"c-{name}", "choice": 0},
            "second": {"completion_id": f"c-{name}", "choice": 1},
            "preferred": "first",
            "strength": 1.0,
        },
        "choice": 0,
        "other_choice": 1,
        "completion": answered(f"c-{name}", prompt, better, worse),
        "other": None,
    }
    return Signal(**values | changes)


def build(*signals: Signal, shares: Shares = NOTHING_HELD_OUT) -> Dataset:
    return dataset.build(signals, BASE, shares)


def reasons(found: Dataset) -> dict[str, str]:
    return {i: o.reason or o.status.value for i, o in found.outcomes.items()}


def test_a_preference_becomes_a_pair() -> None:
    (row,) = build(prefers("f1", "good", "bad")).train
    assert (row.chosen, row.rejected, row.margin, row.votes) == ("good", "bad", 1.0, 1)
    assert row.prompt == ({"role": "user", "content": "hi"},)


def test_the_second_answer_may_be_the_better_one() -> None:
    signal = prefers("f1", "good", "bad")
    (row,) = build(_with(signal, preferred="second")).train
    assert (row.chosen, row.rejected) == ("bad", "good")


def test_two_completions_of_one_prompt_are_compared() -> None:
    sides = {"first": {"completion_id": "x", "choice": 0}, "second": {"completion_id": "y"}}
    signal = _with(prefers("f1", "", ""), **sides)
    signal = _replace(
        signal, completion=answered("x", "hi", "one"), other=answered("y", "hi", "two")
    )
    (row,) = build(signal).train
    assert (row.chosen, row.rejected) == ("one", "two")


def test_a_text_that_no_model_gave_may_win() -> None:
    signal = _with(prefers("f1", "model's", "other"), second={"text": "mine"}, preferred="second")
    (row,) = build(signal).train
    assert (row.chosen, row.rejected) == ("mine", "model's")


def test_a_correction_beats_what_it_corrects() -> None:
    signal = _replace(prefers("f1", "wrong", "-"), kind=FeedbackKind.CORRECTION, choice=0)
    signal = _replace(signal, body={"text": "right"})
    (row,) = build(signal).train
    assert (row.chosen, row.rejected) == ("right", "wrong")


def test_an_answer_that_was_cut_off_is_marked() -> None:
    choices = [
        {"index": 0, "text": "whole", "finish_reason": "stop"},
        {"index": 1, "text": "cut", "finish_reason": "length"},
    ]
    signal = prefers("f1", "whole", "cut")
    signal = _replace(signal, completion=answered("c-f1", choices=choices))
    (row,) = build(signal).train
    assert (row.chosen_finished, row.rejected_finished) == (True, False)


WRONG = {
    "tie": {"body": {"preferred": "tie_good"}},
    "empty_text": {"texts": ("good", " \n")},
    "identical_texts": {"texts": ("same", "same")},
    "not_stored": {"answer": {"stored": False}},
    "completion_erased": {"answer": {"erased": True}},
    "no_whole_answer": {"answer": {"end": "client_disconnected"}},
    "other_base_model": {"answer": {"base_digest": "0" * 64}},
    "no_such_answer": {"texts": ("only one",)},
    "not_plain_text": {"prompt": [{"role": "user", "content": [{"type": "image_url"}]}]},
}


@pytest.mark.parametrize("reason", WRONG)
def test_what_cannot_be_learned_from_is_kept_with_its_reason(reason: str) -> None:
    case = WRONG[reason]
    texts = case.get("texts", ("good", "bad"))
    prompt = case.get("prompt", "hi")
    signal = _with(prefers("f1", "good", "bad"), **case.get("body", {}))
    signal = _replace(signal, completion=answered("c-f1", prompt, *texts, **case.get("answer", {})))
    found = build(signal)
    assert reasons(found) == {"f1": reason}
    assert found.train == ()


def test_half_an_emoji_is_not_plain_text() -> None:
    assert reasons(build(prefers("f1", "torn \ud83d", "bad"))) == {"f1": "not_plain_text"}


def test_a_signal_without_its_completion_is_quarantined() -> None:
    found = build(_replace(prefers("f1", "a", "b"), completion=None))
    assert found.outcomes["f1"].status is FeedbackStatus.QUARANTINED


def test_answers_to_different_prompts_are_quarantined() -> None:
    signal = _replace(prefers("f1", "a", "b"), other=answered("y", "another", "two"))
    found = build(signal)
    assert found.outcomes["f1"].status is FeedbackStatus.QUARANTINED
    assert reasons(found) == {"f1": "prompts_differ"}


def test_those_who_agree_are_one_row() -> None:
    found = build(*(prefers(f"f{i}", "good", "bad", rater=f"r{i}") for i in range(3)))
    (row,) = found.train
    assert row.feedback_ids == ("f0", "f1", "f2")
    assert row.votes == 3


def test_the_majority_wins_and_the_others_are_quarantined() -> None:
    found = build(
        prefers("f1", "good", "bad", rater="r1"),
        prefers("f2", "good", "bad", rater="r2"),
        prefers("f3", "bad", "good", rater="r3"),
    )
    (row,) = found.train
    assert row.chosen == "good"
    assert row.margin == pytest.approx(1 / 3, abs=1e-6)
    assert reasons(found) == {"f1": "trained", "f2": "trained", "f3": "contradicted"}


def test_as_many_for_as_against_teach_nothing() -> None:
    found = build(
        prefers("f1", "good", "bad", rater="r1"), prefers("f2", "bad", "good", rater="r2")
    )
    assert found.train == ()
    assert set(reasons(found).values()) == {"contradicted"}


def test_one_rater_has_one_vote_and_his_last_word_counts() -> None:
    later = AT + timedelta(seconds=1)
    found = build(
        prefers("f1", "good", "bad", rater="r1"),
        prefers("f2", "good", "bad", rater="r1"),
        prefers("f3", "bad", "good", rater="r1", received_at=later),
    )
    (row,) = found.train
    assert (row.chosen, row.votes, row.feedback_ids) == ("bad", 1, ("f3",))


def test_a_single_rater_is_never_held_out() -> None:
    shares = Shares(prompts=0.0, raters=0.99)
    found = build(
        *(prefers(f"f{i}", "a", f"b{i}", rater="alice") for i in range(20)), shares=shares
    )
    assert len(found.train) == 20


def test_whom_we_learned_from_is_not_held_out_later() -> None:
    shares = Shares(prompts=0.0, raters=0.9)
    unlucky = next(f"r{i}" for i in range(99) if rater_held_out("default", f"r{i}", 0.9))
    others = [prefers(f"x{i}", "a", "b", f"p{i}", rater=f"o{i}") for i in range(20)]
    fresh = prefers("f1", "good", "bad", rater=unlucky)
    known = prefers("f0", "good", "bad", "q", rater=unlucky, status=FeedbackStatus.TRAINED)
    assert reasons(build(*others, fresh, shares=shares))["f1"] == "held_out"
    assert reasons(build(*others, fresh, known, shares=shares))["f1"] == "trained"


def test_the_fingerprint_covers_every_text() -> None:
    before = build(prefers("f1", "good", "bad")).fingerprint
    assert build(prefers("f1", "good", "bad!")).fingerprint != before
    assert build(prefers("f1", "bad", "good")).fingerprint != before
    assert build(prefers("f1", "good", "bad", "ho")).fingerprint != before
    assert build(prefers("other-id", "good", "bad")).fingerprint == before


TEXTS = st.sampled_from(["alpha", "beta", "gamma", "", "delta"])
SIGNALS = st.lists(
    st.tuples(
        TEXTS,
        TEXTS,
        st.integers(0, 12).map(lambda i: f"prompt {i}"),
        st.integers(0, 14).map(lambda i: f"rater {i}") | st.none(),
    ),
    max_size=60,
).map(lambda rows: [prefers(f"f{i:02}", a, b, p, rater=r) for i, (a, b, p, r) in enumerate(rows)])


@settings(max_examples=80, deadline=None)
@given(signals=SIGNALS, shares=st.builds(Shares, st.floats(0, 0.9), st.floats(0, 0.9)))
def test_the_laws_of_a_dataset(signals: list[Signal], shares: Shares) -> None:
    found = build(*signals, shares=shares)
    assert sum(found.counts.values()) == len(signals)
    assert set(found.outcomes) == {s.id for s in signals}
    ids = [i for row in (*found.train, *found.held_out) for i in row.feedback_ids]
    assert len(ids) == len(set(ids))
    settled = {FeedbackStatus.TRAINED, FeedbackStatus.HELD_OUT}
    assert set(ids) == {i for i, o in found.outcomes.items() if o.status in settled}
    by_prompt = {row.prompt_key for row in found.held_out if row.side == "prompt"}
    assert not by_prompt & {row.prompt_key for row in found.train}
    assert all(not prompt_held_out(r.prompt_key, shares.prompts) for r in found.train)


@settings(max_examples=40, deadline=None)
@given(data=st.data(), signals=SIGNALS)
def test_order_does_not_matter(data: st.DataObject, signals: list[Signal]) -> None:
    shares = Shares(0.3, 0.3)
    shuffled = data.draw(st.permutations(signals))
    one, other = build(*signals, shares=shares), build(*shuffled, shares=shares)
    assert one == other


def test_what_is_saved_is_read_again(tmp_path: Path) -> None:
    signals = [prefers(f"f{i}", f"good {i}", "bad", f"p{i}", rater=f"r{i}") for i in range(30)]
    found = build(*signals, shares=Shares(0.3, 0.2))
    saved = dataset.save(found, tmp_path)
    assert found.train
    assert found.held_out
    assert tuple(dataset.load_rows(tmp_path / "train.parquet")) == found.train
    assert tuple(dataset.load_rows(tmp_path / "held_out.parquet")) == found.held_out
    manifest = dataset.load_manifest(tmp_path)
    assert manifest == saved
    assert manifest.outcome_of() == dict(found.outcomes)


def _replace(signal: Signal, **changes: Any) -> Signal:
    return Signal(**{**signal.__dict__, **changes})


def _with(signal: Signal, **body: Any) -> Signal:
    return _replace(signal, body={**signal.body, **body})
