"""Reward models find a hidden reward again behind raters whose noise is known."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
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
CALIBRATED_ON = 512
"""Held-out pairs that a neural model is measured on, at most."""


TIE_BELOW = 0.5
"""Of a difference as a rater sees it, where ties may be said: Rao and Kupper's threshold."""
SURE_FROM = 3.0


class Said(NamedTuple):
    """A rater's word on two answers."""

    prompt: str
    chosen: str
    rejected: str
    strength: float = 1.0
    tie: bool = False


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


def ask_careful_raters(count: int, seed: int) -> list[Said]:
    """Who say how sure they are, and that they see no difference where they see little."""
    chance = random.Random(seed)
    said = []
    while len(said) < count:
        first, second = (" ".join(chance.choices(list(VALUES), k=4)) for _ in "ab")
        doubt = chance.random()
        noise = math.log(doubt / (1 - doubt))  # logistic: a win of d has the chance sigmoid(d)
        seen = hidden_reward(first) - hidden_reward(second) + noise / SHARPNESS
        better, worse = (first, second) if seen > 0 else (second, first)
        strength = max(0.1, min(1.0, abs(seen) / SURE_FROM))
        prompt = f"question {seed} {len(said)}"
        said.append(Said(prompt, better, worse, strength, tie=abs(seen) < TIE_BELOW))
    return said


def what_noise_allows(said: list[Said]) -> float:
    """The accuracy of the hidden reward itself on these words: a coin's where it says nothing."""
    told = [hidden_reward(s.chosen) - hidden_reward(s.rejected) for s in said if not s.tie]
    right = [0.5 if difference == 0 else float(difference > 0) for difference in told]
    return sum(right) / len(right)


def test_raters_are_noisy_as_they_should_be() -> None:
    assert 0.75 < what_noise_allows(ask_raters(2000, 1)) < 0.9


def test_the_linear_model_comes_within_three_points_of_what_the_noise_allows() -> None:
    train, held_out = ask_raters(2000, 0), ask_raters(1000, 1)
    judged = fit([_pair(s) for s in train]).evaluate([_pair(s) for s in held_out])

    assert judged.accuracy is not None
    assert judged.accuracy >= what_noise_allows(held_out) - WITHIN


def test_so_it_does_where_raters_say_how_sure_they_are() -> None:
    """Ties are no pairs for it, and strength is a weight."""
    train, held_out = ask_careful_raters(2000, 0), ask_careful_raters(1000, 1)
    model = fit([_pair(s) for s in train if not s.tie])
    judged = model.evaluate([_pair(s) for s in held_out if not s.tie])

    assert judged.accuracy is not None
    assert judged.accuracy >= what_noise_allows(held_out) - WITHIN


@pytest.mark.parametrize(
    ("raters", "settings"),
    [
        (ask_raters, {"adaptation": "full", "learning_rate": 2e-3}),
        (ask_careful_raters, {"lora_rank": 16, "lora_alpha": 32, "learning_rate": 2e-3}),
    ],
    ids=["full weights", "an adapter, with ties and strengths"],
)
def test_the_neural_model_comes_within_three_points_of_what_the_noise_allows(
    raters: Callable[[int, int], list[Said]],
    settings: dict[str, object],
    tmp_path: Path,
    tiny_model: Path,
    jobs: Jobs,
) -> None:
    train, held_out = raters(1200, 0), raters(600, 1)
    long = {"max_steps": 200, "batch_size": 16, "checkpoint_every": 1000}
    run = write_run(
        tmp_path / "run",
        tiny_model,
        [_row(s, "train") for s in train],
        held_out=[_row(s, "prompt") for s in held_out],
        method="reward_model",
        hyperparameters=small("reward_model", **long, **settings),
    )
    metrics = jobs.done(run).metrics

    told = [s for s in held_out if not s.tie][:CALIBRATED_ON]
    assert metrics["held_out_pairs"] == len(told)
    assert metrics["held_out_accuracy"] >= what_noise_allows(told) - WITHIN
    assert metrics["held_out_calibration_error"] < 0.1
    assert "Reliability on held-out pairs" in (run / "report.html").read_text()


def _pair(said: Said) -> Pair:
    prompt = ({"role": "user", "content": said.prompt},)
    return Pair(prompt, said.chosen, said.rejected, said.strength)


def _row(said: Said, side: str) -> dict[str, object]:
    return {
        "feedback_id": f"{side} {said.prompt}",
        "prompt": json.dumps([{"role": "user", "content": said.prompt}]),
        "chosen": said.chosen,
        "rejected": said.rejected,
        "margin": 0.0 if said.tie else said.strength,
        "tie": said.tie,
        "side": side,
    }
