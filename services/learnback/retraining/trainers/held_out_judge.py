"""The judge that picks a policy's checkpoint: never the reward model that the policy was paid by.

A linear Bradley-Terry model, fitted to comparisons that the paying reward model has not seen. What
a policy learns in order to please one judge beyond what people like (Gao et al. 2022,
arXiv:2210.10760) does not please another one as much.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from learnback.contracts.models import PromptMessages
from learnback.models.linear_reward import LinearRewardModel, Pair, fit
from learnback.retraining.trainers.rows import Messages, read

JUDGE_FILE = "judge.parquet"
MIN_PAIRS = 20
"""Fewer pairs know nothing about style; no judge is better than a random one."""

Answer = tuple[Messages, str]


class HeldOutJudge:
    """Compares a policy's answers with the base model's to the same prompts."""

    def __init__(self, model: LinearRewardModel) -> None:
        self.model = model

    def scores(self, answers: Sequence[Answer]) -> list[float]:
        """Of each answer, in calibrated logits."""
        return self.model.score_many([(_frozen(prompt), text) for prompt, text in answers])


def win_rate(scores: Sequence[float], base: Sequence[float]) -> float:
    """The mean chance, by the judge's scores, that an answer is preferred to the base model's."""
    chances = [0.5 + 0.5 * math.tanh(0.5 * (a - b)) for a, b in zip(scores, base, strict=True)]
    return sum(chances) / len(chances)


def find_judge(dataset: Path, seed: int) -> HeldOutJudge | None:
    """Fitted to ``dataset/judge.parquet``; None if that is missing or too small. Raises BadData."""
    path = dataset / JUDGE_FILE
    rows = read(path, "reward_model") if path.is_file() else []
    pairs = [Pair(_frozen(r.prompt), r.chosen, r.rejected, r.margin) for r in rows if r.margin > 0]
    return HeldOutJudge(fit(pairs, seed=seed)) if len(pairs) >= MIN_PAIRS else None


def _frozen(prompt: Messages) -> PromptMessages:
    return tuple(prompt)
