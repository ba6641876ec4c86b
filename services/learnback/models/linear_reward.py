"""A reward model that is linear in fixed text features, fitted to comparisons, in numpy alone.

The Bradley-Terry model (Bradley and Terry 1952): ``P(a beats b) = sigmoid(r(prompt, a) - r(prompt,
b))`` with
``r = w . phi(prompt, answer)``. A penalty on ``w``, stronger on the hashed words, is chosen by
cross-validation that never
splits a prompt; the left-out predictions then set the temperature, so that probabilities are honest
(Guo et al. 2017).
Everything is deterministic. It needs no GPU and milliseconds, and it is what 100 to 10,000
comparisons can support.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from learnback.contracts.models import PromptMessages
from learnback.ledger.prompts import prompt_key
from learnback.models.text_features import (
    BUCKETS,
    STYLE_NAMES,
    Array,
    hashed_words,
    style_vector,
)

FORMAT = 1
"""Of the saved files; features are part of it, so changing any of them makes a new one."""
WEIGHTS_FILE, DESCRIPTION_FILE = "reward.npz", "reward.json"
L2_CHOICES = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
WORD_CHOICES = (0.0, 0.15, 0.4)
"""Scale of the hashed words beside the style features: their penalty is l2 / scale^2; 0 leaves them
out."""
DEFAULT_L2, DEFAULT_WORDS = 30.0, 0.0
"""Where there are too few prompts to cross-validate."""
FOLDS = 5
CROSS_VALIDATED = 800
"""Pairs that choose the penalty; more change it little and cost time."""
MAX_Z = 5.0
"""Standardised features are cut here, so that no freak answer earns an absurd reward."""
SCALES = np.concatenate([[0.0], np.geomspace(0.02, 10.0, 160)])
"""Inverse temperatures that calibration looks at."""


@dataclass(frozen=True)
class Pair:
    """A comparison of two answers to one prompt; `weight` says how much it counts."""

    prompt: PromptMessages
    chosen: str
    rejected: str
    weight: float = 1.0


@dataclass(frozen=True)
class Evaluation:
    """How well a model orders pairs that it has not seen.

    `correct` counts a tie as half; `nll` is the mean negative log-likelihood in nats (0.693: knows
    nothing);
    `calibration_error` is the expected gap between confidence and accuracy over ten bins.
    """

    pairs: int
    correct: float
    accuracy: float | None
    nll: float | None
    calibration_error: float | None


@dataclass(frozen=True)
class LinearRewardModel:
    """``score`` is in calibrated logits: ``sigmoid(score(a) - score(b))`` is the chance that a is
    preferred.

    It is centred on the answers that it was fitted to: 0 is what people saw on average.
    """

    style_weights: Array  # (style,), per standardised feature
    word_weights: Array  # (BUCKETS,)
    style_mean: Array  # (style,)
    style_scale: Array  # (style,)
    centre: float
    temperature: float
    l2: float
    word_scale: float
    pairs: int

    def score(self, prompt: PromptMessages, answer: str) -> float:
        """The reward of one answer."""
        return self.explain(prompt, answer)[0]

    def explain(self, prompt: PromptMessages, answer: str) -> tuple[float, dict[str, float]]:
        """The reward, and what each style feature adds to it, and all words together."""
        z = _standardise(style_vector(prompt, answer), self.style_mean, self.style_scale)
        words = float(hashed_words(answer) @ self.word_weights) if self.word_weights.any() else 0.0
        score = (float(z @ self.style_weights) + words - self.centre) / self.temperature
        shares = (z * self.style_weights / self.temperature).tolist()
        parts = dict(zip(STYLE_NAMES, shares, strict=True))
        return score, parts | {"hashed_words": words / self.temperature}

    def score_many(self, items: Iterable[tuple[PromptMessages, str]]) -> list[float]:
        """The rewards of many (prompt, answer), in order."""
        return [self.score(prompt, answer) for prompt, answer in items]

    def win_probability(self, prompt: PromptMessages, first: str, second: str) -> float:
        """The chance that people prefer `first`; it and its converse add up to 1."""
        return _sigmoid(self.score(prompt, first) - self.score(prompt, second))

    def contributions(self, prompt: PromptMessages, answer: str) -> dict[str, float]:
        """What adds to the score, by feature: for people who ask why."""
        return self.explain(prompt, answer)[1]

    def evaluate(self, pairs: Sequence[Pair]) -> Evaluation:
        """Compare with what people said of pairs that were not trained on."""
        margins = np.array(
            [self.score(p.prompt, p.chosen) - self.score(p.prompt, p.rejected) for p in pairs]
        )
        return evaluate_margins(margins)

    def save(self, folder: Path) -> None:
        """Write two files into `folder`, the same bytes for the same model."""
        folder.mkdir(parents=True, exist_ok=True)
        np.savez(
            folder / WEIGHTS_FILE,
            style_weights=self.style_weights,
            word_weights=self.word_weights,
            style_mean=self.style_mean,
            style_scale=self.style_scale,
        )
        numbers = ("centre", "temperature", "l2", "word_scale", "pairs")
        description: dict[str, Any] = {name: getattr(self, name) for name in numbers}
        description |= {"format": FORMAT, "features": STYLE_NAMES, "buckets": BUCKETS}
        (folder / DESCRIPTION_FILE).write_text(json.dumps(description, indent=2), encoding="utf-8")


def load(folder: Path) -> LinearRewardModel:
    """Read what `save` wrote. Raises ValueError if the files are missing, damaged or of another
    format.
    """
    try:
        description = json.loads((folder / DESCRIPTION_FILE).read_text(encoding="utf-8"))
        written = description["format"], tuple(description["features"]), description["buckets"]
        if written != (FORMAT, STYLE_NAMES, BUCKETS):
            raise ValueError(
                f"format {description['format']} has other features than format {FORMAT}"
            )
        with np.load(folder / WEIGHTS_FILE, allow_pickle=False) as arrays:
            weights = {name: arrays[name].astype(np.float64) for name in arrays.files}
        numbers = {n: float(description[n]) for n in ("centre", "temperature", "l2", "word_scale")}
        fields: dict[str, Any] = {**weights, **numbers, "pairs": int(description["pairs"])}
        model = LinearRewardModel(**fields)
        shapes = model.style_weights.shape, model.word_weights.shape
        if shapes != ((len(STYLE_NAMES),), (BUCKETS,)):
            raise ValueError(f"weights have the shapes {shapes}")
    except (OSError, KeyError, TypeError, ValueError, EOFError) as error:
        raise ValueError(f"no linear reward model in {folder.name}: {error}") from error
    return model


def fit(
    pairs: Sequence[Pair],
    *,
    l2: float | None = None,
    word_scale: float | None = None,
    seed: int = 0,
) -> LinearRewardModel:
    """Fit to comparisons; whatever of `l2` and `word_scale` is None is chosen by cross-validation.

    `seed` decides which prompts fall into which fold. Raises ValueError without a pair of positive
    weight.
    """
    used = [p for p in pairs if p.weight > 0]
    if not used:
        raise ValueError("no pair to learn from")
    answers = np.stack([style_vector(p.prompt, a) for p in used for a in (p.chosen, p.rejected)])
    mean, scale = answers.mean(axis=0), answers.std(axis=0)
    scale[scale < 1e-9] = 1.0
    standard = _standardise(answers, mean, scale)  # (2 * pairs, style)
    words, mean_words = _word_differences(used)
    design = _Design(
        style=standard[0::2] - standard[1::2],
        words=words,
        weights=np.array([p.weight for p in used], np.float64),
    )
    best = _choose(design, _folds(used, seed), l2, word_scale)
    weights = design.fit(best.l2, best.word_scale)
    style_weights = weights[: len(STYLE_NAMES)]
    word_weights = _word_weights(weights, best.word_scale)
    raw = standard.mean(axis=0) @ style_weights + mean_words @ word_weights
    return LinearRewardModel(
        style_weights=style_weights,
        word_weights=word_weights,
        style_mean=mean,
        style_scale=scale,
        centre=float(raw),
        temperature=best.temperature,
        l2=best.l2,
        word_scale=best.word_scale,
        pairs=len(used),
    )


def _word_differences(pairs: Sequence[Pair]) -> tuple[Array, Array]:
    """Hashed words, chosen minus rejected: (pairs, BUCKETS); and their mean over all answers."""
    differences, total = np.empty((len(pairs), BUCKETS)), np.zeros(BUCKETS)
    for i, pair in enumerate(pairs):
        chosen, rejected = hashed_words(pair.chosen), hashed_words(pair.rejected)
        differences[i] = chosen - rejected
        total += chosen + rejected
    return differences, total / (2 * len(pairs))


@dataclass(frozen=True)
class _Design:
    """Differences of features, chosen minus rejected: every label is 1."""

    style: Array  # (pairs, style)
    words: Array  # (pairs, BUCKETS)
    weights: Array  # (pairs,)

    def features(self, word_scale: float) -> Array:
        """(pairs, style) without words, else (pairs, style + BUCKETS)."""
        if word_scale == 0:
            return self.style
        return np.hstack([self.style, word_scale * self.words])

    def fit(self, l2: float, word_scale: float) -> Array:
        """The penalised weights on all pairs."""
        return minimise(self.features(word_scale), self.weights, l2)


@dataclass(frozen=True)
class _Choice:
    l2: float
    word_scale: float
    temperature: float
    nll: float


def _choose(
    design: _Design, folds: Array | None, l2: float | None, word_scale: float | None
) -> _Choice:
    """The penalties whose left-out predictions are best after calibration."""
    if folds is None:
        chosen = DEFAULT_WORDS if word_scale is None else word_scale
        return _Choice(DEFAULT_L2 if l2 is None else l2, chosen, 1.0, math.log(2))
    found: list[_Choice] = []
    for words in WORD_CHOICES if word_scale is None else (word_scale,):
        features = design.features(words)
        found += _path(features, design.weights, folds, L2_CHOICES if l2 is None else (l2,), words)
    return min(found, key=lambda c: (round(c.nll, 6), c.word_scale, -c.l2))


def _path(
    features: Array, weights: Array, folds: Array, choices: Sequence[float], word_scale: float
) -> list[_Choice]:
    """Cross-validate each penalty, strongest first, each starting where the last one ended."""
    chosen = sorted(choices, reverse=True)
    margins = np.zeros((len(chosen), len(folds)))
    for fold in range(FOLDS):
        train, test = (folds >= 0) & (folds != fold), folds == fold
        rows, row_weights, start = features[train], weights[train], None
        for i, l2 in enumerate(chosen):
            start = minimise(rows, row_weights, l2, start)
            margins[i, test] = features[test] @ start
    seen = folds >= 0
    return [
        _Choice(l2, word_scale, *_calibrate(margins[i, seen], weights[seen]))
        for i, l2 in enumerate(chosen)
    ]


def _calibrate(margins: Array, weights: Array) -> tuple[float, float]:
    """The temperature that makes left-out predictions most likely, and their mean NLL then."""
    losses = np.logaddexp(0.0, -np.outer(SCALES, margins)) @ weights / weights.sum()
    best = int(np.argmin(losses))
    return 1.0 / max(float(SCALES[best]), 1e-3), float(losses[best])


def _folds(pairs: Sequence[Pair], seed: int) -> Array | None:
    """A fold for each pair, the same for all pairs of a prompt; -1: left out. None: too few
    prompts.
    """
    keys = [prompt_key(p.prompt) for p in pairs]
    groups = sorted(set(keys))
    if len(groups) < 2 * FOLDS:
        return None
    order = np.random.default_rng(seed).permutation(len(groups))
    rank = {groups[g]: i for i, g in enumerate(order)}
    kept = len(groups) * min(1.0, CROSS_VALIDATED / len(pairs))
    return np.array([rank[k] % FOLDS if rank[k] < kept else -1 for k in keys])


def minimise(features: Array, weights: Array, l2: float, start: Array | None = None) -> Array:
    """``argmin_w sum_i weights_i log(1 + exp(-x_i w)) + l2/2 |w|^2`` by truncated Newton:
    (features,).

    Convex, so Newton's method with conjugate gradients (Lin, Weng and Keerthi 2008) and step
    halving
    always arrives.
    """
    w = np.zeros(features.shape[1]) if start is None else start.copy()

    def loss(at: Array) -> float:
        return float(weights @ np.logaddexp(0.0, -(features @ at)) + 0.5 * l2 * (at @ at))

    value = loss(w)
    for _ in range(50):
        p = _sigmoids(-(features @ w))
        gradient = l2 * w - features.T @ (weights * p)
        if np.abs(gradient).max() < 1e-4:
            break
        step = _conjugate_gradients(features, weights * p * (1 - p), l2, -gradient)
        slope, size = float(gradient @ step), 1.0
        while (lower := loss(w + size * step)) > value + 1e-4 * size * slope and size > 1e-6:
            size /= 2
        if lower >= value:
            break
        w, value = w + size * step, lower
    return w


def _conjugate_gradients(features: Array, curvature: Array, l2: float, target: Array) -> Array:
    """Solve ``(X' diag(curvature) X + l2 I) step = target`` to a tenth of its size."""
    step = np.zeros_like(target)
    residual, direction = target.copy(), target.copy()
    size = float(residual @ residual)
    goal = 0.01 * size
    for _ in range(100):
        image = features.T @ (curvature * (features @ direction)) + l2 * direction
        length = size / float(direction @ image)
        step = step + length * direction
        residual = residual - length * image
        new = float(residual @ residual)
        if new <= goal:
            break
        direction, size = residual + (new / size) * direction, new
    return step


def evaluate_margins(margins: Array) -> Evaluation:
    """Judge score differences, chosen minus rejected: (pairs,)."""
    count = len(margins)
    if count == 0:
        return Evaluation(0, 0.0, None, None, None)
    right = np.where(margins == 0, 0.5, margins > 0)
    confidence = _sigmoids(np.abs(margins))
    bins = np.minimum(((confidence - 0.5) * 20).astype(int), 9)
    gaps = [abs(float((right - confidence)[bins == b].sum())) for b in range(10)]
    return Evaluation(
        pairs=count,
        correct=float(right.sum()),
        accuracy=float(right.mean()),
        nll=float(np.logaddexp(0.0, -margins).mean()),
        calibration_error=sum(gaps) / count,
    )


def metrics_of(evaluation: Evaluation, prefix: str) -> dict[str, Any]:
    """An evaluation as flat metrics: `<prefix>_pairs`, `<prefix>_accuracy`, ..."""
    return {f"{prefix}_{name}": value for name, value in asdict(evaluation).items()}


def _word_weights(weights: Array, word_scale: float) -> Array:
    tail = weights[len(STYLE_NAMES) :]
    return word_scale * tail if len(tail) else np.zeros(BUCKETS)


def _standardise(vectors: Array, mean: Array, scale: Array) -> Array:
    return np.clip((vectors - mean) / scale, -MAX_Z, MAX_Z)


def _sigmoids(x: Array) -> Array:
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * x)))


def _sigmoid(x: float) -> float:
    return 0.5 * (1.0 + math.tanh(0.5 * x))
