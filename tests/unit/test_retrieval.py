"""Picking examples: the laws that hold for any bank and any prompt."""

from __future__ import annotations

import random
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from learnback.models import example_bank
from learnback.models.example_bank import Bank, Entry, bank_of, entry_id
from learnback.models.retrieval import Index, terms_of

words = st.sampled_from(
    [
        "cat",
        "dog",
        "tree",
        "house",
        "river",
        "the",
        "of",
        "a",
        "is",
        "how",
        "why",
        "猫が",
        "犬",
        "stone",
    ]
)
texts = st.lists(words, min_size=1, max_size=6).map(" ".join)
tenants = st.sampled_from(["acme", "umbrella"])


@st.composite
def banks(draw: st.DrawFn) -> list[Entry]:
    count = draw(st.integers(1, 12))
    return [
        Entry(
            id=f"ex_{number:02}",
            tenant=draw(tenants),
            system_key=draw(st.sampled_from(["", "key"])),
            prompt_key="",
            user=draw(texts),
            answer="x",
            reasoning=draw(st.sampled_from(["", "since"])),
            quality=draw(st.floats(0, 1)),
            shared=draw(st.booleans()) and draw(st.booleans()),
        )
        for number in range(count)
    ]


def pick(entries: list[Entry], prompt: str, tenant: str = "acme", **more: Any) -> list[str]:
    values = {"system_key": "", "limit": 4, "reward_weight": 0.3} | more
    return [entry.id for entry in Index(entries).pick(tenant, prompt=prompt, **values)]


@given(banks(), texts, st.randoms())
def test_the_order_of_a_bank_makes_no_difference(
    entries: list[Entry], prompt: str, chance: random.Random
) -> None:
    first = pick(entries, prompt)
    shuffled = entries[:]
    chance.shuffle(shuffled)
    assert pick(shuffled, prompt) == first


@given(banks(), texts, tenants)
def test_what_others_have_neither_shows_nor_matters(
    entries: list[Entry], prompt: str, tenant: str
) -> None:
    visible = [e for e in entries if e.shared or e.tenant == tenant]
    shown = pick(entries, prompt, tenant)
    assert shown == pick(visible, prompt, tenant)
    assert set(shown) <= {e.id for e in visible if not e.system_key}


@given(banks(), texts, st.integers(0, 6))
def test_no_more_than_asked_for_and_none_twice(
    entries: list[Entry], prompt: str, limit: int
) -> None:
    shown = pick(entries, prompt, limit=limit)
    here = sum(1 for e in entries if not e.system_key and (e.shared or e.tenant == "acme"))
    assert len(shown) == len(set(shown)) == min(limit, here)


@given(banks(), texts)
def test_an_example_with_the_words_of_the_prompt_is_picked_first(
    entries: list[Entry], prompt: str
) -> None:
    shuffled = " ".join(reversed(prompt.split()))
    twin = Entry(
        id="ex_00_twin",
        tenant="acme",
        system_key="",
        prompt_key="",
        user=shuffled,
        answer="x",
        quality=0.5,
    )
    others = [e for e in entries if set(terms_of(e.user)) != set(terms_of(prompt))]
    assert pick([*others, twin], prompt, reward_weight=0.0)[0] == "ex_00_twin"


@given(banks(), texts)
def test_likeness_is_between_nothing_and_the_same(entries: list[Entry], prompt: str) -> None:
    own = [e for e in entries if e.tenant == "acme" and not e.shared and not e.system_key]
    if own:
        shelf = Index(own)._shelves["acme", ""]
        likeness = shelf.likeness(terms_of(prompt))
        assert ((likeness >= 0) & (likeness <= 1 + 1e-9)).all()


@given(banks(), texts)
def test_of_equally_alike_examples_the_better_rated_comes_first(
    entries: list[Entry], prompt: str
) -> None:
    same = [
        Entry(
            id=e.id,
            tenant="acme",
            system_key="",
            prompt_key="",
            user="nothing alike",
            answer="x",
            quality=e.quality,
        )
        for e in entries
    ]
    quality = {e.id: e.quality for e in same}
    picked = pick(same, prompt, limit=12)
    assert sorted(picked) == sorted(quality)
    for first, second in pairwise(picked):
        assert quality[first] > quality[second] - 1e-12  # less is lost in the sum with likeness
        assert first < second or quality[first] != quality[second]


def test_a_rare_word_says_more_than_a_common_one() -> None:
    common = [_entry(i, f"how is the weather in {place}") for i, place in enumerate("abcdefgh")]
    rare = _entry(9, "photosynthesis")
    assert pick([*common, rare], "how is the photosynthesis", reward_weight=0.0)[0] == "ex_9"


def test_scripts_without_spaces_are_compared_too() -> None:
    entries = [_entry(1, "光合作用是什么"), _entry(2, "今天天气怎么样")]
    assert pick(entries, "请解释光合作用", limit=1, reward_weight=0.0) == ["ex_1"]


def test_of_a_long_prompt_the_beginning_and_the_end_count() -> None:
    entries = [_entry(1, "zebra"), _entry(2, "filler")]
    long = f"{'filler ' * 10_000} zebra"
    assert len(terms_of(long * 100)) < 10
    assert "zebra" in terms_of(long)
    assert pick(entries, "zebra", limit=1, reward_weight=0.0) == ["ex_1"]


def _entry(number: int, user: str) -> Entry:
    return Entry(
        id=f"ex_{number}",
        tenant="acme",
        system_key="",
        prompt_key="",
        user=user,
        answer="x",
        quality=0.5,
    )


def test_a_bank_is_read_as_it_was_written(tmp_path: Path) -> None:
    bank = bank_of([_entry(2, "b"), _entry(1, "a"), _entry(1, "a")])
    assert [entry.id for entry in bank.entries] == ["ex_1", "ex_2"]
    example_bank.save(bank, tmp_path)
    assert example_bank.load(tmp_path) == bank
    assert example_bank.without(bank, {"ex_1"}).entries == bank.entries[1:]


@pytest.mark.parametrize(
    ("written", "why"),
    [
        (b"", "can't be read"),
        (b"{}", "can't be read"),
        (b'{"entries": [{"id": 3}]}', "can't be read"),
        (b'{"entries": [], "format": 2}', "format 2"),
    ],
)
def test_a_bank_that_is_none_says_why(tmp_path: Path, written: bytes, why: str) -> None:
    (tmp_path / example_bank.BANK_FILE).write_bytes(written)
    with pytest.raises(ValueError, match=why):
        example_bank.load(tmp_path)


def test_a_bank_with_an_id_twice_is_none(tmp_path: Path) -> None:
    example_bank.save(Bank(entries=(_entry(1, "a"), _entry(1, "b"))), tmp_path)
    with pytest.raises(ValueError, match="twice"):
        example_bank.load(tmp_path)


def test_the_same_words_have_the_same_fingerprint_whoever_said_so() -> None:
    here = bank_of([_entry(1, "a"), _entry(2, "b")])
    there = bank_of([_entry(4, "a"), _entry(3, "b")])
    assert example_bank.fingerprint(here) == example_bank.fingerprint(there)
    assert example_bank.fingerprint(here) != example_bank.fingerprint(bank_of([_entry(1, "a")]))
    assert entry_id("a", "", "b", "c") != entry_id("a", "", "bc", "")
