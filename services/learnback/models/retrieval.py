"""Picks the examples for a prompt: likeness in words, and rating. Pure, and fast enough for the hot
path.

Likeness is the cosine of two sets of words, weighted by how rare each word is (TF-IDF with binary
term counts; Salton and Buckley 1988): 1 for a prompt of the same words, 0 for one that shares none.
The weights of each word's entries are computed beforehand, so that a prompt costs one look-up a
word and one `bincount`.

Entries lie on shelves, one for each tenant and system text, and one for what is shared. A shelf
knows nothing of the others: what one tenant has can't change what another is shown.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from learnback.models.example_bank import Entry
from learnback.models.text_features import words_of

QUERY_CHARACTERS = 4_000
"""Of a longer prompt the beginning and the end are looked at: what is asked stands there."""
_UNSPACED = re.compile("[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af]")
"""Scripts that do not separate words, or glue endings to them: taken apart into pairs."""

Array = NDArray[np.float64]
Posting = tuple[NDArray[np.intp], Array, float]
"""The numbers of the entries that hold a word, what it adds to each one's cosine, and the square of
its weight."""


def terms_of(text: str) -> list[str]:
    """The distinct words of a text in order; pairs of characters where words have no spaces."""
    if len(text) > QUERY_CHARACTERS:
        half = QUERY_CHARACTERS // 2
        text = f"{text[:half]} {text[-half:]}"
    words = words_of(text)
    if not text.isascii() and _UNSPACED.search(text):
        words = [part for word in words for part in _parts(word)]
    return list(dict.fromkeys(words))


def _parts(word: str) -> list[str]:
    if len(word) < 2 or not _UNSPACED.search(word):
        return [word]
    return [word[at : at + 2] for at in range(len(word) - 1)]


class Shelf:
    """Entries that may be shown together, with the index of their words."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        self.entries = tuple(entries)
        terms = [terms_of(entry.user) for entry in self.entries]
        holders: defaultdict[str, list[int]] = defaultdict(list)
        for number, found in enumerate(terms):
            for term in found:
                holders[term].append(number)
        count = len(self.entries)
        self._unknown = math.log(1 + count) ** 2
        squares = {term: math.log((1 + count) / len(held)) ** 2 for term, held in holders.items()}
        norms = [math.sqrt(sum(squares[term] for term in found)) for found in terms]
        self._postings: dict[str, Posting] = {
            term: (
                np.array(held, dtype=np.intp),
                np.array([squares[term] / norms[number] for number in held]),
                squares[term],
            )
            for term, held in holders.items()
        }
        self._quality = np.array([entry.quality for entry in self.entries], dtype=np.float64)

    def likeness(self, terms: Sequence[str]) -> Array:
        """The cosine with each entry's prompt: (entries,)."""
        postings = self._postings
        found = [posting for term in terms if (posting := postings.get(term)) is not None]
        if not found:
            return np.zeros(len(self.entries))
        numbers, weights, squares = zip(*found, strict=True)
        square = sum(squares) + self._unknown * (len(terms) - len(found))
        sums = np.bincount(np.concatenate(numbers), np.concatenate(weights), len(self.entries))
        return sums / math.sqrt(square)

    def best(
        self, terms: Sequence[str], limit: int, reward_weight: float
    ) -> list[tuple[float, Entry]]:
        """Up to `limit` entries with their scores, best first; of equals the one with the lower
        id."""
        scores = self.likeness(terms) * (1 - reward_weight) + self._quality * reward_weight
        picked = []
        for _ in range(min(limit, len(self.entries))):
            number = int(scores.argmax())
            picked.append((float(scores[number]), self.entries[number]))
            scores[number] = -1.0
        return picked


class Index:
    """All shelves of a bank. With `prefer_reasoning`, a shelf on which some entries have reasoning
    holds only those."""

    def __init__(self, entries: Sequence[Entry], *, prefer_reasoning: bool = False) -> None:
        lying: defaultdict[tuple[str | None, str], list[Entry]] = defaultdict(list)
        for entry in sorted(entries, key=lambda entry: entry.id):
            lying[None if entry.shared else entry.tenant, entry.system_key].append(entry)
        self._shelves = {
            key: Shelf([e for e in held if e.reasoning] or held if prefer_reasoning else held)
            for key, held in lying.items()
        }
        self.size = sum(len(shelf.entries) for shelf in self._shelves.values())

    def pick(
        self, tenant: str, system_key: str, prompt: str, limit: int, reward_weight: float
    ) -> list[Entry]:
        """Up to `limit` entries for a tenant's prompt under a system text, best first."""
        found = [
            shelf
            for owner in (tenant, None)
            if (shelf := self._shelves.get((owner, system_key))) is not None
        ]
        if not found:
            return []
        terms = terms_of(prompt)
        ranked = [scored for shelf in found for scored in shelf.best(terms, limit, reward_weight)]
        if len(found) > 1:
            ranked.sort(key=lambda scored: (-scored[0], scored[1].id))
        return [entry for _, entry in ranked[:limit]]
