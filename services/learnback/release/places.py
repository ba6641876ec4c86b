"""Learned rewards as places among those of stable's answers: without a unit, in [0, 1]."""

from __future__ import annotations

import bisect
from collections.abc import Sequence

from sqlalchemy.ext.asyncio import AsyncConnection

from learnback.ledger import canaries

SCALE = 1000
"""Answers of stable whose rewards make a scale: a place on it is known to within 3%."""
LEAST_SCALE = 30
"""With fewer there is no scale yet: who came so early has no reward."""


class Places:
    """Has a scale for each reward model, taken when its first score is read and then kept."""

    def __init__(self, stable: str) -> None:
        self.stable = stable
        self._scales: dict[str, list[float]] = {}

    async def of(self, connection: AsyncConnection, ids: Sequence[str]) -> dict[str, float]:
        """The place of each completion that has a learned reward."""
        rewards = await canaries.learned_rewards(connection, ids)
        for model in {model for model, _ in rewards.values()} - self._scales.keys():
            await self._take_scale(connection, model)
        return {
            completion_id: place(score, self._scales[model])
            for completion_id, (model, score) in rewards.items()
            if model in self._scales
        }

    async def _take_scale(self, connection: AsyncConnection, model: str) -> None:
        """A reward model that came during the canary gets a scale of its own."""
        scores = await canaries.recent_rewards(connection, self.stable, model, SCALE)
        if len(scores) >= LEAST_SCALE:
            self._scales[model] = sorted(scores)


def place(score: float, scale: Sequence[float]) -> float:
    """The share of an ascending scale that a score is over, in [0, 1]; ties count as halves.

    Rewards have no unit, and each reward model has its own: places can be compared and bounded.
    """
    return (bisect.bisect_left(scale, score) + bisect.bisect_right(scale, score)) / (2 * len(scale))
