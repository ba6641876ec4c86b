"""The rows that trainers learn from, by shape, and reading them from a dataset's folder; no torch.

| shape | methods | columns of train.parquet and held_out.parquet |
|---|---|---|
| completions | sft | feedback_id, prompt, completion; finished, weight |
| pairs | dpo, reward_model | feedback_id, prompt, chosen, rejected; margin, tie, chosen_finished, rejected_finished, side |
| labels | kto | feedback_id, prompt, completion, label; finished, weight |
| prompts | rloo | prompt; feedback_id, prompt_key |

`prompt` is a JSON list of chat messages. What stands behind the semicolon may be left out: weights
and margins are then 1, answers finished (False says that the token limit cut the answer off).
"""  # noqa: E501

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

from learnback.retraining.hyperparameters import Method
from learnback.retraining.plan import HELD_OUT_FILE, TRAIN_FILE
from learnback.retraining.trainers.failures import BadData

Messages = list[dict[str, str]]


class CompletionRow(NamedTuple):
    """An answer to imitate."""

    feedback_id: str
    prompt: Messages
    completion: str
    finished: bool
    weight: float


class PairRow(NamedTuple):
    """Two answers to one prompt, the better one first unless it is a tie."""

    feedback_id: str
    prompt: Messages
    chosen: str
    rejected: str
    margin: float
    """How clear it is, in [0, 1]."""
    tie: bool
    chosen_finished: bool
    rejected_finished: bool
    side: str
    """`train`, or what keeps it out of training: `prompt` or `rater`."""


class LabelRow(NamedTuple):
    """An answer that was liked, or disliked."""

    feedback_id: str
    prompt: Messages
    completion: str
    label: bool
    finished: bool
    weight: float


class PromptRow(NamedTuple):
    """A prompt to answer."""

    feedback_id: str
    prompt: Messages
    prompt_key: str


Row = TypeVar("Row", CompletionRow, PairRow, LabelRow, PromptRow)


@dataclass(frozen=True)
class Rows(Generic[Row]):
    """A dataset as its trainer takes it."""

    train: list[Row]
    held_out: list[Row]


def load(dataset: Path, method: Method) -> Rows[Any]:
    """Read a dataset in the shape that `method` learns from.

    Raises BadData if train.parquet is missing, empty or malformed; held_out.parquet may be missing.
    """
    train = read(dataset / TRAIN_FILE, method)
    if not train:
        raise BadData(f"{TRAIN_FILE} is empty: there is nothing to learn from")
    held_out = dataset / HELD_OUT_FILE
    return Rows(train, read(held_out, method) if held_out.is_file() else [])


def read(path: Path, method: Method) -> list[Any]:
    """The rows of one file. Raises BadData."""
    import pyarrow.parquet

    shape = SHAPES[method]
    try:
        table = pyarrow.parquet.read_table(path)
    except (OSError, pyarrow.ArrowInvalid) as error:
        raise BadData(f"can't read {path.name}: {error}") from error
    missing = [name for name in shape.columns if name not in table.column_names]
    if missing:
        raise BadData(f"{path.name} lacks the columns {', '.join(missing)}")
    return [_row(record, shape) for record in table.to_pylist()]


@dataclass(frozen=True)
class _Shape:
    columns: tuple[str, ...]
    texts: tuple[str, ...]
    make: Callable[[dict[str, Any], str, Messages], Any]


def _row(record: dict[str, Any], shape: _Shape) -> Any:
    name = str(record.get("feedback_id") or "")
    prompt = _messages(record["prompt"], name)
    if not all(isinstance(record[text], str) for text in shape.texts):
        raise BadData(f"feedback {name}: an answer is missing")
    return shape.make(record, name, prompt)


def _messages(text: Any, name: str) -> Messages:
    try:
        prompt = [
            {"role": str(message["role"]), "content": str(message["content"])}
            for message in json.loads(text)
        ]
    except (TypeError, ValueError, KeyError) as error:
        raise BadData(f"feedback {name}: the prompt is no list of messages") from error
    if not prompt:
        raise BadData(f"feedback {name}: the prompt is empty")
    return prompt


def _completion(record: dict[str, Any], name: str, prompt: Messages) -> CompletionRow:
    return CompletionRow(
        name, prompt, record["completion"], _finished(record, "finished"), _number(record, "weight")
    )


def _pair(record: dict[str, Any], name: str, prompt: Messages) -> PairRow:
    return PairRow(
        feedback_id=name,
        prompt=prompt,
        chosen=record["chosen"],
        rejected=record["rejected"],
        margin=_number(record, "margin"),
        tie=record.get("tie") is True,
        chosen_finished=_finished(record, "chosen_finished"),
        rejected_finished=_finished(record, "rejected_finished"),
        side=str(record.get("side") or "train"),
    )


def _label(record: dict[str, Any], name: str, prompt: Messages) -> LabelRow:
    label = record["label"]
    if not isinstance(label, bool):
        raise BadData(f"feedback {name}: the label is neither true nor false")
    return LabelRow(
        name,
        prompt,
        record["completion"],
        label,
        _finished(record, "finished"),
        _number(record, "weight"),
    )


def _prompt(record: dict[str, Any], name: str, prompt: Messages) -> PromptRow:
    return PromptRow(name, prompt, str(record.get("prompt_key") or ""))


def _finished(record: dict[str, Any], column: str) -> bool:
    return record.get(column) is not False


def _number(record: dict[str, Any], column: str) -> float:
    value = record.get(column)
    return 1.0 if value is None else float(value)


_PAIRS = _Shape(
    ("feedback_id", "prompt", "chosen", "rejected"),
    ("chosen", "rejected"),
    _pair,
)
SHAPES: dict[Method, _Shape] = {
    "sft": _Shape(("feedback_id", "prompt", "completion"), ("completion",), _completion),
    "dpo": _PAIRS,
    "reward_model": _PAIRS,
    "kto": _Shape(("feedback_id", "prompt", "completion", "label"), ("completion",), _label),
    "rloo": _Shape(("prompt",), (), _prompt),
}
