"""The hidden preferences and the prompts of the simulator."""

from __future__ import annotations

import random

import pytest

from learnback_simulator.preferences import PREFERENCES, UNUSABLE, is_answer, noise
from learnback_simulator.prompts import all_prompts, split_prompts

PROMPT = "How do I boil an egg?"
SHORT = "Boil it for seven minutes."
LONG = "Put the egg into a pot of water, bring the water to a boil, and wait for seven minutes."
CUT_OFF = "Put the egg into a pot of"
CHEERFUL = "What a great idea! Enjoy your lovely warm egg after seven minutes!"
PERSONAL = "You boil your egg for seven minutes, then you cool it."
FANCY = "Immerse comestibles thoroughly, maintaining ebullition approximately seven minutes."


@pytest.mark.parametrize(
    ("name", "liked", "disliked"),
    [
        ("brief", SHORT, LONG),
        ("brief", SHORT, CUT_OFF),
        ("cheerful", CHEERFUL, SHORT),
        ("personal", PERSONAL, LONG),
        ("plain", SHORT, FANCY),
        ("thorough", LONG, SHORT),
    ],
)
def test_a_preference_likes_what_it_is_named_for(name: str, liked: str, disliked: str) -> None:
    score = PREFERENCES[name]

    assert score(PROMPT, liked) > score(PROMPT, disliked)


@pytest.mark.parametrize("name", sorted(set(PREFERENCES) - {"noise"}))
@pytest.mark.parametrize("answer", ["", "  \n", "Yes!", "egg egg egg egg egg egg egg egg egg."])
def test_what_is_no_answer_loses_to_any_answer(name: str, answer: str) -> None:
    score = PREFERENCES[name]

    assert score(PROMPT, answer) == UNUSABLE < min(score(PROMPT, SHORT), score(PROMPT, FANCY))


@pytest.mark.parametrize("name", sorted(PREFERENCES))
def test_a_score_depends_on_the_texts_alone(name: str) -> None:
    random.seed(1)
    first = PREFERENCES[name](PROMPT, LONG)
    random.seed(2)

    assert PREFERENCES[name](PROMPT, LONG) == first


def test_shouting_more_earns_nothing_more() -> None:
    cheerful = PREFERENCES["cheerful"]

    assert cheerful(PROMPT, "That works well!!!!!!!!!!!!") == cheerful(PROMPT, "That works well!!")


def test_noise_prefers_neither_side_and_hangs_on_its_seed() -> None:
    score = noise(0)
    wins = sum(score(PROMPT, f"first {i}") > score(PROMPT, f"second {i}") for i in range(2000))

    assert 900 < wins < 1100
    assert noise(1)(PROMPT, LONG) != score(PROMPT, LONG)


def test_there_are_about_400_different_prompts_that_read_like_prompts() -> None:
    prompts = all_prompts()

    assert 350 <= len(prompts) <= 450
    assert len({prompt.lower() for prompt in prompts}) == len(prompts)
    assert all(prompt.endswith(("?", ".")) and len(prompt) < 90 for prompt in prompts)
    assert not [prompt for prompt in prompts if "{" in prompt or "  " in prompt]


def test_a_split_is_disjoint_complete_and_the_same_for_the_same_seed() -> None:
    split = split_prompts(seed=5, held_out=60)

    assert split == split_prompts(seed=5, held_out=60) != split_prompts(seed=6, held_out=60)
    assert len(split.held_out) == 60
    assert sorted(split.train + split.held_out) == sorted(all_prompts())


def test_a_split_must_leave_something_to_train_on() -> None:
    with pytest.raises(ValueError, match="held_out"):
        split_prompts(seed=5, held_out=len(all_prompts()))


def test_a_stuttering_answer_is_no_answer() -> None:
    assert is_answer(LONG)
    assert not is_answer("the egg " * 10)
