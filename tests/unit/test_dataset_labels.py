"""Answers that people liked or did not, and answers that are worth imitating."""

from __future__ import annotations

from typing import Any

import pytest
from tests.signals import build, corrects, prefers, rates, reasons, thumb

from learnback.contracts.models import FeedbackStatus
from learnback.ledger.training import Signal
from learnback.retraining.datasets.dataset import Dataset
from learnback.retraining.datasets.rows import DemonstrationRow, LabelRow


def labels(found: Dataset) -> dict[str, tuple[bool, float]]:
    return {r.completion: (r.label, r.weight) for r in found.train if isinstance(r, LabelRow)}


def imitated(found: Dataset) -> dict[str, float]:
    return {r.completion: r.weight for r in found.train if isinstance(r, DemonstrationRow)}


def test_a_thumb_is_a_label() -> None:
    found = build(thumb("f1", "up", "good"), thumb("f2", "down", "bad"), method="kto")
    assert labels(found) == {"good": (True, 1.0), "bad": (False, 1.0)}
    assert reasons(found) == {"f1": "trained", "f2": "trained"}


@pytest.mark.parametrize(
    ("value", "scale", "label"),
    [
        (5, {"min": 1, "max": 5}, (True, 1.0)),
        (4, {"min": 1, "max": 5}, (True, 0.5)),
        (1, {"min": 1, "max": 5}, (False, 1.0)),
        (-5, {"min": -10, "max": 10}, (False, 0.5)),
        (90, {"min": 0, "max": 100}, (True, 0.8)),
    ],
)
def test_a_rating_is_read_by_its_own_scale(value: float, scale: Any, label: Any) -> None:
    assert labels(build(rates("f1", value, "it", scale=scale), method="kto")) == {"it": label}


def test_a_rating_in_the_middle_waits_for_another_answer() -> None:
    found = build(rates("f1", 3, "it"), method="kto")
    assert found.train == ()
    assert reasons(found) == {"f1": "neutral"}
    assert found.outcomes["f1"].status is FeedbackStatus.ACCEPTED
    assert len(build(rates("f1", 3, "it"), rates("f2", 5, "better")).train) == 1


def test_a_harsh_rater_is_read_by_his_own_mean() -> None:
    harsh = [rates(f"f{i}", 1 + i % 3, f"answer {i}", f"p{i}", rater="harsh") for i in range(9)]
    found = labels(build(*harsh, method="kto", center_from=9))
    assert {found[f"answer {i}"][0] for i in (2, 5, 8)} == {True}
    assert {found[f"answer {i}"][0] for i in (0, 3, 6)} == {False}
    before = labels(build(*harsh, method="kto", center_from=10))
    assert not any(label for label, _ in before.values())


def test_a_comparison_is_two_labels() -> None:
    found = build(prefers("f1", "good", "bad"), corrects("f2", "right", "wrong", "q"), method="kto")
    told = {text: label for text, (label, _) in labels(found).items()}
    assert told == {"good": True, "bad": False, "right": True, "wrong": False}


@pytest.mark.parametrize(("tie", "label"), [("tie_good", True), ("tie_bad", False)])
def test_a_tie_says_the_same_of_both(tie: str, label: bool) -> None:
    found = labels(build(prefers("f1", "one", "two", preferred=tie), method="kto"))
    assert found == {"one": (label, 1.0), "two": (label, 1.0)}


def test_more_thumbs_up_than_down_are_a_weaker_label() -> None:
    said = [thumb(f"f{i}", "up", "it", rater=f"r{i}") for i in range(3)]
    found = build(*said, thumb("f9", "down", "it", rater="r9"), method="kto")
    assert labels(found) == {"it": (True, 0.5)}
    assert reasons(found) == {"f0": "trained", "f1": "trained", "f2": "trained"} | {
        "f9": "contradicted"
    }


def test_as_many_up_as_down_are_no_label() -> None:
    found = build(thumb("f1", "up", "it"), thumb("f2", "down", "it"), method="kto")
    assert reasons(found) == {"f1": "contradicted", "f2": "contradicted"}


def test_the_middle_answer_of_three_has_no_label_and_its_signals_train() -> None:
    found = build(prefers("f1", "a", "b"), prefers("f2", "b", "c"), method="kto")
    assert {text: label for text, (label, _) in labels(found).items()} == {"a": True, "c": False}
    assert set(reasons(found).values()) == {"trained"}


def test_a_correction_is_imitated() -> None:
    found = build(corrects("f1", "right", "wrong"), method="sft")
    assert imitated(found) == {"right": 1.0}


def _rated(*values: float) -> list[Signal]:
    return [rates(f"f{i}", value, "it", rater=f"r{i}") for i, value in enumerate(values)]


@pytest.mark.parametrize(
    ("values", "weight"),
    [((5, 5, 5), 1.0), ((5, 4, 4), 0.833333), ((5, 5), None), ((5, 3, 3), None), ((4, 4, 4), 0.75)],
)
def test_an_answer_that_several_rated_at_the_top_is_imitated(values: Any, weight: Any) -> None:
    assert imitated(build(*_rated(*values), method="sft")).get("it") == weight


def test_one_rater_is_not_several() -> None:
    alone = [thumb(f"f{i}", "up", "it", rater="ann") for i in range(5)]
    nobody = [thumb(f"g{i}", "up", "it") for i in range(5)]
    assert imitated(build(*alone, method="sft")) == {}
    assert imitated(build(*nobody, method="sft")) == {}


def test_who_corrects_an_answer_does_not_rate_it_highest() -> None:
    liked = [thumb(f"f{i}", "up", "it", rater=f"r{i}") for i in range(3)]
    more = [corrects(f"c{i}", f"better {i}", "it", rater=f"c{i}") for i in range(2)]
    assert imitated(build(*liked, method="sft")) == {"it": 1.0}
    assert imitated(build(*liked, *more, method="sft")) == {"better 0": 1.0, "better 1": 1.0}


def test_what_the_method_cannot_use_waits_for_another() -> None:
    found = build(thumb("f1", "up", "it"), prefers("f2", "a", "b"), method="sft")
    assert set(reasons(found).values()) == {"waits_for_another_method"}
    assert {o.status for o in found.outcomes.values()} == {FeedbackStatus.ACCEPTED}
    assert found.settled == {}
