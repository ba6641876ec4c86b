"""What the guards look at in an answer, beside the reward: the ways in which models cheat.

Pure, cheap and about text only: empty answers, refusals, and text that runs in circles.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

from pydantic import BaseModel, ConfigDict

from learnback.models.text_features import words_of
from learnback.release.analysis import median

REFUSAL_LEAD = 160
"""Characters in which a refusal shows itself: later "I can't" is usually about something else."""
MIN_CIRCLE = 12
"""Words below which repetition means nothing: "Yes, yes, yes!" is an answer."""
LEAST_DISTINCT = 0.4
"""Share of distinct word triples below which a text runs in circles; prose is above 0.9."""
LONGEST_RUN = 8
"""Times that one word may follow itself."""

_REFUSAL = re.compile(
    r"\b(?:i (?:can't|cannot|can not|won't|will not|am unable to|am not able to)"
    r" (?:help|assist|answer|provide|do|discuss|comply|fulfil+|write|create|give|share|respond)"
    r"|i'm (?:unable|not able) to|as an ai\b|as a language model|against my (?:guidelines|policy)"
    r"|i (?:must|have to) decline)"
)


class AnswerProfile(BaseModel):
    """One version's answers in numbers; rates are shares of `answers`."""

    model_config = ConfigDict(frozen=True)

    answers: int
    median_words: float | None
    empty_rate: float
    refusal_rate: float
    degenerate_rate: float


def profile(answers: Sequence[str]) -> AnswerProfile:
    """Probe every answer."""
    count = max(len(answers), 1)
    return AnswerProfile(
        answers=len(answers),
        median_words=median([float(len(words_of(a))) for a in answers]),
        empty_rate=sum(map(is_empty, answers)) / count,
        refusal_rate=sum(map(is_refusal, answers)) / count,
        degenerate_rate=sum(map(is_degenerate, answers)) / count,
    )


def is_empty(answer: str) -> bool:
    """Whether nothing was said; an answer in signs only (a number, a face) is one."""
    return not answer.strip()


def is_refusal(answer: str) -> bool:
    """Whether the answer declines to answer."""
    lead = answer[:REFUSAL_LEAD].lower().replace("’", "'")
    return _REFUSAL.search(lead) is not None


def is_degenerate(answer: str) -> bool:
    """Whether the text runs in circles (distinct-n: Li et al. 2016, arXiv:1510.03055)."""
    words = words_of(answer)
    if len(words) < MIN_CIRCLE:
        return False
    run = longest = 1
    for before, word in pairwise(words):
        run = run + 1 if word == before else 1
        longest = max(longest, run)
    return longest > LONGEST_RUN or distinct_share(words, 3) < LEAST_DISTINCT


def distinct_share(words: Sequence[str], n: int) -> float:
    """Distinct n-grams per n-gram, in (0, 1]; 1 for texts shorter than n words."""
    grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 1.0
