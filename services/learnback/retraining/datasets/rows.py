"""The rows of a dataset by shape, as they are made here and lie in Parquet files.

What the trainers read of them stands in `trainers/rows.py`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import ClassVar, TypeVar

from learnback.retraining.datasets.split import Side


@dataclass(frozen=True, kw_only=True)
class Row:
    """What all shapes share."""

    feedback_ids: tuple[str, ...]
    """The signals that speak for it; empty for a prompt that nobody judged."""
    prompt: tuple[dict[str, str], ...]
    prompt_key: str
    side: Side

    columns: ClassVar[tuple[str, ...]] = ()
    """Of the shape, beside those of every row."""

    @property
    def canonical(self) -> str:
        """Its contents in a fixed order, for fingerprints; ids are left out, so that the same
        words of other people on another machine have the same one."""
        own = [getattr(self, name) for name in self.columns]
        return json.dumps(
            [self.prompt_key, self.prompt, *own, self.side], sort_keys=True, separators=(",", ":")
        )


@dataclass(frozen=True, kw_only=True)
class PreferenceRow(Row):
    """One answer is better than another one."""

    chosen: str
    rejected: str
    margin: float
    """How clear it is: mean strength times the raters' agreement, in (0, 1]; 0 for a tie."""
    votes: int
    """Raters for it less raters against it."""
    chosen_finished: bool
    rejected_finished: bool
    tie: bool = False
    """Neither is better; the two stand in a fixed order that says nothing."""

    columns: ClassVar[tuple[str, ...]] = (
        "chosen",
        "rejected",
        "margin",
        "votes",
        "chosen_finished",
        "rejected_finished",
        "tie",
    )


@dataclass(frozen=True, kw_only=True)
class DemonstrationRow(Row):
    """An answer to imitate."""

    completion: str
    finished: bool
    weight: float
    """1 for a correction; for an answer that raters liked, their mean from 0 to 1."""

    columns: ClassVar[tuple[str, ...]] = ("completion", "finished", "weight")


@dataclass(frozen=True, kw_only=True)
class LabelRow(Row):
    """An answer that people liked, or did not."""

    completion: str
    label: bool
    finished: bool
    weight: float
    """How clear it is, in (0, 1]."""

    columns: ClassVar[tuple[str, ...]] = ("completion", "label", "finished", "weight")


@dataclass(frozen=True, kw_only=True)
class PromptRow(Row):
    """A prompt that people sent."""


R = TypeVar("R", bound=Row)


def write(rows: Sequence[Row], kind: type[Row], path: Path) -> None:
    """Write rows of one kind; the trainers know a row by `feedback_id`, its first signal."""
    import pyarrow
    import pyarrow.parquet

    types = {
        "str": pyarrow.string(),
        "float": pyarrow.float64(),
        "int": pyarrow.int64(),
        "bool": pyarrow.bool_(),
    }
    own = {
        field.name: types[str(field.type)] for field in fields(kind) if field.name in kind.columns
    }
    text = pyarrow.string()
    schema = pyarrow.schema(
        {
            "feedback_id": text,
            "feedback_ids": pyarrow.list_(text),
            "prompt": text,
            "prompt_key": text,
            "side": text,
            **own,
        }
    )
    records = [
        {
            "feedback_id": row.feedback_ids[0] if row.feedback_ids else "",
            "feedback_ids": list(row.feedback_ids),
            "prompt": json.dumps(row.prompt, ensure_ascii=False),
            **{name: getattr(row, name) for name in ("prompt_key", "side", *own)},
        }
        for row in rows
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records, schema=schema), path)


def read(path: Path, kind: type[R]) -> list[R]:
    """The rows of one file; a column that an earlier release did not write has its default."""
    import pyarrow.parquet

    return [
        kind(
            feedback_ids=tuple(record["feedback_ids"]),
            prompt=tuple(json.loads(record["prompt"])),
            **{n: record[n] for n in ("prompt_key", "side", *kind.columns) if n in record},
        )
        for record in pyarrow.parquet.read_table(path).to_pylist()
    ]
