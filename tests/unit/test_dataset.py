"""The laws of every dataset: nothing is lost, no prompt is on both sides, order does not matter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.signals import (
    build,
    changed,
    corrects,
    examined,
    prefers,
    rates,
    reasons,
    saying,
    thumb,
)

from learnback.contracts.models import FeedbackStatus, Preferred
from learnback.ledger.prompts import prompt_held_out, prompt_key, rater_held_out
from learnback.ledger.training import Signal
from learnback.retraining.datasets import dataset, files, rows
from learnback.retraining.datasets.dataset import ROWS
from learnback.retraining.datasets.split import Shares
from learnback.retraining.hyperparameters import Method

METHODS: tuple[Method, ...] = ("sft", "dpo", "kto", "reward_model", "rloo")


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


def test_a_rater_is_on_one_side_whatever_he_does() -> None:
    shares = Shares(prompts=0.0, raters=0.9)
    unlucky = next(f"r{i}" for i in range(99) if rater_held_out("default", f"r{i}", 0.9))
    others = [prefers(f"x{i}", "a", "b", f"p{i}", rater=f"o{i}") for i in range(20)]
    his = [corrects("f1", "right", "wrong", rater=unlucky), thumb("f2", "up", "a", rater=unlucky)]
    assert reasons(build(*others, *his, shares=shares, method="sft"))["f1"] == "held_out"
    assert reasons(build(*others, *his, shares=shares, method="kto"))["f2"] == "held_out"


def test_all_turns_of_a_conversation_are_on_one_side() -> None:
    """A later turn shows the earlier ones with their answers."""
    shares, said = Shares(prompts=0.5, raters=0.0), []
    for i in range(40):
        first = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": f"q{i}"}]
        later = [*first, {"role": "assistant", "content": "a"}, {"role": "user", "content": "Why?"}]
        said += [
            prefers(f"first-{i}", "good", "bad", first),
            prefers(f"later-{i}", "good", "bad", later),
        ]
    seen = examined(said, shares)
    found = dataset.build(
        seen, "rloo", [(s.completion.prompt_key, s.completion.prompt) for s in said if s.completion]
    )

    assert {seen.sides[f"first-{i}"] for i in range(40)} == {"train", "prompt"}
    assert all(seen.sides[f"first-{i}"] == seen.sides[f"later-{i}"] for i in range(40))
    trained = {row.prompt[1]["content"] for row in found.train}
    assert not trained & {row.prompt[1]["content"] for row in found.held_out}


def test_prompts_that_no_policy_is_asked_are_counted_by_reason(tmp_path: Path) -> None:
    words = " ".join(f"word{i}" for i in range(40))
    asked: dict[str, Any] = {
        "fine": [{"role": "user", "content": words}],
        "nearly the same": [{"role": "user", "content": f"{words} too"}],
        "of a wizard": [{"role": "wizard", "content": "hi"}],
        "endless": [{"role": "user", "content": "word " * 12_000}],
        "of a tool": [{"role": "tool", "content": "42"}],
        "with a picture": [{"role": "user", "content": [{"type": "image_url"}]}],
    }
    found = dataset.build(examined([]), "rloo", list(asked.items()))
    manifest = files.save(found, tmp_path)

    assert len(found.train) == 1
    assert manifest.prompts_left_out == {
        "near_duplicate": 1,
        "unknown_role": 1,
        "prompt_too_long": 1,
        "not_plain_text": 2,
    }


def test_the_fingerprint_covers_every_text() -> None:
    before = build(prefers("f1", "good", "bad")).fingerprint
    assert build(prefers("f1", "good", "bad!")).fingerprint != before
    assert build(prefers("f1", "bad", "good")).fingerprint != before
    assert build(prefers("f1", "good", "bad", "ho")).fingerprint != before
    assert build(prefers("other-id", "good", "bad")).fingerprint == before


PROMPTS = [f"prompt {i}" for i in range(12)]
TEXTS = st.sampled_from(["alpha", "beta", "gamma", "", "delta"])
RATERS = st.integers(0, 14).map(lambda i: f"rater {i}") | st.none()


def _said(number: int, row: tuple[Any, ...]) -> Signal:
    kind, one, other, prompt, rater, value, outvoted = row
    name = f"f{number:02}"
    if outvoted:
        quarantined = {"status": FeedbackStatus.QUARANTINED, "status_reason": "contradicted"}
        return changed(_said(number, (*row[:-1], False)), **quarantined)
    if kind == "preference":
        return prefers(name, one, other, prompt, rater=rater, preferred=list(Preferred)[value % 4])
    if kind == "correction":
        return corrects(name, one, other, prompt, rater=rater)
    if kind == "thumbs":
        return thumb(name, "up" if value % 2 else "down", one, prompt, rater=rater)
    return rates(name, 1 + value % 5, one, prompt, rater=rater)


KINDS = st.sampled_from(["preference", "correction", "thumbs", "rating"])
SELDOM = st.integers(0, 9).map(lambda i: i == 9)
SIGNALS = st.lists(
    st.tuples(KINDS, TEXTS, TEXTS, st.sampled_from(PROMPTS), RATERS, st.integers(0, 19), SELDOM),
    max_size=60,
).map(lambda rows: [_said(i, row) for i, row in enumerate(rows)])
SHARES = st.builds(Shares, st.floats(0, 0.9), st.floats(0, 0.9))
FILTERS = st.fixed_dictionaries(
    {},
    optional={
        "min_votes": st.integers(1, 2),
        "min_top_votes": st.integers(1, 3),
        "min_item_agreement": st.floats(0, 1),
        "min_rater_agreement": st.floats(0, 1),
        "min_rater_overlap": st.integers(1, 3),
        "max_rater_share": st.floats(0.01, 1),
        "max_answer_characters": st.integers(4, 6),
        "max_resemblance": st.floats(0.5, 1),
    },
)


@settings(max_examples=120, deadline=None)
@given(signals=SIGNALS, shares=SHARES, filters=FILTERS, method=st.sampled_from(METHODS))
def test_the_laws_of_a_dataset(
    signals: list[Signal], shares: Shares, filters: dict[str, Any], method: Method
) -> None:
    found = build(*signals, method=method, shares=shares, **filters)
    assert sum(found.counts.values()) == len(signals)
    assert set(found.outcomes) == {s.id for s in signals}
    ids = {i for row in (*found.train, *found.held_out) for i in row.feedback_ids}
    by_status = {
        status: {i for i, o in found.outcomes.items() if o.status is status}
        for status in FeedbackStatus
    }
    assert {i for row in found.train for i in row.feedback_ids} == by_status[FeedbackStatus.TRAINED]
    assert ids == by_status[FeedbackStatus.TRAINED] | by_status[FeedbackStatus.HELD_OUT]
    outvoted = {s.id for s in signals if s.status is FeedbackStatus.QUARANTINED}
    assert outvoted <= by_status[FeedbackStatus.QUARANTINED]
    by_prompt = {row.prompt_key for row in found.held_out if row.side == "prompt"}
    assert not by_prompt & {row.prompt_key for row in found.train}
    assert all(not prompt_held_out(r.prompt_key, shares.prompts) for r in found.train)
    raters = {s.id: s.rater_id for s in signals}
    held = {raters[i] for r in found.held_out if r.side == "rater" for i in r.feedback_ids}
    assert not held & {raters[i] for i in by_status[FeedbackStatus.TRAINED]}


@settings(max_examples=60, deadline=None)
@given(data=st.data(), signals=SIGNALS, method=st.sampled_from(METHODS), filters=FILTERS)
def test_order_does_not_matter(
    data: st.DataObject, signals: list[Signal], method: Method, filters: dict[str, Any]
) -> None:
    shares = Shares(0.3, 0.3)
    shuffled = data.draw(st.permutations(signals))
    one = build(*signals, method=method, shares=shares, **filters)
    assert one == build(*shuffled, method=method, shares=shares, **filters)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), signals=SIGNALS.filter(bool), method=st.sampled_from(METHODS))
def test_what_is_taken_back_is_nowhere(
    data: st.DataObject, signals: list[Signal], method: Method
) -> None:
    gone = data.draw(st.sampled_from(signals))
    found = build(*(s for s in signals if s is not gone), method=method)
    told = {i for row in (*found.train, *found.held_out, *found.pairs) for i in row.feedback_ids}
    assert gone.id not in told | set(found.outcomes)


TURNED = {
    Preferred.FIRST: Preferred.SECOND,
    Preferred.SECOND: Preferred.FIRST,
    Preferred.TIE_GOOD: Preferred.TIE_BAD,
    Preferred.TIE_BAD: Preferred.TIE_GOOD,
}


def _turned(signal: Signal) -> Signal:
    body = signal.body
    if "preferred" in body:
        return saying(signal, preferred=TURNED[body["preferred"]])
    value = body["value"]
    turned = {"up": "down", "down": "up"}.get(value) or 6 - value
    return saying(signal, value=turned)


@settings(max_examples=60, deadline=None)
@given(signals=SIGNALS)
def test_turned_words_turn_pairs_and_labels(signals: list[Signal]) -> None:
    ours = [s for s in signals if "text" not in s.body]
    turned = [_turned(s) for s in ours]
    straight, other = build(*ours, center_from=99), build(*turned, center_from=99)
    assert {(r.prompt_key, r.chosen, r.rejected) for r in straight.pairs} == {
        (r.prompt_key, r.rejected, r.chosen) for r in other.pairs
    }
    labels = [
        {
            (r.prompt_key, r.completion, r.label)
            for r in build(*words, method="kto", center_from=99).train
            if isinstance(r, rows.LabelRow)
        }
        for words in (ours, turned)
    ]
    assert labels[0] == {(key, text, not label) for key, text, label in labels[1]}


def _everything() -> list[Signal]:
    found: list[Signal] = []
    for i in range(30):
        found += [
            prefers(f"p{i}", f"good {i}", "bad", f"p{i}", rater=f"r{i}"),
            corrects(f"c{i}", f"right {i}", "wrong", f"c{i}", rater=f"r{i}"),
            thumb(f"t{i}", "up", f"liked {i}", f"t{i}", rater=f"r{i}"),
        ]
    return found


def test_the_pairs_of_the_held_out_judge_are_of_prompts_that_no_reward_model_has_seen(
    tmp_path: Path,
) -> None:
    """Held-out raters judge prompts that others, who are trained on, have judged as well."""
    said = [
        prefers(f"f{i}-{j}", f"good {i} {j}", "bad", f"p{i}", rater=f"r{j}")
        for i in range(20)
        for j in range(12)
    ]
    asked = [(s.completion.prompt_key, s.completion.prompt) for s in said if s.completion]
    found = dataset.build(examined(said, Shares(0.3, 0.3)), "rloo", asked)
    files.save(found, tmp_path)

    judging = rows.read(tmp_path / "judge.parquet", rows.PreferenceRow)
    fitted, others = files.load_pairs(tmp_path)
    assert {row.side for row in others} == {"prompt", "rater"}
    assert judging
    assert not {row.prompt_key for row in judging} & {row.prompt_key for row in fitted}


def test_the_fingerprint_of_a_policys_run_covers_who_pays_and_who_judges() -> None:
    asked = [(prompt_key([m]), [m]) for m in ({"role": "user", "content": p} for p in PROMPTS)]
    signals, shares = _everything(), Shares(0.3, 0.0)
    held_out = next(
        s for s in signals
        if s.completion and prompt_held_out(s.completion.prompt_key, 0.3) and s.id[0] == "p"
    )  # fmt: skip

    def fingerprint(signals: list[Signal], payer: str) -> str:
        return dataset.build(examined(signals, shares), "rloo", asked).paid_by(payer).fingerprint

    plain = fingerprint(signals, "reward-1")
    assert fingerprint(signals, "reward-1") == plain
    assert fingerprint(signals, "reward-2") != plain
    assert fingerprint([s for s in signals if s != held_out], "reward-1") != plain


@pytest.mark.parametrize("method", METHODS)
def test_what_is_saved_is_read_again(tmp_path: Path, method: Method) -> None:
    asked = [(prompt_key([m]), [m]) for m in ({"role": "user", "content": p} for p in PROMPTS)]
    seen = examined(_everything(), Shares(0.3, 0.2))
    found = dataset.build(seen, method, asked)
    saved = files.save(found, tmp_path)
    assert found.train
    assert found.held_out
    kind = ROWS[method]
    assert tuple(rows.read(tmp_path / "train.parquet", kind)) == found.train
    assert tuple(rows.read(tmp_path / "held_out.parquet", kind)) == found.held_out
    pairs, others = files.load_pairs(tmp_path)
    assert sorted([*pairs, *others], key=lambda r: r.canonical) == found.pairs
    manifest = files.load_manifest(tmp_path)
    assert manifest == saved
    assert manifest.outcome_of() == found.settled
