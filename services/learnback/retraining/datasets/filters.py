"""What is good enough to learn from, before anything is shaped; what is not keeps its reason. Pure.

Bounds on one signal (length, language) end it. What depends on the others (a rater who agrees with
nobody, one who says too much) is decided anew for each dataset.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace

from learnback.contracts.models import FeedbackStatus
from learnback.ledger.training import Outcome
from learnback.models import language
from learnback.retraining.datasets import agreement
from learnback.retraining.datasets.duplicates import DUPLICATE, said_again
from learnback.retraining.datasets.reading import CantUse, Comparison, Opinion, Said, Unusable
from learnback.retraining.datasets.split import MIN_RATERS
from learnback.retraining.settings import FilterSettings

OUTSIDER = Outcome(FeedbackStatus.QUARANTINED, "rater_disagrees_with_others")
TOO_MANY = Outcome(FeedbackStatus.ACCEPTED, "rater_cap")


def check(said: Said, filters: FilterSettings) -> None:
    """The bounds on a single signal. Raises CantUse."""
    if sum(len(message["content"]) for message in said.prompt) > filters.max_prompt_characters:
        raise CantUse(Unusable.PROMPT_TOO_LONG)
    for text in said.texts:
        if len(text.text) > filters.max_answer_characters:
            raise CantUse(Unusable.ANSWER_TOO_LONG)
        if len(text.text.strip()) < filters.min_answer_characters:
            raise CantUse(Unusable.ANSWER_TOO_SHORT)
    if filters.languages:
        _check_language(said, frozenset(filters.languages))


def _check_language(said: Said, wanted: frozenset[str]) -> None:
    """The prompt's last words may be in any language: a translation is asked for in another."""
    if not all(language.is_one_of(text.text, wanted) for text in said.texts):
        raise CantUse(Unusable.OTHER_LANGUAGE)


def set_aside(
    comparisons: Sequence[Comparison], opinions: Sequence[Opinion], filters: FilterSettings
) -> dict[str, Outcome]:
    """What is not learned from because of what the others said, by feedback id."""
    said: list[Comparison | Opinion] = [*comparisons, *opinions]
    found = dict.fromkeys(said_again(said), DUPLICATE)
    items = [*agreement.of_comparisons(comparisons), *agreement.of_opinions(opinions)]
    outsiders = agreement.outsiders(
        items, bound=filters.min_rater_agreement, min_shared=filters.min_rater_overlap
    )
    found |= {s.feedback_id: OUTSIDER for s in said if (s.tenant, s.rater) in outsiders}
    rest = [s for s in said if s.feedback_id not in found]
    return found | dict.fromkeys(_over_cap(rest, filters.max_rater_share), TOO_MANY)


def _over_cap(said: Sequence[Said], share: float) -> list[str]:
    """What raters said beyond the largest share that one of them may have; what was learned from
    before is kept first, then what came first."""
    by_rater: defaultdict[tuple[str, str], list[Said]] = defaultdict(list)
    for one in said:
        if one.rater:
            by_rater[one.tenant, one.rater].append(one)
    if len(by_rater) < MIN_RATERS:
        return []
    anonymous = sum(not one.rater for one in said)
    cap = most_each([len(words) for words in by_rater.values()], share, anonymous)
    over: list[str] = []
    for words in by_rater.values():
        ranked = sorted(words, key=lambda s: (not s.trained, s.received_at, s.feedback_id))
        over += [one.feedback_id for one in ranked[cap:]]
    return over


def most_each(counts: Sequence[int], share: float, others: int = 0) -> int:
    """The largest number that nobody may exceed so that, once all are cut to it, it is no more
    than `share` of what is left together with `others`. At least 1."""
    low, high = 1, max(counts)
    while low < high:
        middle = (low + high + 1) // 2
        if middle <= share * (others + sum(min(count, middle) for count in counts)):
            low = middle
        else:
            high = middle - 1
    return low


def centred(opinions: Iterable[Opinion], center_from: int) -> list[Opinion]:
    """Ratings against their rater's own mean, where that is known well enough: some people never
    give a five. Thumbs stay what they are."""
    listed = list(opinions)
    values: defaultdict[tuple[str, str | None], list[float]] = defaultdict(list)
    for one in listed:
        if one.rating and one.rater:
            values[one.tenant, one.rater].append(one.value)
    means = {r: math.fsum(v) / len(v) for r, v in values.items() if len(v) >= center_from}

    def moved(one: Opinion) -> Opinion:
        mean = means.get((one.tenant, one.rater)) if one.rating else None
        if mean is None:
            return one
        return replace(one, value=round(min(1.0, max(0.0, one.value - mean + 0.5)), 6))

    return [moved(one) for one in listed]
