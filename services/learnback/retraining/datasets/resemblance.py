"""Which of many texts are nearly the same. Pure.

Two texts resemble each other by the share of their runs of three words that both have (Broder 1997,
"On the resemblance and containment of documents"). A document has parts, and resembles another one
by the parts that do so least: under one long system prompt two short questions differ.

Nothing is missed by chance, as MinHash would: documents that resemble each other by more than a
bound share one of their rarest runs (prefix filtering: Bayardo, Ma and Srikant 2007, "Scaling up
all pairs similarity search").
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from functools import lru_cache
from heapq import nsmallest
from itertools import repeat
from typing import NamedTuple

Document = tuple[str, ...]
Run = tuple[int, ...]
"""Rank of its rarest word, part of the document, and the ranks of its words."""

WORDS = 3
"""In a run. Of documents of the web ten are usual; answers are shorter."""
FEW = 6
"""So many documents are compared each with each."""
CROWDED = 32
"""Documents that are looked at for having one rare run in common: only where more than that hardly
differ can one be missed, and all others would be compared with all."""


def alike(one: Document, other: Document, above: float) -> bool:
    """Whether every part resembles its counterpart by more than `above`."""
    return len(one) == len(other) and all(
        a == b or _resemblance(a, b) > above for a, b in zip(one, other, strict=True)
    )


def repeats(documents: Sequence[Document], above: float) -> set[int]:
    """The places of those that are like an earlier one that is none of them itself."""
    if len(documents) > FEW:
        return _repeats_of_many(documents, above)
    kept: list[Document] = []
    found: set[int] = set()
    for place, document in enumerate(documents):
        if any(alike(document, other, above) for other in kept):
            found.add(place)
        else:
            kept.append(document)
    return found


def _repeats_of_many(documents: Sequence[Document], above: float) -> set[int]:
    index = Index(documents, above)
    kept: list[Document] = []
    found: set[int] = set()
    for place, document in enumerate(documents):
        looked = index.look(document)
        if any(alike(document, kept[other], above) for other in index.candidates(looked)):
            found.add(place)
        else:
            kept.append(document)
            index.add(looked)
    return found


class Groups(NamedTuple):
    """Of documents, by their places."""

    of: list[int]
    """For each the number of its group: of those that are alike, one by one from first to last."""
    near_first: set[int]
    """Those that are like one of the first ones, and none of them."""


def grouped(documents: Sequence[Document], above: float, first: int = 0) -> Groups:
    """Which are alike, and which are like one of the `first` so many."""
    index = Index(documents, above)
    parents = list(range(len(documents)))
    near: set[int] = set()
    for place, document in enumerate(documents):
        looked = index.look(document)
        for other in index.candidates(looked):
            roots = _root(parents, other), _root(parents, place)
            asks = other < first <= place and place not in near
            if (asks or roots[0] != roots[1]) and alike(document, documents[other], above):
                parents[roots[1]] = roots[0]
                near |= {place} if asks else set()
        index.add(looked)
    return Groups([_root(parents, place) for place in range(len(documents))], near)


class Looked(NamedTuple):
    """What an index makes of a document."""

    prefix: list[Run]
    """Its rarest runs. Of two sets with more than a share in common, relative to both together, the
    first members, in whatever order that is the same for all, have one in common: so many."""
    size: int
    """Of the whole set."""


class Index:
    """Documents by their rarest runs of words, numbered as they are added; `everything` are those
    that will be looked at."""

    def __init__(self, everything: Iterable[Document], above: float) -> None:
        counts: Counter[str] = Counter()
        for document in everything:
            for part in document:
                counts.update(_cut(part))
        rarest = sorted(counts, key=lambda word: (counts[word], word))
        self._rank = {word: rank for rank, word in enumerate(rarest)}
        self._above = above
        self._places: defaultdict[Run, list[int]] = defaultdict(list)
        self._sizes: list[int] = []

    def look(self, document: Document) -> Looked:
        """To add it, or to ask for others."""
        runs = self._runs(document)
        most = len(runs) - math.ceil(self._above * len(runs)) + 1
        return Looked(nsmallest(most, runs), len(runs))

    def add(self, looked: Looked) -> None:
        """It has the next number."""
        for run in looked.prefix:
            if len(self._places[run]) < CROWDED:
                self._places[run].append(len(self._sizes))
        self._sizes.append(looked.size)

    def candidates(self, looked: Looked) -> list[int]:
        """Numbers of all that may be like it, in order."""
        found = {place for run in looked.prefix for place in self._places.get(run, ())}
        low, high = self._above * looked.size, looked.size / self._above
        return sorted(place for place in found if low <= self._sizes[place] <= high)

    def _runs(self, document: Document) -> set[Run]:
        """Of all parts; each begins with the rank of its rarest word."""
        found: set[Run] = set()
        for number, part in enumerate(document):
            ranks = [self._rank[word] for word in _cut(part)]
            if len(ranks) < WORDS:
                found.add((min(ranks, default=0), number, *ranks))
            else:
                following = ranks, ranks[1:], ranks[2:]
                found.update(zip(map(min, *following), repeat(number), *following, strict=False))
        return found


def _resemblance(one: str, other: str) -> float:
    """The share of runs that both have: 1 is the same, but for case and white space."""
    first, second = _runs_of(one), _runs_of(other)
    both = len(first & second)
    return both / (len(first) + len(second) - both)


@lru_cache(maxsize=4096)
def _runs_of(text: str) -> frozenset[tuple[str, ...]]:
    words = _cut(text)
    if len(words) < WORDS:
        return frozenset((tuple(words),))
    return frozenset(zip(words, words[1:], words[2:], strict=False))


def _cut(text: str) -> list[str]:
    return text.casefold().split()


def _root(parents: list[int], place: int) -> int:
    while parents[place] != place:
        parents[place] = parents[parents[place]]
        place = parents[place]
    return place
