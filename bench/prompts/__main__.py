"""What a prompt strategy adds to a request: `python -m bench.prompts --json FILE`.

Applies strategies to chat requests as the middleware does, from the fields as they came to the
fields for the engine, in one thread and without an engine. Words are drawn by Zipf's law, as in
real text. Exits 1 if picking from 1,000 examples for a prompt of 1 KB costs more than the goal.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from learnback.inference.body import Fields, peek
from learnback.inference.examples import Prompter
from learnback.inference.prompts import apply
from learnback.models.example_bank import Entry
from learnback.models.retrieval import Index
from learnback.models.strategy import Strategy

GOAL_US = 200.0
GOAL_OF = (1_000, 1_024)
"""Entries and bytes of the prompt that the goal is for."""
VOCABULARY = 20_000
CONTEXT = 1 << 20
BANKS = (100, 1_000, 10_000)
PROMPTS = (100, 1_024, 16_384)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.prompts", description=__doc__)
    parser.add_argument("--requests", type=int, default=2_000, help="for each line of the table")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, default=None, help="also write all figures here")
    return parser.parse_args()


class Writer:
    """Texts of words that are as common as in real ones."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        letters = "etaoinshrdlucmfwypvbgk"
        self.words = [
            "".join(self.random.choices(letters, k=2 + min(8, i.bit_length() // 2)))
            for i in range(VOCABULARY)
        ]
        self.weights = [1 / (i + 1) for i in range(VOCABULARY)]

    def text(self, size: int) -> str:
        """About `size` bytes."""
        return " ".join(self.random.choices(self.words, self.weights, k=size // 3 + 1))[:size]


def bank(writer: Writer, entries: int) -> Index:
    """Prompts of 300 bytes, answers of 400."""
    return Index(
        [
            Entry(
                id=f"ex_{number:08}",
                tenant="default",
                system_key="",
                prompt_key="",
                user=writer.text(300),
                answer=writer.text(400),
                quality=writer.random.random(),
            )
            for number in range(entries)
        ]
    )


def request(text: str) -> bytes:
    """A chat request."""
    body = {"model": "learnback", "messages": [{"role": "user", "content": text}]}
    return json.dumps(body | {"max_tokens": 256, "temperature": 0.7}).encode()


def applied(prompter: Prompter, fields: Fields) -> int:
    """What the middleware does with the fields; how many examples were shown."""
    found = apply(prompter, "chat.completions", fields, "default", CONTEXT)
    for name, value in found.changed.items():
        fields[name] = msgspec.Raw(msgspec.json.encode(value))
    return len(found.examples)


def timed(once: Callable[[Fields], Any], bodies: list[bytes], count: int) -> list[float]:
    """Microseconds of CPU time of each request, sorted."""
    taken = []
    for number in range(count):
        fields = peek(bodies[number % len(bodies)])[1]
        before = time.thread_time_ns()
        once(fields)
        taken.append((time.thread_time_ns() - before) / 1_000)
    return sorted(taken)


def allocated(once: Callable[[Fields], Any], bodies: list[bytes]) -> float:
    """Peak of memory taken for one request, in KB: mean."""
    peaks = []
    for body in bodies[:50]:
        fields = peek(body)[1]
        tracemalloc.start()
        once(fields)
        peaks.append(tracemalloc.get_traced_memory()[1] / 1_024)
        tracemalloc.stop()
    return statistics.fmean(peaks)


def row(name: str, entries: int, size: int, prompter: Prompter, given: Any) -> dict[str, Any]:
    """One line of the table."""
    writer = Writer(given.seed + 1)
    bodies = [request(writer.text(size)) for _ in range(200)]

    def once(fields: Fields) -> int:
        return applied(prompter, fields)

    timed(once, bodies, 50)
    taken = timed(once, bodies, given.requests)
    return {
        "strategy": name,
        "entries": entries,
        "prompt_bytes": size,
        "median_us": round(statistics.median(taken), 1),
        "p99_us": round(taken[int(len(taken) * 0.99)], 1),
        "peak_kb": round(allocated(once, bodies), 1),
    }


def main() -> int:
    """Measure, print, judge."""
    given = arguments()
    plain = Prompter(Strategy(strategy="zero_shot_cot", system="Answer in one sentence."))
    rows = [row("zero_shot_cot", 0, size, plain, given) for size in PROMPTS]
    few = Strategy(strategy="few_shot", bank="0" * 64)
    for entries in BANKS:
        prompter = Prompter(few, bank(Writer(given.seed), entries))
        rows += [row("few_shot", entries, size, prompter, given) for size in PROMPTS]
    print("| strategy | examples in the bank | prompt, bytes | CPU us, median | p99 | peak, KB |")
    print("|---|---|---|---|---|---|")
    for found in rows:
        print("| " + " | ".join(f"{value}" for value in found.values()) + " |")
    if given.json:
        given.json.write_text(json.dumps(rows, indent=2))
    judged = next(r for r in rows if (r["entries"], r["prompt_bytes"]) == GOAL_OF)
    missed = judged["median_us"] > GOAL_US
    print(f"goal {'missed' if missed else 'met'}: {judged['median_us']} us of {GOAL_US:g} us")
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
