"""A dataset's folder: `train.parquet`, `held_out.parquet`, `pairs/` for the reward model, and last
`manifest.json`: whoever finds it finds a whole dataset.

A policy that answers by itself has `judge.parquet` beside: pairs of held-out prompts, which no
reward model has seen, by which its checkpoint is picked.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from learnback.contracts.models import FeedbackStatus
from learnback.core.clock import now
from learnback.ledger.training import Outcome
from learnback.retraining.datasets import rows
from learnback.retraining.datasets.agreement import Agreement
from learnback.retraining.datasets.dataset import ROWS, Dataset
from learnback.retraining.datasets.rows import PreferenceRow, Row
from learnback.retraining.plan import HELD_OUT_FILE, TRAIN_FILE, write_atomically

MANIFEST_FILE, JUDGE_FILE, PAIRS_DIRECTORY = "manifest.json", "judge.parquet", "pairs"


class Manifest(BaseModel):
    """What lies beside the rows: enough to repeat, audit and finish a run."""

    model_config = ConfigDict(extra="ignore")

    method: str = "dpo"
    """Datasets of releases before there were others name none."""
    fingerprint: str
    base_digest: str
    created_at: datetime
    counts: dict[str, int]
    rows: dict[str, int]
    held_out_prompts: float
    held_out_raters: float
    filters: dict[str, Any] = {}
    agreement: dict[str, Agreement] = {}
    prompts_left_out: dict[str, int] = {}
    """Prompts that a policy is not asked, by reason."""
    feedback_ids: dict[str, list[str]]
    """By `train` and `held_out`."""
    outcomes: dict[str, tuple[FeedbackStatus, str | None]]
    """Of the signals that do not wait any longer."""

    def outcome_of(self) -> dict[str, Outcome]:
        """The outcomes as the ledger takes them."""
        return {i: Outcome(status, reason) for i, (status, reason) in self.outcomes.items()}


def save(dataset: Dataset, folder: Path) -> Manifest:
    """Write all files, the manifest last."""
    kind = ROWS[dataset.method]
    _write(dataset.train, dataset.held_out, kind, folder)
    pairs = dataset.pairs
    _write(
        [row for row in pairs if row.side == "train"],
        [row for row in pairs if row.side != "train"],
        PreferenceRow,
        folder / PAIRS_DIRECTORY,
    )
    if dataset.method == "rloo":
        rows.write(dataset.judging, PreferenceRow, folder / JUDGE_FILE)
    manifest = Manifest(
        method=dataset.method,
        fingerprint=dataset.fingerprint,
        base_digest=dataset.examined.base_digest,
        created_at=now(),
        counts=dataset.counts,
        rows={"train": len(dataset.train), "held_out": len(dataset.held_out)},
        held_out_prompts=dataset.examined.shares.prompts,
        held_out_raters=dataset.examined.shares.raters,
        filters=dataset.examined.filters.model_dump(mode="json"),
        agreement=dict(dataset.examined.agreement),
        prompts_left_out=dict(dataset.prompts_left_out),
        feedback_ids={"train": _ids(dataset.train), "held_out": _ids(dataset.held_out)},
        outcomes={i: (o.status, o.reason) for i, o in dataset.settled.items()},
    )
    write_atomically(folder / MANIFEST_FILE, manifest.model_dump_json(indent=1))
    return manifest


def load_manifest(folder: Path) -> Manifest:
    """What `save` wrote. Raises OSError or pydantic's ValidationError."""
    return Manifest.model_validate_json((folder / MANIFEST_FILE).read_bytes())


def load_pairs(folder: Path) -> tuple[list[PreferenceRow], list[PreferenceRow]]:
    """What the reward model is fitted to, and what it is judged by."""
    if (folder / PAIRS_DIRECTORY).is_dir():  # else of a release when there was nothing but pairs
        folder = folder / PAIRS_DIRECTORY
    train, held_out = folder / TRAIN_FILE, folder / HELD_OUT_FILE
    return rows.read(train, PreferenceRow), rows.read(held_out, PreferenceRow)


def _write(train: Iterable[Row], held_out: Iterable[Row], kind: type[Row], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    rows.write(list(train), kind, folder / TRAIN_FILE)
    rows.write(list(held_out), kind, folder / HELD_OUT_FILE)


def _ids(found: Iterable[Row]) -> list[str]:
    return sorted({i for row in found for i in row.feedback_ids})
