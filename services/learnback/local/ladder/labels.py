"""What simulated people say of a model's answers, as datasets: all that the methods get to see.

They compare all answers to a prompt in pairs, and give a thumb to each; they err, and say nothing
where they see little difference. Prompts are held out as a whole, never single answers.
"""

from __future__ import annotations

import itertools
import json
import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from learnback.ledger.prompts import prompt_key
from learnback.retraining.plan import HELD_OUT_FILE, TRAIN_FILE
from learnback_simulator.people import Person
from learnback_simulator.preferences import Score

JUDGE_FILE = "judge.parquet"
"""Read by trainers/held_out_judge.py, which needs torch's world to be imported."""
HELD_OUT = 0.25
"""Share of the labelled prompts whose comparisons no method is trained on."""

Messages = list[dict[str, str]]


@dataclass(frozen=True)
class Answered:
    """A prompt with the answers that were given to it."""

    prompt: str
    messages: Messages
    answers: tuple[tuple[str, bool], ...]
    """Text, and whether it ended by itself."""


@dataclass(frozen=True)
class Rated:
    """An answer that people liked."""

    prompt: str
    messages: Messages
    answer: str
    quality: float
    """How often it won its comparisons, from 0 to 1, with one more of each ending."""


@dataclass
class Labels:
    """What people said, in the shapes that training reads."""

    pairs: list[dict[str, Any]] = field(default_factory=list)
    held_out_pairs: list[dict[str, Any]] = field(default_factory=list)
    thumbs: list[dict[str, Any]] = field(default_factory=list)
    liked: list[dict[str, Any]] = field(default_factory=list)
    """Answers to training prompts with a thumb up: what supervised fine-tuning imitates."""
    best: list[Rated] = field(default_factory=list)
    """Of each training prompt the liked answer that won most comparisons: examples to show."""


def label(
    answered: Sequence[Answered], people: Sequence[Person], score: Score, silence: float
) -> Labels:
    """Let `people` judge by their hidden `score`. Pure; the same people say the same.

    `silence` is the difference of scores up to which they say nothing.
    """
    held_out = round(HELD_OUT * len(answered))
    middle = statistics.median(
        score(entry.prompt, text) for entry in answered for text, _ in entry.answers
    )
    turns = itertools.cycle(people)
    found = Labels()
    for number, entry in enumerate(answered):
        trains = number >= held_out
        pairs = _compare(entry, turns, f"{number}")
        (found.pairs if trains else found.held_out_pairs).extend(pairs)
        if not trains:
            continue
        thumbs = _thumbs(entry, turns, score, middle, silence)
        found.thumbs += thumbs
        liked = [row for row in thumbs if row["label"]]
        found.liked += liked
        if liked:
            found.best.append(max((_rate(entry, row, pairs) for row in liked), key=_quality))
    return found


def _rate(entry: Answered, row: dict[str, Any], pairs: Sequence[dict[str, Any]]) -> Rated:
    answer = row["completion"]
    won = sum(pair["chosen"] == answer for pair in pairs)
    lost = sum(pair["rejected"] == answer for pair in pairs)
    return Rated(entry.prompt, entry.messages, answer, (won + 1) / (won + lost + 2))


def _quality(rated: Rated) -> float:
    return rated.quality


def thumb(person: Person, prompt: str, answer: str, middle: float, silence: float) -> bool | None:
    """Up if the person likes the answer better than the usual one; None: they say nothing."""
    dice = random.Random(f"thumb/{person.seed}/{person.id}/{prompt}/{answer}")
    difference = person.preference(prompt, answer) - middle
    if abs(difference) <= silence / 2:
        return None
    return (difference > 0) != (dice.random() < person.error_rate)


def write_datasets(labels: Labels, asked: Sequence[Messages], folder: Path) -> dict[str, Path]:
    """One dataset a shape, by the methods that learn from it. `asked` are RLOO's prompts."""
    prompts = [{"prompt": json.dumps(m), "feedback_id": ""} for m in asked]
    kept = {row["prompt"] for row in labels.held_out_pairs}
    contents: dict[str, dict[str, list[dict[str, Any]]]] = {
        "sft": {TRAIN_FILE: labels.liked},
        "dpo": {TRAIN_FILE: labels.pairs, HELD_OUT_FILE: labels.held_out_pairs},
        "kto": {TRAIN_FILE: labels.thumbs},
        "rloo": {
            TRAIN_FILE: prompts,
            HELD_OUT_FILE: [{"prompt": prompt, "feedback_id": ""} for prompt in sorted(kept)],
            JUDGE_FILE: labels.held_out_pairs,
        },
    }
    for method, files in contents.items():
        target = folder / method
        target.mkdir(parents=True, exist_ok=True)
        for name, rows in files.items():
            if rows:
                pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), target / name)
    return {method: folder / method for method in contents}


def _compare(entry: Answered, turns: Any, stem: str) -> list[dict[str, Any]]:
    rows = []
    for i, j in itertools.combinations(range(len(entry.answers)), 2):
        (first, first_ended), (second, second_ended) = entry.answers[i], entry.answers[j]
        said = next(turns).compare(entry.prompt, first, second)
        if said not in ("first", "second"):
            continue
        row = {
            "feedback_id": f"pair-{stem}-{i}-{j}",
            "prompt": json.dumps(entry.messages),
            "prompt_key": prompt_key(entry.messages),
            "chosen": first,
            "rejected": second,
            "chosen_finished": first_ended,
            "rejected_finished": second_ended,
            "margin": 1.0,
        }
        if said == "second":
            row |= {
                "chosen": second,
                "rejected": first,
                "chosen_finished": second_ended,
                "rejected_finished": first_ended,
            }
        rows.append(row)
    return rows


def _thumbs(
    entry: Answered, turns: Any, score: Score, middle: float, silence: float
) -> list[dict[str, Any]]:
    rows = []
    for number, (text, ended) in enumerate(entry.answers):
        said = thumb(next(turns), entry.prompt, text, middle, silence)
        if said is None:
            continue
        rows.append(
            {
                "feedback_id": f"thumb-{prompt_key(entry.messages)[:8]}-{number}",
                "prompt": json.dumps(entry.messages),
                "completion": text,
                "finished": ended,
                "label": said,
            }
        )
    return rows
