"""The method follows from what there is, says why, and an operator may fix it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, get_args

import pytest

from learnback.cli_training import METHODS
from learnback.retraining.choice import (
    Available,
    Chosen,
    Reward,
    Sizes,
    as_chosen,
    choose,
    refusal,
)

GOOD = Reward("tiny-reward-1", neural=True, train_pairs=2000, judged=400, accuracy=0.8)
PAIRS = Available(pairs=100, liked=100, disliked=100)
DUE = replace(PAIRS, pairs=500, policy_due=True)
RL = Available(pairs=3000, liked=3000, disliked=3000, prompts=900, reward=GOOD)
RL_DUE = replace(RL, policy_due=True)
BAD, UNSURE = replace(GOOD, accuracy=0.6), replace(GOOD, judged=149)
HALF = replace(RL, pairs=600, reward=replace(GOOD, train_pairs=300))

CASES: list[tuple[str, Available, str | None, str]] = [
    ("pairs", PAIRS, "dpo", "100 pairs"),
    ("few pairs", Available(pairs=9), "dpo", "so few"),
    ("thumbs only", Available(liked=60, disliked=40, single=100), "kto", "100 labels"),
    ("many thumbs, few pairs", replace(PAIRS, single=201), "kto", "worth more than 100 pairs"),
    ("some thumbs, more pairs", replace(PAIRS, single=200), "dpo", "100 pairs"),
    ("thumbs up only", Available(liked=80), None, "were liked"),
    ("thumbs up only, some rated at the top", Available(liked=80, completions=9), "sft", "9 ans"),
    ("as many corrections as pairs", Available(pairs=50, completions=50), "dpo", "50 pairs"),
    ("hardly any dislike", Available(liked=99, disliked=1, single=100), None, "one-sided"),
    ("ties only", Available(ties=20), None, "ties"),
    ("nothing", Available(), None, "no usable"),
    ("enough for a reward model", replace(PAIRS, pairs=500), "reward_model", "has seen 0"),
    ("a reward model that has seen most", replace(RL, pairs=1999), "dpo", "1999 pairs"),
    ("a reward model that has seen half", HALF, "reward_model", "seen 300"),
    ("after a reward model comes a policy", DUE, "dpo", "500"),
    ("enough for RLOO, new words first", RL, "reward_model", "then RLOO"),
    ("enough for RLOO, the reward model is made", RL_DUE, "rloo", "80%"),
    ("its reward model is bad", replace(RL_DUE, reward=BAD), "dpo", "3000"),
    ("its reward model is hardly judged", replace(RL_DUE, reward=UNSURE), "dpo", "3000"),
    ("too few prompts", replace(RL_DUE, prompts=10), "dpo", "3000"),
]


@pytest.mark.parametrize(
    ("name", "have", "method", "reason"), CASES, ids=[case[0] for case in CASES]
)
def test_choices(name: str, have: Available, method: str | None, reason: str) -> None:
    choice = choose(have, Sizes())
    assert choice.method == method
    assert reason in choice.reason
    assert method not in choice.others


def test_the_command_line_knows_all_methods() -> None:
    assert set(METHODS) == set(get_args(Chosen))
    assert as_chosen("kto") == "kto"
    with pytest.raises(ValueError, match="no method 'magic'"):
        as_chosen("magic")


def test_why_not_the_others_is_said() -> None:
    others = choose(PAIRS, Sizes()).others
    assert set(others) == {"sft", "kto", "rloo", "reward_model", "prompt"}
    assert others["rloo"] == "100 of 2000 pairs; 0 of 200 prompts; no reward model"
    assert others["reward_model"] == "100 of 500 pairs"


@pytest.mark.parametrize("method", ["sft", "dpo", "kto", "reward_model", "prompt"])
def test_an_operator_fixes_the_method(method: Any) -> None:
    choice = choose(RL, Sizes(), fixed=method)
    assert choice.method == method
    assert "LEARNBACK_RETRAINING_METHOD" in choice.reason


def test_rloo_fixed_still_begins_with_its_reward_model() -> None:
    assert choose(PAIRS, Sizes(), fixed="rloo").method == "reward_model"
    assert choose(replace(PAIRS, policy_due=True), Sizes(), fixed="rloo").method == "rloo"


@pytest.mark.parametrize(
    ("method", "have", "reason"),
    [
        ("dpo", Available(ties=4), "all 4 comparisons are ties"),
        ("dpo", Available(), "no pair"),
        ("sft", PAIRS, "no correction"),
        ("kto", Available(liked=80), "all 80 answers with a label were liked"),
        ("kto", Available(), "no label"),
        ("rloo", replace(RL, reward=None), "no reward model"),
        ("rloo", replace(RL, prompts=0), "no prompt"),
        ("reward_model", Available(), "no pair"),
    ],
)
def test_a_method_without_its_data_is_refused(method: Any, have: Available, reason: str) -> None:
    said = refusal(method, have)
    assert said is not None
    assert reason in said


@pytest.mark.parametrize("method", ["dpo", "kto", "rloo", "reward_model", "prompt"])
def test_a_method_with_its_data_is_not(method: Any) -> None:
    assert refusal(method, RL) is None
