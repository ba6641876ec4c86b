"""Simulated people err as often as they are told to, and say the same again."""

from __future__ import annotations

from pathlib import Path

import pytest

from learnback_simulator.load import PreferenceError, load_preference
from learnback_simulator.measure import bootstrap
from learnback_simulator.people import Person, crowd
from learnback_simulator.preferences import PREFERENCES


def longer(prompt: str, answer: str) -> float:
    return float(len(answer))


def replies(person: Person, count: int = 4000) -> list[str | None]:
    return [person.compare(f"question {i}", "short", "much longer") for i in range(count)]


def share(said: list[str | None], what: str | None) -> float:
    return said.count(what) / len(said)


def test_a_faultless_person_says_what_they_like() -> None:
    person = Person("p", longer, error_rate=0)
    assert person.compare("q", "a", "bbb") == "second"
    assert person.compare("q", "bbb", "a") == "first"
    assert person.compare("q", "aaa", "bbb") == "tie_good"


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5])
def test_people_err_as_often_as_told(rate: float) -> None:
    assert share(replies(Person("p", longer, error_rate=rate)), "first") == pytest.approx(
        rate, abs=0.03
    )


def test_position_bias_favours_the_first() -> None:
    said = replies(Person("p", longer, error_rate=0, position_bias=0.3))
    assert share(said, "first") == pytest.approx(0.3, abs=0.03)


def test_lazy_people_say_nothing() -> None:
    said = replies(Person("p", longer, laziness=0.4))
    assert share(said, None) == pytest.approx(0.4, abs=0.03)


def test_the_same_question_gets_the_same_reply() -> None:
    person = Person("p", longer, error_rate=0.5, laziness=0.2, position_bias=0.2, seed=3)
    assert replies(person, 200) == replies(person, 200)


def test_a_crowd_errs_independently() -> None:
    one, two = crowd(2, longer, error_rate=0.5)
    assert one.id != two.id
    assert replies(one, 50) != replies(two, 50)


@pytest.mark.parametrize("name", sorted(PREFERENCES))
def test_every_preference_has_a_name(name: str) -> None:
    score = load_preference(name)
    assert isinstance(score("What is rain?", "Water that falls from clouds."), float)


def a_file(tmp_path: Path, text: str) -> str:
    path = tmp_path / "mine.py"
    path.write_text(text)
    return str(path)


def test_a_preference_from_a_file(tmp_path: Path) -> None:
    name = a_file(
        tmp_path,
        "from __future__ import annotations\n"
        "from dataclasses import dataclass\n"
        "@dataclass\nclass W:\n    weight: float = 2\n"
        "def score(prompt, answer):\n    return W().weight * len(answer)\n",
    )
    assert load_preference(name)("q", "abc") == 6.0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = 1", "no function `score`"),
        ("def score(:", "fails when it is read"),
        ("raise RuntimeError('boom')", "boom"),
        ("score = 3", "no function `score`"),
    ],
)
def test_an_unusable_file_is_explained(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(PreferenceError, match=said):
        load_preference(a_file(tmp_path, text))


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("raise KeyError('boom')", "boom"),
        ("return float('nan')", "gives nan"),
        ("return float('inf')", "gives inf"),
        ("return 'good'", "fails on the prompt"),
        ("return None", "fails on the prompt"),
    ],
)
def test_an_unusable_score_names_the_prompt(tmp_path: Path, body: str, said: str) -> None:
    score = load_preference(a_file(tmp_path, f"def score(prompt, answer):\n    {body}\n"))
    with pytest.raises(PreferenceError, match=said) as caught:
        score("Why?", "Because.")
    assert "Why?" in str(caught.value)


@pytest.mark.parametrize("name", ["nonsense", "missing.py"])
def test_what_is_not_there_is_named(name: str) -> None:
    with pytest.raises(PreferenceError, match=name):
        load_preference(name)


def test_the_bootstrap_interval_is_seeded_and_holds_the_mean() -> None:
    outcomes = [1.0] * 45 + [0.0] * 15 + [0.5] * 4
    low, high = bootstrap(outcomes, seed=1)
    assert (low, high) == bootstrap(outcomes, seed=1)
    assert 0.6 < low < 47 / 64 < high < 0.85


def test_people_say_nothing_of_a_difference_that_they_hardly_see() -> None:
    person = Person("anna", lambda prompt, answer: float(answer), error_rate=0.0, indifference=1.0)

    assert person.compare("?", "3", "2.5") is None
    assert person.compare("?", "3", "1") == "first"
    assert person.compare("?", "3", "3") == "tie_good"
