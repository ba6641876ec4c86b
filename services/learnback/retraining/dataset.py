"""Datasets of preference pairs: filtered with counted reasons, split, fingerprinted. Pure up to
`save` and `load`.

Split by prompt and by rater, never by row: a row is trained on only if neither its prompt nor its
rater is held out, so that the held-out rows ask about prompts (and partly people) never seen.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from learnback.contracts.models import FeedbackStatus
from learnback.core.clock import now
from learnback.core.settings import HELD_OUT_SHARE
from learnback.ledger.prompts import prompt_held_out, rater_held_out
from learnback.ledger.training import Outcome, Signal
from learnback.retraining.comparisons import CantCompare, Comparison, compare
from learnback.retraining.plan import TRAIN_FILE, write_atomically

HELD_OUT_FILE, MANIFEST_FILE = "held_out.parquet", "manifest.json"
MIN_RATERS = 10
"""With fewer raters none is held out: a single one might be it, and nothing would ever train."""
CONTRADICTED = Outcome(FeedbackStatus.QUARANTINED, "contradicted")
TRAINED, HELD_OUT = Outcome(FeedbackStatus.TRAINED), Outcome(FeedbackStatus.HELD_OUT)

Side = Literal["train", "prompt", "rater"]
"""`train`, or what keeps a row out of training."""


@dataclass(frozen=True)
class Shares:
    """How much is held out, of all prompts and of all raters."""

    prompts: float = HELD_OUT_SHARE
    raters: float = 0.1


@dataclass(frozen=True)
class PreferenceRow:
    """A row: the signals that agree on it, as one pair."""

    feedback_ids: tuple[str, ...]
    prompt: tuple[dict[str, str], ...]
    prompt_key: str
    chosen: str
    rejected: str
    margin: float
    """How clear it is: mean strength times the raters' agreement, in (0, 1]."""
    votes: int
    """Raters for it less raters against it."""
    chosen_finished: bool
    rejected_finished: bool
    side: Side


@dataclass(frozen=True)
class Dataset:
    """The rows in a fixed order, and what becomes of every signal that was looked at."""

    train: tuple[PreferenceRow, ...]
    held_out: tuple[PreferenceRow, ...]
    outcomes: Mapping[str, Outcome]
    fingerprint: str
    base_digest: str
    shares: Shares

    @property
    def counts(self) -> dict[str, int]:
        """Signals by outcome and reason; they add up to the number looked at."""
        return dict(Counter(o.reason or o.status.value for o in self.outcomes.values()))


class Manifest(BaseModel):
    """What lies beside the rows: enough to repeat, audit and finish a run."""

    model_config = ConfigDict(extra="ignore")

    fingerprint: str
    base_digest: str
    created_at: datetime
    counts: dict[str, int]
    rows: dict[str, int]
    held_out_prompts: float
    held_out_raters: float
    feedback_ids: dict[str, list[str]]
    """By `train` and `held_out`."""
    outcomes: dict[str, tuple[FeedbackStatus, str | None]]

    def outcome_of(self) -> dict[str, Outcome]:
        """The outcomes as the ledger takes them."""
        return {i: Outcome(status, reason) for i, (status, reason) in self.outcomes.items()}


def build(signals: Sequence[Signal], base_digest: str, shares: Shares) -> Dataset:
    """Make a dataset of all `signals`; their order does not matter."""
    outcomes: dict[str, Outcome] = {}
    usable: list[Comparison] = []
    for signal in sorted(signals, key=lambda s: s.id):
        try:
            usable.append(compare(signal, base_digest))
        except CantCompare as error:
            outcomes[signal.id] = error.outcome
    split = _Split(shares, usable, _trained_raters(signals))
    groups: defaultdict[tuple[Any, ...], list[Comparison]] = defaultdict(list)
    for c in usable:
        side, texts = split.side(c), tuple(sorted((c.chosen.text, c.rejected.text)))
        groups[side, c.prompt_key, texts].append(c)
    rows: list[PreferenceRow] = []
    for (side, *_), comparisons in groups.items():
        agreed = _agreement(comparisons)
        if agreed is not None:
            rows.append(_row(agreed, comparisons, side))
        settled = TRAINED if side == "train" else HELD_OUT
        winners = {c.feedback_id for c in agreed or ()}
        outcomes |= {
            c.feedback_id: settled if c.feedback_id in winners else CONTRADICTED
            for c in comparisons
        }
    rows.sort(key=_canonical)
    return Dataset(
        train=tuple(r for r in rows if r.side == "train"),
        held_out=tuple(r for r in rows if r.side != "train"),
        outcomes=outcomes,
        fingerprint=fingerprint(rows),
        base_digest=base_digest,
        shares=shares,
    )


class _Split:
    """Decides the side of each row; a prompt or a rater is always on the same one."""

    def __init__(
        self, shares: Shares, usable: Sequence[Comparison], trained: set[tuple[str, str | None]]
    ) -> None:
        self.shares = shares
        self.trained = trained
        self.enough_raters = len({(c.tenant, c.rater) for c in usable}) >= MIN_RATERS

    def side(self, c: Comparison) -> Side:
        """Where a comparison goes. Whom we have learned from once is never held out later."""
        if prompt_held_out(c.prompt_key, self.shares.prompts):
            return "prompt"
        known = not self.enough_raters or (c.tenant, c.rater) in self.trained
        if not known and rater_held_out(c.tenant, c.rater, self.shares.raters):
            return "rater"
        return "train"


def _trained_raters(signals: Iterable[Signal]) -> set[tuple[str, str | None]]:
    return {(s.tenant, s.rater_id) for s in signals if s.status == FeedbackStatus.TRAINED}


def _agreement(comparisons: Sequence[Comparison]) -> list[Comparison] | None:
    """Those on the winning side of one pair of texts; None if as many raters say the opposite."""
    votes = Counter(c.chosen.text for c in _last_words(comparisons))
    ranked = votes.most_common(2)
    if len(ranked) == 2 and ranked[0][1] == ranked[1][1]:
        return None
    return [c for c in comparisons if c.chosen.text == ranked[0][0]]


def _last_words(comparisons: Iterable[Comparison]) -> list[Comparison]:
    """The latest word of each rater; a signal without rater stands for itself."""
    last: dict[tuple[str, str | None, str], Comparison] = {}
    for c in sorted(comparisons, key=lambda c: (c.received_at, c.feedback_id)):
        last[c.tenant, c.rater, "" if c.rater else c.feedback_id] = c
    return list(last.values())


def _row(
    agreed: Sequence[Comparison], comparisons: Sequence[Comparison], side: Side
) -> PreferenceRow:
    words = _last_words(comparisons)
    winners = [c for c in words if c.chosen.text == agreed[0].chosen.text]
    ahead = 2 * len(winners) - len(words)
    strength = sum(sorted(c.strength for c in winners)) / len(winners)
    first = min(agreed, key=lambda c: (json.dumps(c.prompt, sort_keys=True), c.feedback_id))
    return PreferenceRow(
        feedback_ids=tuple(sorted(c.feedback_id for c in agreed)),
        prompt=first.prompt,
        prompt_key=first.prompt_key,
        chosen=first.chosen.text,
        rejected=first.rejected.text,
        margin=round(strength * ahead / len(words), 6),
        votes=ahead,
        chosen_finished=all(c.chosen.finished for c in agreed),
        rejected_finished=all(c.rejected.finished for c in agreed),
        side=side,
    )


def fingerprint(rows: Iterable[PreferenceRow]) -> str:
    """SHA-256 over the rows' contents in a fixed order; ids are left out, so that the same words
    of other people on another machine have the same fingerprint."""
    lines = sorted(_canonical(row) for row in rows)
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogatepass")).hexdigest()


def _canonical(row: PreferenceRow) -> str:
    fields = [
        row.prompt_key,
        row.prompt,
        row.chosen,
        row.rejected,
        row.margin,
        row.votes,
        row.chosen_finished,
        row.rejected_finished,
        row.side,
    ]
    return json.dumps(fields, sort_keys=True, separators=(",", ":"))


def save(dataset: Dataset, folder: Path) -> Manifest:
    """Write both files and, last, the manifest: whoever finds it finds a whole dataset."""
    folder.mkdir(parents=True, exist_ok=True)
    _write(dataset.train, folder / TRAIN_FILE)
    _write(dataset.held_out, folder / HELD_OUT_FILE)
    manifest = Manifest(
        fingerprint=dataset.fingerprint,
        base_digest=dataset.base_digest,
        created_at=now(),
        counts=dataset.counts,
        rows={"train": len(dataset.train), "held_out": len(dataset.held_out)},
        held_out_prompts=dataset.shares.prompts,
        held_out_raters=dataset.shares.raters,
        feedback_ids={"train": _ids(dataset.train), "held_out": _ids(dataset.held_out)},
        outcomes={i: (o.status, o.reason) for i, o in dataset.outcomes.items()},
    )
    write_atomically(folder / MANIFEST_FILE, manifest.model_dump_json(indent=1))
    return manifest


def load_manifest(folder: Path) -> Manifest:
    """What `save` wrote. Raises OSError or pydantic's ValidationError."""
    return Manifest.model_validate_json((folder / MANIFEST_FILE).read_bytes())


def load_rows(path: Path) -> list[PreferenceRow]:
    """The rows of one of the two files."""
    import pyarrow.parquet

    return [
        PreferenceRow(
            feedback_ids=tuple(record["feedback_ids"]),
            prompt=tuple(json.loads(record["prompt"])),
            **{name: record[name] for name in _PLAIN_COLUMNS},
        )
        for record in pyarrow.parquet.read_table(path).to_pylist()
    ]


_PLAIN_COLUMNS = (
    "prompt_key",
    "chosen",
    "rejected",
    "margin",
    "votes",
    "chosen_finished",
    "rejected_finished",
    "side",
)


def _write(rows: Sequence[PreferenceRow], path: Path) -> None:
    """The trainer reads `feedback_id`, `prompt`, `chosen`, `rejected`, `margin`, `*_finished`."""
    import pyarrow
    import pyarrow.parquet

    text, number, flag = pyarrow.string(), pyarrow.float64(), pyarrow.bool_()
    schema = pyarrow.schema(
        [
            ("feedback_id", text),
            ("feedback_ids", pyarrow.list_(text)),
            ("prompt", text),
            ("prompt_key", text),
            ("chosen", text),
            ("rejected", text),
            ("margin", number),
            ("votes", pyarrow.int64()),
            ("chosen_finished", flag),
            ("rejected_finished", flag),
            ("side", text),
        ]
    )
    records = [
        {
            "feedback_id": row.feedback_ids[0],
            "feedback_ids": list(row.feedback_ids),
            "prompt": json.dumps(row.prompt, ensure_ascii=False),
            **{name: getattr(row, name) for name in _PLAIN_COLUMNS},
        }
        for row in rows
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records, schema=schema), path)


def _ids(rows: Iterable[PreferenceRow]) -> list[str]:
    return sorted(i for row in rows for i in row.feedback_ids)
