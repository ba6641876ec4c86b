"""Making a reward model's probabilities honest, and showing how honest they are. Pure, in numpy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from learnback.core.report import Chart, line_chart

INVERSE_TEMPERATURES = np.geomspace(0.02, 50.0, 400)
BINS = 10
FOLDS = 5


@dataclass(frozen=True)
class Bin:
    """Pairs whose predicted chance lies in one tenth of [0, 1]."""

    predicted: float
    happened: float
    pairs: int
    """Each counts once: seen from its other side it is in another bin."""

    @property
    def interval(self) -> tuple[float, float]:
        """95% of what happened (Wilson 1927)."""
        return _wilson(self.happened, self.pairs)


def fit_temperature(differences: Sequence[float]) -> float:
    """The temperature by which score differences, chosen minus rejected, are divided so that their
    sigmoids are most likely (Guo et al. 2017, arXiv:1706.04599, sec. 4.2); 1 without any.

    Each pair counts as won by (n + 1) / (n + 2) only (Platt 1999): a few pairs that are all ranked
    right are no proof of certainty.
    """
    margins = np.asarray(differences, np.float64)
    if not len(margins):
        return 1.0
    won = (len(margins) + 1) / (len(margins) + 2)
    scaled = np.outer(INVERSE_TEMPERATURES, margins)
    losses = won * np.logaddexp(0, -scaled) + (1 - won) * np.logaddexp(0, scaled)
    return 1.0 / float(INVERSE_TEMPERATURES[int(np.argmin(losses.mean(axis=1)))])


def cross_fitted(differences: Sequence[float], prompts: Sequence[str]) -> list[float]:
    """Each difference divided by a temperature that was fitted to the pairs of other prompts: what
    a calibration is worth on the very pairs that it was fitted to is too good.

    A fifth of the prompts is left out at a time; with one prompt alone the temperature is 1.
    """
    place = {prompt: i % FOLDS for i, prompt in enumerate(sorted(set(prompts)))}
    folds = [place[prompt] for prompt in prompts]
    found = [0.0] * len(differences)
    for fold in sorted(set(folds)):
        others = [d for d, f in zip(differences, folds, strict=True) if f != fold]
        temperature = fit_temperature(others)
        for i, difference in enumerate(differences):
            if folds[i] == fold:
                found[i] = difference / temperature
    return found


def reliability(differences: Sequence[float]) -> list[Bin]:
    """How often the first of two answers won, by its predicted chance; bins with pairs only.

    Each pair is looked at from both sides, so that every chance in [0, 1] comes up.
    """
    margins = np.asarray(differences, np.float64)
    chances = 1 / (1 + np.exp(-np.concatenate([margins, -margins])))
    won = np.repeat([1.0, 0.0], len(margins))
    bins = np.minimum((chances * BINS).astype(int), BINS - 1)
    return [
        Bin(float(chances[bins == b].mean()), float(won[bins == b].mean()), int((bins == b).sum()))
        for b in range(BINS)
        if (bins == b).any()
    ]


def reliability_plot(differences: Sequence[float]) -> Chart:
    """Predicted against seen, with 95% Wilson intervals; on the diagonal it is honest."""
    bins = reliability(differences)
    points = [(b.predicted, b.happened) for b in bins]
    return line_chart(
        "Reliability on held-out pairs",
        {"seen": points},
        x_label="predicted chance that the first answer is preferred",
        y_label="share preferred",
        diagonal=True,
        bands={"seen": [b.interval for b in bins]},
    )


def _wilson(share: float, n: float, z: float = 1.96) -> tuple[float, float]:
    """The interval of a share of n (Wilson 1927)."""
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, middle - half), min(1.0, middle + half)
