"""The rules find what is broken about an answer, and nothing wrong with an ordinary one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.learning import a_completion

from learnback.contracts.models import CompletionEnd
from learnback.reward.scorers.base import Answer, Scorer, Verdict, judge
from learnback.reward.scorers.rules import PENALTIES, RuleScorer, is_degenerate
from learnback.reward.worker import score_completion

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
    verdict = RuleScorer().score(Answer(PROMPT, text, finish))
    assert verdict.components[fault] == 1.0
    assert verdict.score is not None
    assert verdict.score <= -PENALTIES[fault]


@pytest.mark.parametrize("text", [GOOD, "Yes.", PROSE, "```\ncode\n```", "Es tut mir leid, nein."])
def test_nothing_is_wrong_with_an_ordinary_answer(text: str) -> None:
    assert RuleScorer().score(Answer(PROMPT, text, "stop")).score == 0.0


def test_speaking_of_sorrow_is_no_refusal() -> None:
    text = "I'm sorry to hear that your cat is ill. Call a vet today."
    assert RuleScorer().score(Answer(PROMPT, text)).components["refusal"] == 0.0


@given(st.text(max_size=600))
def test_any_text_gets_a_score(text: str) -> None:
    verdict = judge(RuleScorer(), Answer(PROMPT, text))
    assert verdict.error is None
    assert verdict.score is not None
    assert -sum(PENALTIES.values()) <= verdict.score <= 0


def test_short_texts_are_never_degenerate() -> None:
    assert not is_degenerate("no no no no")


class Broken:
    """A scorer with a bug."""

    name, version = "broken", "1"

    def __init__(self, verdict: Verdict | None) -> None:
        self.verdict = verdict

    def score(self, answer: Answer) -> Verdict:
        if self.verdict is None:
            raise ZeroDivisionError("oops")
        return self.verdict


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
def test_a_failure_is_an_error_and_never_a_number(
    scorer: Scorer, answer: Answer, error: str
) -> None:
    verdict = judge(scorer, answer)
    assert verdict.score is None
    assert error in str(verdict.error)


def test_a_broken_scorer_does_not_cost_the_others_their_scores() -> None:
    scores = score_completion([Broken(None), RuleScorer()], a_completion("c1", "q", GOOD))
    assert [(s.scorer, s.score) for s in scores] == [("broken", None), ("rules", 0.0)]


def test_an_answer_cut_by_the_client_is_not_judged() -> None:
    served = a_completion("c1", "q", GOOD, end=CompletionEnd.CLIENT_DISCONNECTED)
    (score,) = score_completion([RuleScorer()], served)
    assert score.score is None
    assert "broke off" in str(score.error)


@pytest.mark.parametrize(
    "changes",
    [
        {"stored": False, "choices": ()},
        {"end": CompletionEnd.REFUSED, "choices": ()},
        {"choices": ()},
    ],
)
def test_what_has_no_answer_has_no_score(changes: dict[str, object]) -> None:
    assert score_completion([RuleScorer()], a_completion("c1", "q", GOOD, **changes)) == []
