"""People: what they like, how they err, and whether they say anything at all."""

from __future__ import annotations

import random
from dataclasses import dataclass

from learnback_simulator.preferences import Score


@dataclass(frozen=True)
class Person:
    """Somebody with a hidden preference.

    `error_rate`: picks the one they like less (disagreement between raters; InstructGPT reports
    72.6 % agreement). `indifference`: the difference of scores up to which they say nothing, in
    units of their preference. `position_bias`: picks the first one unread. `laziness`: says
    nothing. All but `indifference` are probabilities.
    """

    id: str
    preference: Score
    error_rate: float = 0.1
    position_bias: float = 0.0
    laziness: float = 0.0
    indifference: float = 0.0
    seed: int = 0

    def compare(self, prompt: str, first: str, second: str) -> str | None:
        """`first`, `second`, `tie_good`, or None if they say nothing.

        The same person gives the same reply to the same question.
        """
        dice = random.Random(f"{self.seed}/{self.id}/{prompt}/{first}/{second}")
        lazy, unread, mistaken = dice.random(), dice.random(), dice.random()
        if lazy < self.laziness:
            return None
        if unread < self.position_bias:
            return "first"
        difference = self.preference(prompt, first) - self.preference(prompt, second)
        if abs(difference) <= self.indifference:
            return None if difference else "tie_good"
        likes_first = (difference > 0) != (mistaken < self.error_rate)
        return "first" if likes_first else "second"


def crowd(
    count: int,
    preference: Score,
    *,
    seed: int = 0,
    error_rate: float = 0.1,
    position_bias: float = 0.0,
    laziness: float = 0.0,
    indifference: float = 0.0,
) -> list[Person]:
    """`count` people who like the same, and err independently of each other."""
    return [
        Person(
            f"person-{seed}-{i}",
            preference,
            error_rate,
            position_bias,
            laziness,
            indifference,
            seed,
        )
        for i in range(count)
    ]
