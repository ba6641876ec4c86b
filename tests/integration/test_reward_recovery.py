"""Reward models find a hidden reward again behind raters whose noise is known."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import NamedTuple

import pytest
from tests.tiny_model import small, write_run
from tests.warm_jobs import Jobs

from learnback.models.linear_reward import Pair, fit

pytestmark = [pytest.mark.timeout(240), pytest.mark.xdist_group("training")]

VALUES = {"yes": 1.0, "thanks": 1.0, "good": 0.5, "the": 0.0, "cat": 0.0, "bad": -0.5, "no": -1.5}
SHARPNESS = 1.0
"""A rater prefers a to b with the chance sigmoid(SHARPNESS * (reward(a) - reward(b)))."""
WITHIN = 0.03


class Said(NamedTuple):
    """A rater's word on two answers."""

    prompt: str
    chosen: str
    rejected: str


def hidden_reward(answer: str) -> float:
    return sum(VALUES[word] for word in answer.split())


def ask_raters(count: int, seed: int) -> list[Said]:
    chance = random.Random(seed)
    said = []
    while len(said) < count:
        first, second = (" ".join(chance.choices(list(VALUES), k=4)) for _ in "ab")
        margin = hidden_reward(first) - hidden_reward(second)
        if margin == 0:
            continue
        wins = chance.random() < 1 / (1 + math.exp(-SHARPNESS * margin))
        prompt = f"question {seed} {len(said)}"
        said.append(Said(prompt, *((first, second) if wins else (second, first))))
    return said


def what_noise_allows(said: list[Said]) -> float:
    """The accuracy of the hidden reward itself on these words."""
    right = [hidden_reward(s.chosen) > hidden_reward(s.rejected) for s in said]
    return sum(right) / len(right)


def test_raters_are_noisy_as_they_should_be() -> None:
    assert 0.75 < what_noise_allows(ask_raters(2000, 1)) < 0.9


def test_the_linear_model_comes_within_three_points_of_what_the_noise_allows() -> None:
    train, held_out = ask_raters(2000, 0), ask_raters(1000, 1)
    judged = fit([_pair(s) for s in train]).evaluate([_pair(s) for s in held_out])

    assert judged.accuracy is not None
    assert judged.accuracy >= what_noise_allows(held_out) - WITHIN


def test_the_neural_model_comes_within_three_points_of_what_the_noise_allows(
    tmp_path: Path, tiny_model: Path, jobs: Jobs
) -> None:
    train, held_out = ask_raters(1200, 0), ask_raters(500, 1)
    settings = small(
        "reward_model",
        adaptation="full",
        learning_rate=2e-3,
        max_steps=150,
        batch_size=16,
        checkpoint_every=1000,
    )
    run = write_run(
        tmp_path / "run",
        tiny_model,
        [_row(s, "train") for s in train],
        held_out=[_row(s, "prompt") for s in held_out],
        method="reward_model",
        hyperparameters=settings,
    )
    metrics = jobs.done(run).metrics

    assert metrics["held_out_pairs"] == 500
    assert metrics["held_out_accuracy"] >= what_noise_allows(held_out) - WITHIN
    assert metrics["held_out_calibration_error"] < 0.1
    assert "Reliability on held-out pairs" in (run / "report.html").read_text()


def _pair(said: Said) -> Pair:
    return Pair(({"role": "user", "content": said.prompt},), said.chosen, said.rejected)


def _row(said: Said, side: str) -> dict[str, object]:
    return {
        "feedback_id": f"{side} {said.prompt}",
        "prompt": json.dumps([{"role": "user", "content": said.prompt}]),
        "chosen": said.chosen,
        "rejected": said.rejected,
        "margin": 1.0,
        "side": side,
    }
