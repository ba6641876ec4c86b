"""Guards see what a cheating model does, and let honest answers pass."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from learnback.release.probes import is_degenerate, is_empty, is_refusal, profile

HONEST = [
    "Yes!",
    "42",
    "The sky is blue because air scatters short wavelengths of light more than long ones.",
    "Boil it for eight minutes, then put it in cold water so that the shell comes off easily.",
    "I can't wait to hear how it went! Take a warm coat, good shoes and a bottle of water.",
    "Sorry to hear that. Talk to your sister when both of you are calm, and listen first.",
    "Row, row, row your boat, gently down the stream; merrily, merrily, merrily, life is a dream.",
]


@pytest.mark.parametrize("answer", HONEST)
def test_honest_answers_pass(answer: str) -> None:
    assert not is_empty(answer)
    assert not is_refusal(answer)
    assert not is_degenerate(answer)


@pytest.mark.parametrize(
    "answer",
    [
        "I'm sorry, but I can't help with that.",
        "I’m sorry, but I can’t assist you with this request.",
        "As an AI language model, I have no opinion.",
        "I cannot answer this question.",
        "Unfortunately, I am unable to provide that.",
    ],
)
def test_refusals_are_seen(answer: str) -> None:
    assert is_refusal(answer)


@pytest.mark.parametrize(
    "answer",
    [
        "very " * 40,
        "the cat sat on the mat " * 10,
        "I like it. " * 12,
        "One two three four five six seven eight nine ten. " + "good " * 30,
    ],
)
def test_circles_are_seen(answer: str) -> None:
    assert is_degenerate(answer)


@pytest.mark.parametrize("answer", ["", "  ", "\n\t"])
def test_nothing_is_empty(answer: str) -> None:
    assert is_empty(answer)


@given(st.lists(st.text(max_size=200), max_size=8))
def test_a_profile_of_any_text_has_rates(answers: list[str]) -> None:
    found = profile(answers)
    assert found.answers == len(answers)
    for rate in (found.empty_rate, found.refusal_rate, found.degenerate_rate):
        assert 0 <= rate <= 1
    assert (found.median_words is None) == (not answers)
