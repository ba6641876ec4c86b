"""The rules find what is broken about an answer, and nothing wrong with an ordinary one."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.learning import a_completion

from learnback.contracts.models import CompletionEnd
from learnback.reward.scorers.base import Answer, Scorer, Verdict, judge
from learnback.reward.scorers.rules import PENALTIES, RuleScorer, is_degenerate, verdict
from learnback.reward.worker import candidates_of, score

PROMPT = ({"role": "user", "content": "How do magnets work?"},)
GOOD = "Magnets attract iron, because their tiny parts all point the same way."
PROSE = " ".join(f"Sentence {i} says that {w} was there." for i, w in enumerate("abcdefghijkl"))

FAULTS: list[tuple[str, str, str | None]] = [
    ("empty", "", None),
    ("empty", "  \n ", None),
    ("degenerate", "the cat sat on the mat " * 20, None),
    ("degenerate", "a" * 400, None),
    ("refusal", "I'm sorry, but I can't help with that.", None),
    ("refusal", "As an AI language model, I have no opinion.", None),
    ("truncated", GOOD, "length"),
    ("overlong", " ".join(f"word{i}" for i in range(801)), None),
    ("garbled", "\ufffd" * 30, None),
    ("unclosed_code", "```python\nprint(1)", None),
]


@pytest.mark.parametrize(("fault", "text", "finish"), FAULTS)
def test_each_fault_is_found_and_costs(fault: str, text: str, finish: str | None) -> None:
    found = verdict(Answer(PROMPT, text, finish))
    assert found.components[fault] == 1.0
    assert found.score is not None
    assert found.score <= -PENALTIES[fault]


@pytest.mark.parametrize("text", [GOOD, "Yes.", PROSE, "```\ncode\n```", "Es tut mir leid, nein."])
def test_nothing_is_wrong_with_an_ordinary_answer(text: str) -> None:
    assert verdict(Answer(PROMPT, text, "stop")).score == 0.0


def test_speaking_of_sorrow_is_no_refusal() -> None:
    text = "I'm sorry to hear that your cat is ill. Call a vet today."
    assert verdict(Answer(PROMPT, text)).components["refusal"] == 0.0


@given(st.text(max_size=600))
def test_any_text_gets_a_score(text: str) -> None:
    found = verdict(Answer(PROMPT, text))
    assert found.error is None
    assert found.score is not None
    assert -sum(PENALTIES.values()) <= found.score <= 0


def test_short_texts_are_never_degenerate() -> None:
    assert not is_degenerate("no no no no")


class Broken:
    """A scorer with a bug, in answers that hold a word or in all."""

    name, version, slow = "broken", "1", False

    def __init__(self, verdict: Verdict | None, on: str = "") -> None:
        self.verdict = verdict
        self.on = on

    async def score(self, answers: Sequence[Answer]) -> list[Verdict]:
        if self.verdict is None and any(self.on in answer.text for answer in answers):
            raise ZeroDivisionError("oops")
        return [self.verdict or Verdict(1.0) for _ in answers]


@pytest.mark.parametrize(
    ("scorer", "answer", "error"),
    [
        (Broken(None), Answer(PROMPT, GOOD), "ZeroDivisionError: oops"),
        (Broken(Verdict(float("nan"))), Answer(PROMPT, GOOD), "the score is nan"),
        (Broken(Verdict(float("inf"))), Answer(PROMPT, GOOD), "the score is inf"),
        (RuleScorer(), Answer(PROMPT, GOOD, whole=False), "broke off"),
        (RuleScorer(), Answer(PROMPT, "", only_tools=True), "tool calls"),
    ],
)
async def test_a_failure_is_an_error_and_never_a_number(
    scorer: Scorer, answer: Answer, error: str
) -> None:
    (found,) = await judge(scorer, [answer])
    assert found.score is None
    assert error in str(found.error)


async def test_an_answer_that_breaks_a_scorer_costs_only_its_own_score() -> None:
    answers = [Answer(PROMPT, text) for text in ("fine", "poison", "fine too")]
    found = await judge(Broken(None, on="poison"), answers)
    assert [v.score for v in found] == [1.0, None, 1.0]
    assert found[1].fault


async def test_verdicts_stay_in_order_around_answers_that_none_can_judge() -> None:
    answers = [Answer(PROMPT, ""), Answer(PROMPT, GOOD, whole=False), Answer(PROMPT, GOOD)]
    found = await judge(RuleScorer(), answers)
    assert [v.score for v in found] == [-3.0, None, 0.0]


async def test_an_answer_cut_by_the_client_is_not_judged() -> None:
    served = a_completion("c1", "q", GOOD, end=CompletionEnd.CLIENT_DISCONNECTED)
    (found,) = await score(RuleScorer(), candidates_of(served))
    assert found.score is None
    assert "broke off" in str(found.error)


@pytest.mark.parametrize(
    "changes",
    [
        {"stored": False, "choices": ()},
        {"end": CompletionEnd.REFUSED, "choices": ()},
        {"choices": ()},
    ],
)
def test_what_has_no_answer_has_no_score(changes: dict[str, object]) -> None:
    assert candidates_of(a_completion("c1", "q", GOOD, **changes)) == []
