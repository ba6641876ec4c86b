"""Example banks from feedback: what becomes an example, and what never does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.factories import a_version
from tests.signals import (
    BASE,
    NOTHING_HELD_OUT,
    answered,
    corrects,
    examined,
    prefers,
    rates,
    signal,
    thumb,
)

from learnback.contracts.models import FeedbackKind, Preferred, VersionKind
from learnback.ledger.prompts import prompt_held_out, rater_held_out
from learnback.ledger.training import Signal
from learnback.models.example_bank import system_key
from learnback.models.strategy import Strategy
from learnback.retraining import strategies
from learnback.retraining.datasets.split import Shares
from learnback.retraining.strategies import Bounds, Built, Scores, version_of


def build(
    *signals: Signal, scores: Scores | None = None, shares: Shares = NOTHING_HELD_OUT, **bounds: Any
) -> Built:
    found = examined(signals, shares)
    return strategies.build(found, signals, scores or {}, Bounds(**bounds))


def answers(built: Built) -> dict[str, str]:
    """Answers by prompt."""
    return {entry.user: entry.answer for entry in built.bank.entries}


def test_what_people_wrote_and_liked_becomes_an_example() -> None:
    built = build(
        corrects("f1", "Right.", "Wrong.", "one?"),
        prefers("f2", "Better.", "Worse.", "two?"),
        thumb("f3", "up", "Fine.", "three?"),
        rates("f4", 5.0, "Great.", "four?"),
        thumb("f5", "down", "Bad.", "five?"),
        rates("f6", 2.0, "Poor.", "six?"),
        prefers("f7", "Meh.", "Bah.", "seven?", preferred=Preferred.TIE_BAD),
    )
    assert answers(built) == {
        "one?": "Right.",
        "two?": "Better.",
        "three?": "Fine.",
        "four?": "Great.",
    }
    assert {i: o.status for i, o in built.outcomes.items()} == dict.fromkeys(
        ("f1", "f2", "f3", "f4"), "trained"
    ), "whoever speaks for no example is not used up"


def test_the_filters_of_all_methods_hold_for_examples_too() -> None:
    signals = (
        thumb("f0", "up", "One fan.", "one?", rater="a"),
        *(thumb(f"g{i}", "up", "Two fans.", "two?", rater=f"r{i}") for i in range(2)),
        *(thumb(f"h{i}", "up", "Most like it.", "three?", rater=f"r{i}") for i in range(3)),
        *(thumb(f"i{i}", "down", "Most like it.", "three?", rater=f"s{i}") for i in range(2)),
    )
    found = examined(signals, min_votes=2, min_item_agreement=0.7)
    built = strategies.build(found, signals, {})
    assert answers(built) == {"two?": "Two fans."}
    assert set(built.outcomes) == {"g0", "g1"}


def test_a_correction_beats_the_answer_that_it_corrects_and_all_others() -> None:
    built = build(
        *(thumb(f"f{i}", "up", "Liked.", rater=f"r{i}") for i in range(9)),
        corrects("f9", "Written.", "Liked.", rater="r9"),
    )
    (entry,) = built.bank.entries
    assert (entry.answer, entry.quality, entry.feedback_ids) == ("Written.", 1.0, ("f9",))
    assert built.left_out == {"another_is_better": 1}


def test_more_people_count_for_more() -> None:
    built = build(
        thumb("f0", "up", "One fan.", rater="a"),
        *(thumb(f"f{i}", "up", "Three fans.", rater=f"r{i}") for i in range(1, 4)),
    )
    (entry,) = built.bank.entries
    assert (entry.answer, entry.feedback_ids) == ("Three fans.", ("f1", "f2", "f3"))


def test_one_person_is_one_vote_however_often_and_the_last_word_counts() -> None:
    often = [thumb(f"f{i}", "up", "Loud.", rater="a") for i in range(5)]
    assert build(*often).bank.entries[0].quality == build(often[-1]).bank.entries[0].quality
    assert build(*often, min_votes=2).bank.entries == ()
    changed = [thumb("f1", "up", "Hm.", rater="a"), thumb("f2", "down", "Hm.", rater="a")]
    assert build(*changed).bank.entries == ()


def test_whoever_is_disliked_as_often_as_liked_is_no_example() -> None:
    split = [thumb("f1", "up", "Hm.", rater="a"), thumb("f2", "down", "Hm.", rater="b")]
    assert build(*split).bank.entries == ()


def test_the_reward_model_decides_among_equally_liked_answers() -> None:
    liked = [thumb("f1", "up", "First."), thumb("f2", "up", "Second.")]
    scores = {("c-f1", 0): -3.0, ("c-f2", 0): 4.0}
    assert answers(build(*liked, scores=scores)) == {"hi": "Second."}
    turned = {key: -score for key, score in scores.items()}
    assert answers(build(*liked, scores=turned)) == {"hi": "First."}
    crowd = [thumb(f"g{i}", "up", "First.", rater=f"r{i}") for i in range(20)]
    assert answers(build(*liked, *crowd, scores=scores)) == {"hi": "First."}, "people outweigh it"


PROMPTS = [f"question {i} of {i % 7}?" for i in range(40)]


@given(
    st.lists(
        st.tuples(st.sampled_from(PROMPTS), st.integers(0, 30), st.booleans(), st.booleans()),
        max_size=40,
    )
)
def test_examples_come_from_the_training_side_only(rows: list[tuple[str, int, bool, bool]]) -> None:
    shares = Shares(prompts=0.3, raters=0.3)
    signals = [
        corrects(f"f{i}", f"right {i}", "wrong", prompt, rater=f"r{rater}", tenant=tenant)
        if written
        else thumb(f"f{i}", "up", f"fine {i}", prompt, rater=f"r{rater}", tenant=tenant)
        for i, (prompt, rater, written, other) in enumerate(rows)
        for tenant in ["umbrella" if other else "acme"]
    ]
    built = build(*signals, shares=shares)
    by_id = {s.id: s for s in signals}
    enough = len({(s.tenant, s.rater_id) for s in signals}) >= 10
    for entry in built.bank.entries:
        assert not prompt_held_out(entry.prompt_key, 0.3)
        for one in (by_id[i] for i in entry.feedback_ids):
            assert one.tenant == entry.tenant, "never across tenants"
            assert not (enough and rater_held_out(one.tenant, one.rater_id, 0.3))
    used = {i for entry in built.bank.entries for i in entry.feedback_ids}
    assert {i for i, o in built.outcomes.items() if o.status == "trained"} == used
    again = build(*reversed(signals), shares=shares)
    assert (again.bank, again.fingerprint) == (built.bank, built.fingerprint)
    assert (
        max(Counter((e.tenant, e.prompt_key) for e in built.bank.entries).values(), default=1) == 1
    )


def _talk(*turns: str) -> list[dict[str, str]]:
    roles = ("user", "assistant")
    return [{"role": roles[i % 2], "content": turn} for i, turn in enumerate(turns)]


def test_a_system_text_goes_along_and_a_conversation_is_no_example() -> None:
    pirate = [{"role": "system", "content": "Talk like a pirate."}, *_talk("hi")]
    talk = corrects("f2", "x", "y", _talk("a", "b", "c"))
    built = build(corrects("f1", "Ahoy.", "Hello.", pirate), talk)
    (entry,) = built.bank.entries
    assert (entry.user, entry.system_key) == ("hi", system_key("Talk like a pirate."))
    assert built.left_out == {"not_one_question": 1}


@pytest.mark.parametrize(
    ("changes", "why"),
    [({"finish_reason": "length"}, "cut_off"), ({"text": "long " * 700}, "too_long")],
)
def test_what_is_cut_off_or_too_long_is_no_example(changes: dict[str, Any], why: str) -> None:
    choice = {"index": 0, "text": "Fine.", "finish_reason": "stop", "tool_calls": []} | changes
    about = answered("c-1", "hi", choices=[choice])
    built = build(signal("f1", FeedbackKind.THUMBS, {"value": "up"}, about))
    assert (built.bank.entries, built.left_out) == ((), {why: 1})


def test_the_reasoning_and_the_completion_go_along() -> None:
    choice = {"index": 0, "text": "4", "reasoning": "2 and 2.", "finish_reason": "stop"}
    about = answered("c-1", "2 + 2?", choices=[choice | {"tool_calls": []}])
    built = build(
        signal("f1", FeedbackKind.THUMBS, {"value": "up"}, about),
        corrects("f2", "Nine.", "8", "3 * 3?"),
    )
    found = {e.answer: (e.completion_id, e.reasoning) for e in built.bank.entries}
    assert found == {"4": ("c-1", "2 and 2."), "Nine.": ("c-f2", "")}


def test_prompts_that_say_nearly_the_same_are_one_example_and_a_full_bank_takes_the_best() -> None:
    alike = [
        corrects("f1", "Written.", "x", "How do magnets work?"),
        thumb("f2", "up", "Liked.", "how do magnets work"),
    ]
    built = build(*alike)
    assert (answers(built), built.left_out) == (
        {"How do magnets work?": "Written."},
        {"like_a_better_one": 1},
    )
    full = build(corrects("f3", "A", "x", "one"), thumb("f4", "up", "B", "two"), most=1)
    assert (answers(full), full.left_out) == ({"one": "A"}, {"bank_is_full": 1})


def test_a_tenants_examples_are_shared_only_if_somebody_said_so() -> None:
    said = [
        corrects("f1", "A", "x", "one", tenant="acme"),
        corrects("f2", "B", "x", "two", tenant="umbrella"),
    ]
    assert not any(entry.shared for entry in build(*said).bank.entries)
    shared = build(*said, shared=frozenset({"acme"})).bank.entries
    assert {entry.tenant: entry.shared for entry in shared} == {"acme": True, "umbrella": False}


def _version(strategy: Strategy, parent: str = "tiny-base-0", built: Built | None = None) -> Any:
    base = a_version("tiny-base-0", kind=VersionKind.BASE, base_digest=BASE)
    return version_of(strategy, base, parent=parent, built=built)


def test_a_version_is_named_after_all_that_shapes_its_prompts() -> None:
    wording = Strategy(strategy="zero_shot_cot", suffix="Think.")
    version = _version(wording)
    assert version == _version(wording).model_copy(
        update={"created_at": version.created_at, "changed_at": version.changed_at}
    )
    assert version.name.startswith("tiny-zero-shot-cot-")
    assert (version.kind, version.artifact) == (VersionKind.PROMPT, None)
    others: Sequence[Any] = (
        _version(Strategy(strategy="zero_shot_cot", suffix="Think!")),
        _version(wording, parent="tiny-dpo-1"),
        _version(Strategy(strategy="few_shot", bank="0" * 64)),
        _version(Strategy(strategy="few_shot", bank="1" * 64)),
    )
    assert len({version.name, *(other.name for other in others)}) == 5
    built = build(corrects("f1", "A", "x", "one"))
    few = _version(Strategy(strategy="few_shot", bank="0" * 64), built=built)
    assert few.artifact == few.name
    assert (few.artifact_digest, few.dataset_fingerprint) == ("0" * 64, built.fingerprint)
    assert few.metrics["examples"] == 1
