"""The linear reward model finds what people like, and finds nothing where there is nothing."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from learnback.models.linear_reward import LinearRewardModel, Pair, fit, load
from learnback.models.text_features import STYLE_NAMES, hashed_words, style_vector
from learnback.registry.artifacts import digest_folder

SUBJECTS = [
    "The garden",
    "A river",
    "My neighbour",
    "The old train",
    "This soup",
    "Our team",
    "The lamp",
    "A fox",
]
VERBS = ["keeps", "finds", "changes", "reaches", "follows", "remembers", "carries", "watches"]
OBJECTS = [
    "a stone",
    "the window",
    "every morning",
    "some bread",
    "the answer",
    "a long road",
    "its shadow",
]
TAILS = [
    "near the sea",
    "without any hurry",
    "in the afternoon",
    "for a friend",
    "behind the house",
]
HAPPY = [
    "What a wonderful day",
    "I love it",
    "That is great",
    "How delightful",
    "You will enjoy it",
]
POLITE = ["Thank you for asking", "Please let me know", "You are welcome"]

Hidden = Callable[[str], float]
HIDDEN: dict[str, Hidden] = {
    "brevity": lambda a: -len(a.split()),
    "cheerfulness": lambda a: math.log1p(a.count("!") + sum(a.count(h) for h in HAPPY)),
    "politeness": lambda a: sum(a.count(p) for p in POLITE),
    "bullet lists": lambda a: a.count("\n- "),
    "plain words": lambda a: -sum(map(len, a.split())) / len(a.split()),
}
PROMPT = ({"role": "user", "content": "Tell me something."},)


def an_answer(rng: random.Random) -> str:
    sentences = [
        f"{rng.choice(SUBJECTS)} {rng.choice(VERBS)} {rng.choice(OBJECTS)}"
        + (f" {rng.choice(TAILS)}" if rng.random() < 0.5 else "")
        for _ in range(rng.randint(1, 5))
    ]
    for extras, chance in ((HAPPY, 0.4), (POLITE, 0.4)):
        if rng.random() < chance:
            sentences.insert(rng.randrange(len(sentences) + 1), rng.choice(extras))
    end = rng.choice(".!") if rng.random() < 0.5 else "."
    mark = "\n- " if rng.random() < 0.3 else " "
    return mark.join(s + end for s in sentences)


def pairs_of(hidden: Hidden, count: int, *, mistakes: float, seed: int) -> list[Pair]:
    """Comparisons of people who like `hidden` and pick wrongly with a chance of `mistakes`."""
    rng = random.Random(seed)
    found: list[Pair] = []
    while len(found) < count:
        prompt = ({"role": "user", "content": f"Question {seed}/{len(found) // 2}?"},)
        better, worse = sorted((an_answer(rng), an_answer(rng)), key=hidden, reverse=True)
        if hidden(better) == hidden(worse):
            continue
        wrong = rng.random() < mistakes
        found.append(Pair(prompt, worse if wrong else better, better if wrong else worse))
    return found


@pytest.mark.parametrize("name", HIDDEN)
def test_150_noisy_pairs_reveal_a_hidden_preference(name: str) -> None:
    model = fit(pairs_of(HIDDEN[name], 150, mistakes=0.1, seed=1))
    judged = model.evaluate(pairs_of(HIDDEN[name], 400, mistakes=0.0, seed=2))
    assert judged.accuracy is not None
    assert judged.accuracy > 0.85
    noisy = model.evaluate(pairs_of(HIDDEN[name], 400, mistakes=0.1, seed=3))
    assert noisy.accuracy is not None
    assert noisy.nll is not None
    assert noisy.accuracy > 0.75  # 0.9 is the most that anyone can reach
    assert noisy.nll < 0.6


def bradley_terry_pairs(count: int, seed: int) -> list[Pair]:
    """Comparisons of people who are the less sure, the closer two answers are in length."""
    rng = random.Random(seed)
    found: list[Pair] = []
    for i in range(count):
        a, b = an_answer(rng), an_answer(rng)
        likes_a = 1 / (1 + math.exp(0.15 * (len(a.split()) - len(b.split()))))
        found.append(
            Pair(
                ({"role": "user", "content": f"{seed}/{i}"},),
                *((a, b) if rng.random() < likes_a else (b, a)),
            )
        )
    return found


def test_probabilities_are_as_sure_as_people_are() -> None:
    judged = fit(bradley_terry_pairs(600, seed=4)).evaluate(bradley_terry_pairs(2000, seed=5))
    assert judged.calibration_error is not None
    assert judged.calibration_error < 0.06


@pytest.mark.parametrize("seed", range(3))
def test_pure_noise_teaches_nothing_and_the_model_says_so(seed: int) -> None:
    rng = random.Random(seed)
    answers = [(an_answer(rng), an_answer(rng)) for _ in range(600)]
    pairs = [
        Pair(({"role": "user", "content": f"q{i}"},), a, b) for i, (a, b) in enumerate(answers)
    ]
    model = fit(pairs[:200])
    judged = model.evaluate(pairs[200:])
    assert judged.accuracy == pytest.approx(0.5, abs=0.07)
    assert judged.nll is not None
    assert judged.nll < 0.72  # 0.693 is a shrug; a model that believed its noise is far above


def test_the_same_pairs_give_the_same_bytes(tmp_path: Path) -> None:
    pairs = pairs_of(HIDDEN["politeness"], 80, mistakes=0.1, seed=6)
    for name in ("first", "second"):
        fit(pairs, seed=3).save(tmp_path / name)
    assert digest_folder(tmp_path / "first") == digest_folder(tmp_path / "second")


def test_a_saved_model_scores_the_same(tmp_path: Path) -> None:
    model = fit(pairs_of(HIDDEN["cheerfulness"], 80, mistakes=0.1, seed=7))
    model.save(tmp_path)
    again = load(tmp_path)
    items = [(PROMPT, an_answer(random.Random(i))) for i in range(20)]
    assert again.score_many(items) == model.score_many(items)


def test_a_damaged_file_is_refused_with_its_reason(tmp_path: Path) -> None:
    fit(pairs_of(HIDDEN["brevity"], 30, mistakes=0.0, seed=8)).save(tmp_path)
    (tmp_path / "reward.npz").write_bytes(b"PK torn")
    with pytest.raises(ValueError, match="no linear reward model"):
        load(tmp_path)


def test_features_of_another_version_are_refused(tmp_path: Path) -> None:
    fit(pairs_of(HIDDEN["brevity"], 30, mistakes=0.0, seed=8)).save(tmp_path)
    description = tmp_path / "reward.json"
    description.write_text(description.read_text().replace('"log_words"', '"other"'))
    with pytest.raises(ValueError, match="features"):
        load(tmp_path)


def test_no_pair_is_an_error() -> None:
    with pytest.raises(ValueError, match="no pair"):
        fit([Pair(PROMPT, "a", "b", weight=0.0)])


def test_one_pair_still_gives_a_cautious_model() -> None:
    model = fit([Pair(PROMPT, "Yes, gladly!", "No.")])
    assert 0.5 < model.win_probability(PROMPT, "Yes, gladly!", "No.") < 0.95


def test_a_heavy_pair_outweighs_a_light_one() -> None:
    long, short = "one two three four five six seven eight.", "one two."
    model = fit([Pair(PROMPT, long, short, weight=5.0), Pair(PROMPT, short, long, weight=1.0)])
    assert model.win_probability(PROMPT, long, short) > 0.5


def test_scores_are_centred_on_what_was_seen() -> None:
    pairs = pairs_of(HIDDEN["brevity"], 120, mistakes=0.1, seed=9)
    model = fit(pairs)
    seen = model.score_many([(p.prompt, a) for p in pairs for a in (p.chosen, p.rejected)])
    assert np.mean(seen) == pytest.approx(0.0, abs=1e-9)


def test_contributions_add_up_to_the_score() -> None:
    model = fit(pairs_of(HIDDEN["brevity"], 120, mistakes=0.1, seed=9))
    parts = model.contributions(PROMPT, "Well, yes!")
    centre = model.centre / model.temperature
    assert sum(parts.values()) - centre == pytest.approx(model.score(PROMPT, "Well, yes!"))


def test_no_prompt_is_in_two_folds() -> None:
    from learnback.models import linear_reward

    pairs = pairs_of(HIDDEN["brevity"], 60, mistakes=0.0, seed=10)
    folds = linear_reward._folds(pairs, seed=0)
    assert folds is not None
    by_prompt: dict[str, set[int]] = {}
    for pair, fold in zip(pairs, folds, strict=True):
        by_prompt.setdefault(pair.prompt[0]["content"], set()).add(int(fold))
    assert all(len(found) == 1 for found in by_prompt.values())
    assert set(folds.tolist()) == {0, 1, 2, 3, 4}


@pytest.fixture(scope="module")
def fitted() -> LinearRewardModel:
    return fit(pairs_of(HIDDEN["cheerfulness"], 100, mistakes=0.1, seed=11))


@settings(max_examples=60, deadline=None)
@given(first=st.text(max_size=200), second=st.text(max_size=200), asked=st.text(max_size=40))
def test_any_two_texts_have_converse_chances(
    fitted: LinearRewardModel, first: str, second: str, asked: str
) -> None:
    prompt = ({"role": "user", "content": asked},)
    there = fitted.win_probability(prompt, first, second)
    back = fitted.win_probability(prompt, second, first)
    assert there + back == pytest.approx(1.0)
    assert 0.0 <= there <= 1.0


@settings(max_examples=60, deadline=None)
@given(text=st.text(max_size=300))
def test_features_are_finite_for_any_text(text: str) -> None:
    assert np.isfinite(style_vector(PROMPT, text)).all()
    assert style_vector(PROMPT, text).shape == (len(STYLE_NAMES),)
    assert np.isfinite(hashed_words(text)).all()


def test_hashing_is_the_same_on_every_machine() -> None:
    assert np.flatnonzero(hashed_words("hello")).tolist() == [646]
    assert np.flatnonzero(hashed_words("Grüße an dich")).tolist() == [70, 244, 493, 671, 745]


def test_parts_and_missing_contents_of_a_prompt_are_read() -> None:
    parts = ({"role": "user", "content": [{"type": "text", "text": "red fox"}, "junk"]},)
    plain = ({"role": "user", "content": "red fox"},)
    assert np.array_equal(style_vector(parts, "a red fox"), style_vector(plain, "a red fox"))
    assert np.isfinite(style_vector(({"role": "user", "content": None},), "x")).all()
