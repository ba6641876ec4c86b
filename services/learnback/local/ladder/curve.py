"""The over-optimisation curve: what a policy is paid, and what people would say, step by step.

Every step of a policy-gradient run leaves its answers and their rewards; the gold judge reads them
afterwards, so the curve costs nothing beside the runs (Gao et al. 2022, arXiv:2210.10760, fig. 1).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from learnback.local.ladder.measure import Scale, root, smooth
from learnback_simulator.preferences import Score

Point = tuple[float, float]


@dataclass
class Curve:
    """One run. Points are (sqrt(KL), mean standard score of a step's answers)."""

    name: str
    paid: list[Point] = field(default_factory=list)
    """By the reward model that the policy learned from."""
    gold: list[Point] = field(default_factory=list)
    """By the hidden preference."""


def read_curve(name: str, run: Path, score: Score, gold_scale: Scale, paid_scale: Scale) -> Curve:
    """From the rollouts that a run left."""
    paid: list[Point] = []
    gold: list[Point] = []
    for path in sorted((run / "rollouts").glob("*.json")):
        step = json.loads(path.read_text(encoding="utf-8"))
        x, said = root(step["metrics"]["kl"]), step["answers"]
        rewards = [paid_scale.standard(float(s["score"])) for s in said if s["score"] is not None]
        truth = [
            gold_scale.standard(score(str(s["prompt"][-1]["content"]), str(s["answer"])))
            for s in said
        ]
        if rewards:
            paid.append((x, sum(rewards) / len(rewards)))
        gold.append((x, sum(truth) / len(truth)))
    return Curve(name, smooth(paid), smooth(gold))
