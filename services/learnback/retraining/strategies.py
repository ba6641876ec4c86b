"""Prompt strategies from feedback: the best-rated answers as an example bank. Pure.

Corrections come first: somebody wrote them to be imitated. Then answers that more people liked than
not, by their share of votes (with one vote for and one against added, so that a single thumb is no
proof) and, with a tenth of the weight, by what the reward model makes of them.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from learnback import __version__
from learnback.contracts.models import Preferred, VersionKind
from learnback.core.clock import now
from learnback.core.ids import digest_text
from learnback.ledger.training import Outcome, Signal
from learnback.models import example_bank
from learnback.models.example_bank import Bank, Entry, bank_of, entry_id, system_key
from learnback.models.retrieval import Shelf, terms_of
from learnback.models.strategy import Strategy
from learnback.registry.store import ModelVersion, version_name
from learnback.retraining.datasets.examining import Examined
from learnback.retraining.datasets.reading import Comparison, Said, Text
from learnback.retraining.datasets.votes import HELD_OUT, TRAINED, independent, last_words

Scores = Mapping[tuple[str, int], float]
"""Learned rewards by completion and choice."""

REWARD_SHARE = 0.1
"""Of an entry's quality: from worst to best it weighs less than a second voter."""
SYSTEM_ROLES = frozenset(("system", "developer"))


@dataclass(frozen=True)
class Bounds:
    """What an example must be, and how many there may be."""

    min_votes: int = 1
    """Independent people who judged an answer; a correction stands for itself."""
    min_agreement: float = 0.0
    """Share of those who judged an answer that must like it."""
    longest: int = 3_000
    """Bytes of prompt and answer: longer ones would hardly ever fit beside a prompt."""
    most: int = 1_000
    """Entries of one tenant under one system text: with a thousand the best one is still picked
    in 0.2 ms."""
    alike: float = 0.9
    """Likeness of two prompts from which on only the better rated one is kept."""
    shared: frozenset[str] = frozenset()
    """Tenants whose examples may be shown to all others."""


@dataclass(frozen=True)
class Built:
    """A bank, and what became of the signals that decided it."""

    bank: Bank
    outcomes: Mapping[str, Outcome]
    """Of signals that speak for an entry, and of those that are held out; no other is settled."""
    left_out: Mapping[str, int]
    """Well-rated answers that are in no entry, by reason."""

    @property
    def fingerprint(self) -> str:
        """The same for the same words, whoever said them."""
        return example_bank.fingerprint(self.bank)

    @property
    def feedback_ids(self) -> dict[str, tuple[str, ...]]:
        """The signals that speak for each entry."""
        return {entry.id: entry.feedback_ids for entry in self.bank.entries}


class Source(NamedTuple):
    """Where a text was recorded; without `choice` a person wrote it."""

    completion_id: str
    choice: int | None
    reasoning: str


class _Vote(NamedTuple):
    """What one person makes of one answer, from 0 to 1."""

    said: Said
    text: Text
    value: float


@dataclass(frozen=True)
class _Liked:
    """An answer that more people liked than not."""

    votes: Sequence[_Vote]
    """Those for it."""
    correction: bool
    share: float
    source: Source | None

    @property
    def first(self) -> _Vote:
        return self.votes[0]


def build(
    examined: Examined, signals: Sequence[Signal], scores: Scores, bounds: Bounds | None = None
) -> Built:
    """The bank of all that was `examined`, from the training side only; without `bounds` by the
    filters that hold for all methods."""
    chosen = bounds or Bounds(
        min_votes=examined.filters.min_votes, min_agreement=examined.filters.min_item_agreement
    )
    left_out: defaultdict[str, int] = defaultdict(int)
    sources = _sources(signals)
    ranks = _ranks(scores)
    best: dict[tuple[str, str], Entry] = {}
    for liked in _liked(examined, sources, chosen):
        entry = _entry(liked, ranks, chosen)
        if isinstance(entry, str):
            left_out[entry] += 1
            continue
        key = (entry.tenant, entry.prompt_key)
        if key in best:
            left_out["another_is_better"] += 1
        best[key] = max(entry, best.get(key, entry), key=lambda e: (e.quality, e.id))
    kept = _spread(best.values(), chosen, left_out)
    outcomes = {i: HELD_OUT for i, side in examined.sides.items() if side != "train"}
    outcomes |= {i: TRAINED for entry in kept for i in entry.feedback_ids}
    return Built(bank_of(kept), outcomes, dict(left_out))


def version_of(
    strategy: Strategy,
    base: ModelVersion,
    *,
    parent: str,
    built: Built | None = None,
    **lineage: Any,
) -> ModelVersion:
    """The version with this strategy on `parent` (an adapter, or the base); its bank's files are to
    be stored under the version's name, and have the digest `strategy.bank`.

    The name is a digest of all that shapes a prompt, so other prompts have another name.
    """
    config = strategy.model_dump(mode="json", exclude_defaults=True)
    method = strategy.strategy.replace("_", "-")
    name = version_name(
        base.base, method, digest_text(json.dumps([parent, config], sort_keys=True))
    )
    at = now()
    return ModelVersion(
        name=name,
        kind=VersionKind.PROMPT,
        base=base.base,
        base_digest=base.base_digest,
        parent=parent,
        artifact=name if strategy.bank else None,
        artifact_digest=strategy.bank or None,
        dataset_fingerprint=built.fingerprint if built else None,
        config=config,
        code_version=__version__,
        metrics=_counts(built) if built else {},
        created_at=at,
        changed_at=at,
        **lineage,
    )


def _counts(built: Built) -> dict[str, Any]:
    entries = built.bank.entries
    return {
        "examples": len(entries),
        "tenants": len({entry.tenant for entry in entries}),
        "with_reasoning": sum(bool(entry.reasoning) for entry in entries),
        "left_out": dict(built.left_out),
    }


def _sources(signals: Iterable[Signal]) -> dict[str, dict[str, Source]]:
    """Where the texts of each signal were recorded."""
    found: dict[str, dict[str, Source]] = {}
    for signal in signals:
        texts = found.setdefault(signal.id, {})
        for answered in (signal.completion, signal.other):
            for choice in answered.choices if answered else ():
                recorded = Source(
                    answered.id if answered else "",
                    int(choice.get("index") or 0),
                    str(choice.get("reasoning") or ""),
                )
                texts.setdefault(str(choice.get("text") or ""), recorded)
        if signal.completion is not None:  # a text that a person wrote stands beside an answer
            texts.setdefault("", Source(signal.completion.id, None, ""))
    return found


def _votes(examined: Examined) -> Iterator[_Vote]:
    """Every judgement of every answer on the training side."""
    for one in examined.comparisons:
        if examined.sides[one.feedback_id] == "train":
            good = 0.0 if one.tie == Preferred.TIE_BAD else 1.0
            yield _Vote(one, one.chosen, good)
            yield _Vote(one, one.rejected, good if one.tie else 0.0)
    for opinion in examined.opinions:
        if examined.sides[opinion.feedback_id] == "train":
            yield _Vote(opinion, opinion.answer, opinion.value)


def _liked(
    examined: Examined, sources: Mapping[str, Mapping[str, Source]], bounds: Bounds
) -> Iterator[_Liked]:
    """Answers that enough people judged, and most of them well; never across tenants."""
    judged: defaultdict[tuple[str, str, str], list[_Vote]] = defaultdict(list)
    for vote in _votes(examined):
        judged[vote.said.tenant, vote.said.prompt_key, vote.text.key].append(vote)
    for key in sorted(judged):
        votes = judged[key]
        values = {vote.said.feedback_id: vote for vote in votes}
        last = [values[said.feedback_id] for said in last_words([v.said for v in votes])]
        positive = sorted((v for v in last if v.value > 0.5), key=_newest)
        correction = any(_written(vote) for vote in positive)
        enough = correction or independent([v.said for v in last]) >= bounds.min_votes
        total = sum(sorted(vote.value for vote in last))
        agreed = len(positive) / len(last) >= bounds.min_agreement
        if not positive or not (enough and agreed) or total * 2 <= len(last):
            continue
        share = (total + 1) / (len(last) + 2)
        yield _Liked(positive, correction, share, _source(positive, sources))


def _newest(vote: _Vote) -> tuple[bool, float, str]:
    """Corrections before other votes, later ones before earlier ones."""
    return (not _written(vote), -vote.said.received_at.timestamp(), vote.said.feedback_id)


def _written(vote: _Vote) -> bool:
    said = vote.said
    return isinstance(said, Comparison) and said.correction and vote.text == said.chosen


def _source(votes: Iterable[_Vote], sources: Mapping[str, Mapping[str, Source]]) -> Source | None:
    """Where the answer was recorded; else the completion beside which a person wrote it."""
    known = [sources.get(vote.said.feedback_id, {}) for vote in votes]
    texts = [vote.text.text for vote in votes]
    exact = [
        texts_of[text] for texts_of, text in zip(known, texts, strict=True) if text in texts_of
    ]
    beside = [texts_of[""] for texts_of in known if "" in texts_of]
    return next(iter((*exact, *beside)), None)


def _ranks(scores: Scores) -> dict[tuple[str, int], float]:
    """Each score's place among all, from 0 to 1: reward models differ in scale."""
    ordered = sorted(set(scores.values()))
    last = max(len(ordered) - 1, 1)
    place = {score: number / last for number, score in enumerate(ordered)}
    return {key: place[score] for key, score in scores.items()}


def _entry(liked: _Liked, ranks: Mapping[tuple[str, int], float], bounds: Bounds) -> Entry | str:
    """An entry, or why it can't be an example."""
    vote, source = liked.first, liked.source
    turns = [m for m in vote.said.prompt if m["role"] not in SYSTEM_ROLES]
    if len(turns) != 1 or turns[0]["role"] != "user" or vote.said.prompt[-1] != turns[0]:
        return "not_one_question"
    if not vote.text.finished:
        return "cut_off"
    user, answer = turns[0]["content"], vote.text.text
    reasoning = source.reasoning if source else ""
    if len(user.encode()) + len(answer.encode()) > bounds.longest:
        return "too_long"
    system = "\n\n".join(
        m["content"] for m in vote.said.prompt if m["role"] in SYSTEM_ROLES and m["content"]
    )
    rank = 0.5 if source is None else ranks.get((source.completion_id, source.choice or 0), 0.5)
    people = 1.0 if liked.correction else liked.share * (1 - REWARD_SHARE) + rank * REWARD_SHARE
    key = system_key(system)
    return Entry(
        id=entry_id(vote.said.tenant, key, user, answer),
        tenant=vote.said.tenant,
        system_key=key,
        prompt_key=vote.said.prompt_key,
        user=user,
        answer=answer,
        reasoning=reasoning if len(reasoning.encode()) <= bounds.longest else "",
        quality=round(people, 6),
        completion_id=source.completion_id if source else None,
        feedback_ids=tuple(sorted(v.said.feedback_id for v in liked.votes)),
        shared=vote.said.tenant in bounds.shared,
    )


def _spread(
    entries: Iterable[Entry], bounds: Bounds, left_out: defaultdict[str, int]
) -> list[Entry]:
    """The best of each shelf, without prompts that say nearly the same."""
    shelves: defaultdict[tuple[str, str], list[Entry]] = defaultdict(list)
    for entry in entries:
        shelves[entry.tenant, entry.system_key].append(entry)
    kept: list[Entry] = []
    for held in shelves.values():
        held.sort(key=lambda entry: (-entry.quality, entry.id))
        shelf = Shelf(held)
        covered: set[int] = set()
        taken = 0
        for number, entry in enumerate(held):
            if number in covered:
                left_out["like_a_better_one"] += 1
            elif taken == bounds.most:
                left_out["bank_is_full"] += 1
            else:
                taken += 1
                kept.append(entry)
                likeness = shelf.likeness(terms_of(entry.user))
                covered.update((likeness >= bounds.alike).nonzero()[0].tolist())
    return kept
