"""What says nothing new is left out and counted, and nothing that differs is."""

from __future__ import annotations

import random
from itertools import combinations
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.signals import build, corrects, prefers, reasons, thumb

from learnback.contracts.models import FeedbackStatus
from learnback.ledger.prompts import prompt_held_out, prompt_key
from learnback.ledger.training import Signal
from learnback.retraining.datasets import dataset
from learnback.retraining.datasets.duplicates import _asked
from learnback.retraining.datasets.resemblance import Document, alike, grouped, repeats
from learnback.retraining.datasets.split import Shares
from learnback.retraining.hyperparameters import Method

LONG = " ".join(f"word{i}" for i in range(40))
NEAR, FAR = LONG.replace("word20", "other"), LONG.replace("word", "thing")
"""One word of forty is another one: 35 of 41 runs of three are the same. And none is."""
SHAPES: list[Method] = ["sft", "dpo", "kto", "reward_model"]


def test_the_same_rater_saying_the_same_again_counts_once() -> None:
    found = build(*(thumb(f"f{i}", "up", "a", rater="ann") for i in range(3)), method="kto")
    assert reasons(found) == {"f0": "duplicate", "f1": "duplicate", "f2": "trained"}
    assert found.outcomes["f0"].status is FeedbackStatus.ACCEPTED


def test_others_who_say_the_same_are_votes_and_no_duplicates() -> None:
    said = [prefers(f"f{i}", "a", "b", rater=f"r{i}") for i in range(3)] + [prefers("g", "a", "b")]
    assert set(reasons(build(*said)).values()) == {"trained"}


def test_who_went_back_to_the_first_opinion_is_taken_at_the_last_word() -> None:
    said = [thumb(f"f{i}", value, "a", rater="ann") for i, value in enumerate(("up", "down", "up"))]
    found = build(*said, thumb("g", "down", "b"), method="kto")
    assert [row.label for row in found.train if row.completion == "a"] == [True]  # type: ignore[attr-defined]
    assert reasons(found) == {
        "f0": "duplicate",
        "f1": "contradicted",
        "f2": "trained",
        "g": "trained",
    }


def _of_every_shape(name: str, right: str, prompt: str, **changes: Any) -> Signal:
    return corrects(name, right, "wrong", prompt, **changes)


@pytest.mark.parametrize("method", SHAPES)
def test_of_rows_that_are_nearly_the_same_the_better_supported_is_kept(method: Method) -> None:
    once = _of_every_shape("f1", LONG, "hi", rater="ann")
    twice = [_of_every_shape(f"g{i}", NEAR, "hi", rater=f"r{i}") for i in range(2)]
    other = _of_every_shape("h1", FAR, "hi", rater="bob")
    found = build(once, *twice, other, method=method)
    kept = {"f1": "trained"} if method == "kto" else {"f1": "near_duplicate"}
    assert reasons(found) == {"g0": "trained", "g1": "trained", "h1": "trained"} | kept
    assert LONG not in {
        getattr(row, "chosen", getattr(row, "completion", "")) for row in found.train
    }
    assert reasons(build(once, other, method=method))["f1"] == "trained"


def test_nothing_is_too_alike_where_an_operator_says_so() -> None:
    said = [prefers("f1", LONG, "no"), prefers("f2", NEAR, "no")]
    assert len(build(*said).train) == 1
    assert len(build(*said, max_resemblance=1).train) == 2


def test_short_questions_under_one_long_system_prompt_differ() -> None:
    asked = [
        [{"role": "system", "content": LONG}, {"role": "user", "content": f"And {word}?"}]
        for word in ("cats", "dogs")
    ]
    assert len(build(*(prefers(f"f{i}", "yes", "no", p) for i, p in enumerate(asked))).train) == 2


def test_a_small_correction_of_a_long_answer_teaches_something_of_its_own() -> None:
    said = [prefers("f1", LONG, NEAR, "hi"), prefers("f2", NEAR, LONG, "Hi")]
    assert len(build(*said).train) == 2


def test_an_answer_that_is_liked_is_no_twin_of_one_that_is_not() -> None:
    said = [thumb("f1", "up", LONG), thumb("f2", "down", NEAR)]
    assert len(build(*said, method="kto").train) == 2


def test_what_is_nearly_a_held_out_prompt_waits() -> None:
    shares = Shares(0.5, 0.0)
    pairs = [(f"{LONG} {i}", f"{NEAR} {i}") for i in range(40)]
    kept, near = next(
        (a, b)
        for a, b in pairs
        if prompt_held_out(_key(a), 0.5) and not prompt_held_out(_key(b), 0.5)
    )
    said = [prefers("f1", "a", "b", kept), prefers("f2", "a", "b", near)]
    found = build(*said, shares=shares)
    assert reasons(found) == {"f1": "held_out", "f2": "near_held_out"}
    assert reasons(build(said[1], shares=shares)) == {"f2": "trained"}
    asked = [(_key(text), [{"role": "user", "content": text}]) for text in (kept, near)]
    policy = dataset.build(found.examined, "rloo", asked)
    assert [row.prompt_key for row in (*policy.train, *policy.held_out)] == [_key(kept)]
    only = dataset.build(found.examined, "rloo", asked[1:])  # the other is known by its signal
    assert not only.train


def _key(text: str) -> str:
    return prompt_key([{"role": "user", "content": text}])


WORDS = st.lists(st.sampled_from("abcd"), max_size=14).map(" ".join)
DOCUMENTS = st.lists(st.tuples(st.sampled_from("xy"), WORDS), max_size=16)
ABOVE = st.floats(0.5, 0.99)


@settings(max_examples=300)
@given(documents=DOCUMENTS, above=ABOVE)
def test_repeats_are_exactly_those_that_comparing_each_with_each_finds(
    documents: list[Document], above: float
) -> None:
    kept: list[Document] = []
    for document in documents:
        if not any(alike(document, earlier, above) for earlier in kept):
            kept.append(document)
    found = repeats(documents, above)
    assert [d for i, d in enumerate(documents) if i not in found] == kept


@settings(max_examples=300)
@given(documents=DOCUMENTS, above=ABOVE)
def test_what_is_alike_is_in_one_group_and_nothing_else(
    documents: list[Document], above: float
) -> None:
    first = len(documents) // 3
    expected = [{place} for place in range(len(documents))]
    near: set[int] = set()
    for one, other in combinations(range(len(documents)), 2):
        if alike(documents[one], documents[other], above):
            expected[one] |= expected[other]
            for place in expected[one]:
                expected[place] = expected[one]
            near |= {other} if one < first <= other else set()
    found = grouped(documents, above, first)
    for one, other in combinations(range(len(documents)), 2):
        assert (found.of[one] == found.of[other]) == (other in expected[one])
    assert found.near_first == near


@st.composite
def _crowds(draw: st.DrawFn) -> list[Signal]:
    """Many signals about texts of which many are nearly the same."""
    chance = random.Random(draw(st.integers(0, 2**32)))

    def text() -> str:
        words = LONG.split()
        for _ in range(chance.choice((0, 1, 1, 9))):
            words[chance.randrange(40)] = f"other{chance.randrange(3)}"
        return " ".join(words)

    return [
        (corrects if chance.random() < 0.5 else prefers)(
            f"f{i:02}", text(), "no", text(), rater=f"r{chance.randrange(3)}"
        )
        for i in range(draw(st.integers(0, 30)))
    ]


@settings(max_examples=60, deadline=None)
@given(said=_crowds(), data=st.data(), method=st.sampled_from(SHAPES), above=ABOVE)
def test_no_two_rows_of_a_side_are_alike_and_no_prompt_is_near_one_that_is_held_out(
    said: list[Signal], data: st.DataObject, method: Method, above: float
) -> None:
    shares = Shares(0.3, 0.0)
    found = build(*said, method=method, shares=shares, max_resemblance=above)
    for side in (found.train, found.held_out):
        for one, other in combinations(side, 2):
            texts = [_texts(row) for row in (one, other)]
            assert getattr(one, "label", 0) != getattr(other, "label", 0) or not alike(
                *texts, above
            )
    for trained in found.train:
        for held_out in found.held_out:
            assert not alike(_asked(trained.prompt), _asked(held_out.prompt), above)
    assert set(found.outcomes) == {s.id for s in said}
    assert sum(found.counts.values()) == len(said)
    shuffled = data.draw(st.permutations(said))
    assert found == build(*shuffled, method=method, shares=shares, max_resemblance=above)
    spoken = [s for s in said if reasons(found)[s.id] in ("trained", "held_out")]
    again = build(*spoken, method=method, shares=shares, max_resemblance=above)
    assert again.train == found.train, "what is left says the same once more"


def _texts(row: Any) -> Document:
    names = [name for name in ("chosen", "rejected", "completion") if hasattr(row, name)]
    return (*_asked(row.prompt), *(getattr(row, name) for name in names))
