"""How far raters agree, and which of them hardly do with anybody. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from itertools import combinations

from pydantic import BaseModel, ConfigDict

from learnback.retraining.datasets.reading import Comparison, Opinion, Said
from learnback.retraining.datasets.votes import last_words

Distance = Callable[[float, float], float]
Judged = list[tuple[Said, float]]
"""Those who judged one item, each with a verdict."""


class Agreement(BaseModel):
    """Of the items that several raters judged; None where there is nothing to compare."""

    model_config = ConfigDict(frozen=True)

    items: int
    pairwise: float | None
    """How often two raters of one item say the same: what InstructGPT reports (72.6%)."""
    alpha: float | None
    """Krippendorff's alpha: 1 is perfect, 0 is chance."""


def nominal(a: float, b: float) -> float:
    """Categories: equal or not."""
    return float(a != b)


def interval(a: float, b: float) -> float:
    """Numbers: the squared difference."""
    return (a - b) ** 2


def krippendorff(units: Iterable[Sequence[float]], distance: Distance) -> float | None:
    """1 - observed / expected disagreement (Krippendorff 2011, "Computing Krippendorff's
    alpha-reliability"). None with fewer than two values to compare, or only one value at all."""
    paired = [unit for unit in units if len(unit) > 1]
    values = Counter(value for unit in paired for value in unit)
    n = sum(values.values())
    expected = 2 * sum(
        values[a] * values[b] * distance(a, b) for a, b in combinations(sorted(values), 2)
    )
    if expected == 0:
        return None
    observed = sum(
        2 * sum(distance(a, b) for a, b in combinations(unit, 2)) / (len(unit) - 1)
        for unit in paired
    )
    return 1 - (n - 1) * observed / expected


def measure(items: Iterable[Sequence[float]], distance: Distance) -> Agreement:
    """Both measures over items, each with one verdict a rater."""
    shared = [item for item in items if len(item) > 1]
    pairs = [
        sum(a == b for a, b in combinations(item, 2)) / (len(item) * (len(item) - 1) / 2)
        for item in shared
    ]
    alpha = krippendorff(shared, distance)
    return Agreement(
        items=len(shared),
        pairwise=round(sum(pairs) / len(pairs), 6) if pairs else None,
        alpha=None if alpha is None else round(alpha, 6),
    )


def of_comparisons(comparisons: Iterable[Comparison]) -> list[Judged]:
    """Items are two texts under one prompt; a verdict is which of them, or a tie."""
    items: defaultdict[Hashable, list[Comparison]] = defaultdict(list)
    for one in comparisons:
        items[one.prompt_key, frozenset(text.key for text in one.texts)].append(one)
    return [[(one, _verdict(one)) for one in last_words(item)] for item in items.values()]


def of_opinions(opinions: Iterable[Opinion]) -> list[Judged]:
    """Items are texts under a prompt; a verdict is from 0 to 1."""
    items: defaultdict[Hashable, list[Opinion]] = defaultdict(list)
    for one in opinions:
        items[one.prompt_key, one.answer.key].append(one)
    return [[(one, one.value) for one in last_words(item)] for item in items.values()]


def outsiders(
    items: Iterable[Judged], *, bound: float, min_shared: int
) -> frozenset[tuple[str, str | None]]:
    """Raters who agree with the others on the same items less often than `bound`."""
    found: defaultdict[tuple[str, str | None], list[float]] = defaultdict(list)
    for item in items:
        if len(item) < 2:
            continue
        for one, verdict in item:
            others = sum(_same(verdict, other) for _, other in item) - 1
            if one.rater:
                found[one.tenant, one.rater].append(others / (len(item) - 1))
    return frozenset(
        rater
        for rater, shares in found.items()
        if len(shares) >= min_shared and sum(shares) / len(shares) < bound
    )


def _verdict(one: Comparison) -> float:
    """0: the text that comes first in the alphabet; 1: the other one; 0.5: a tie."""
    return 0.5 if one.tie else float(one.chosen.key > one.rejected.key)


def _same(a: float, b: float) -> bool:
    """Whether two verdicts are on one side of the middle."""
    return (a > 0.5) == (b > 0.5) and (a < 0.5) == (b < 0.5)
