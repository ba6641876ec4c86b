"""The report says what was measured, in words and pictures, and shows the extremes."""

from __future__ import annotations

import pytest
from tests.unit.test_release_gate import an_evaluation, golden

from learnback.ledger.evaluations import Pair
from learnback.release.analysis import proportion, win_rate
from learnback.release.gate import Judge, decide
from learnback.release.measured import Second
from learnback.release.policy import GatePolicy
from learnback.release.report_route import wants_html
from learnback.release.reporting import page, without_pictures


def a_pair(number: int, gain: float) -> Pair:
    return Pair(
        prompt_key=f"{number:064d}",
        prompt=[{"role": "user", "content": f"prompt {number}?"}],
        candidate=f"new {number} <b>&</b>",
        stable=f"old {number}",
        candidate_reward=gain,
        stable_reward=0.0,
    )


def a_report(**changes: object) -> tuple[str, str]:
    """(HTML, Markdown)."""
    said = [1.0] * 40 + [0.0] * 20
    second = Second(
        name="judge-model",
        outcomes=said,
        win_rate=win_rate(said),
        consistent=0.9,
        agreement=proportion(50, 60),
        pairs=64,
        correct=50,
    )
    evaluation = an_evaluation(
        second=second,
        golden=golden(regressions=["capital"]),
        golden_asked=True,
        words=[[3, 4, 5], [8, 9, 12]],
        rewards=[[0.5, 1.0, 1.2], [0.1, 0.2, 0.3]],
        **changes,
    )
    pairs = [a_pair(n, gain) for n, gain in enumerate([*range(1, 15), *range(-14, 0), 0])]
    made = page(decide(evaluation, GatePolicy(reward_hack=False)), pairs)
    return made.html(), without_pictures(made).markdown()


def test_it_shows_verdict_guards_judges_and_golden_set() -> None:
    words = "refused", "80 of 100 held-out comparisons", "capital", "judge-model", "Largest wins"
    for text in a_report():
        for word in words:
            assert word in text


def test_pictures_are_drawn_in_html_and_told_in_markdown() -> None:
    html, markdown = a_report()
    assert html.count("<svg") == 3
    assert "svg" not in markdown
    assert "in the middle candidate 4, stable 9 words" in markdown


def test_the_ten_largest_wins_and_losses_are_shown_with_both_answers() -> None:
    html, _ = a_report()
    wins, losses = html.split("Largest wins")[1].split("Largest losses")
    assert wins.count("<tr>") == losses.count("<tr>") == 11
    assert wins.index("new 13 ") < wins.index("new 12 ")
    assert "old 13" in wins
    assert losses.index("new 14 ") < losses.index("new 15 ")
    assert "prompt 28?" not in html  # a tie is neither


def test_what_people_and_models_wrote_is_text_and_nothing_else() -> None:
    html, markdown = a_report()
    assert "<b>" not in html
    assert "<b>" not in markdown


def test_a_judge_that_is_not_independent_is_named_so() -> None:
    judge = Judge(version="j", held_out_pairs=9, held_out_correct=8, note="it trained the model")
    assert "Mind: it trained the model" in a_report(judge=judge)[0]


@pytest.mark.parametrize(
    ("accept", "html"),
    [
        ("", False),
        ("*/*", False),
        ("text/html", True),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", True),
        ("text/markdown", False),
        ("text/html;q=0.5, text/markdown", False),
        ("text/html;q=x", False),
    ],
)
def test_who_asks_for_html_gets_it(accept: str, html: bool) -> None:
    assert wants_html(accept) is html
