"""What our scorers cost: `python -m bench.reward --minutes 3 --json FILE`.

A neural reward model scores a batch as the reward process does, in turn with a bare,
length-sorted transformers batch of the same texts on the same weights; and a linear one in turn
with a bare loop over its scores. Exits 1 if the neural ratio is below the goal for certain, 2 if
the run was too noisy to judge.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.overhead.report import machine
from bench.overhead.statistics import Spread, ratios, spread
from bench.reward.contenders import Contender, linear_pair, neural_pair

from learnback.models.reward import Item

GOAL = 0.95
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
WARM_UP = 1
"""Rounds that do not count: they allocate, and read the weights for the first time."""
LEAST_ROUNDS = 5
WORDS = "people ask how a river finds its way to the sea and why the answer is never short"


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.reward", description=__doc__)
    parser.add_argument("--minutes", type=float, default=3.0, help="how long to measure")
    parser.add_argument("--model", default=None, help="folder of a base (default: SmolLM2-135M)")
    parser.add_argument("--answers", type=int, default=16, help="in one batch")
    parser.add_argument("--words", type=int, default=60, help="of the longest answer")
    parser.add_argument("--threads", type=int, default=None, help="of torch (default: its own)")
    parser.add_argument(
        "--clock",
        choices=CLOCKS,
        default="wall",
        help="cpu: of all our threads, for a machine that others use too (with --threads 1)",
    )
    parser.add_argument("--json", type=Path, default=None, help="also write all figures here")
    parser.add_argument("--seed", type=int, default=0, help="texts, and order within a round")
    return parser.parse_args()


def texts(count: int, longest: int, seed: int) -> list[Item]:
    """Prompts with answers of 5 words to `longest`, evenly spread, in random order."""
    chance, words = random.Random(seed), WORDS.split()
    sizes = [5 + round((longest - 5) * i / max(1, count - 1)) for i in range(count)]
    chance.shuffle(sizes)
    return [
        (
            (
                {
                    "role": "user",
                    "content": f"Question {i % 8}: {' '.join(chance.sample(words, 6))}?",
                },
            ),
            " ".join(chance.choices(words, k=size)),
        )
        for i, size in enumerate(sizes)
    ]


def measure(
    pair: Sequence[Contender],
    items: list[Item],
    seconds: float,
    seed: int,
    clock: Callable[[], float],
) -> dict[str, list[float]]:
    """Answers per second of both, round by round, in random order within each round."""
    chance, found = random.Random(seed), {name: [] for name, _ in pair}
    end = time.monotonic() + seconds
    rounds = 0
    while rounds < WARM_UP + LEAST_ROUNDS or time.monotonic() < end:
        for name, score in chance.sample(list(pair), len(pair)):
            rate = len(items) / _seconds(score, items, clock)
            if rounds >= WARM_UP:
                found[name].append(rate)
        rounds += 1
        print(f"round {rounds}", end=" ", file=sys.stderr, flush=True)
    return found


def _seconds(
    score: Callable[[list[Item]], object], items: list[Item], clock: Callable[[], float]
) -> float:
    start = clock()
    score(items)
    return clock() - start


def main() -> int:
    """Measure, print, judge."""
    given = arguments()
    clock = CLOCKS[given.clock]
    items = texts(given.answers, given.words, given.seed)
    many = texts(2_000, given.words, given.seed)
    with tempfile.TemporaryDirectory(prefix="learnback-bench-") as scratch:
        neural = neural_pair(given.model, Path(scratch), items, given.threads)
        rates = {
            "neural": measure(neural, items, 54 * given.minutes, given.seed, clock),
            "linear": measure(linear_pair(many), many, 6 * given.minutes, given.seed, clock),
        }
    ratio = {kind: spread(ratios(found["ours"], found["bare"])) for kind, found in rates.items()}
    print(table(rates, ratio))
    if given.json:
        said = {"machine": machine(), "arguments": vars(given) | {"json": str(given.json)}}
        said |= {"rates": rates, "ratios": {kind: vars(found) for kind, found in ratio.items()}}
        given.json.write_text(json.dumps(said, indent=2) + "\n")
    return verdict(ratio["neural"])


def table(rates: dict[str, dict[str, list[float]]], ratio: dict[str, Spread]) -> str:
    """Markdown."""
    lines = [
        "| reward model | ours, answers/s | bare, answers/s | ratio [95% interval] | rounds |",
        "|---|---|---|---|---|",
    ]
    for kind, found in rates.items():
        ours, bare = (spread(found[name]).median for name in ("ours", "bare"))
        shown = f"{ratio[kind].shown()} | {ratio[kind].rounds}"
        lines.append(f"| {kind} | {ours:,.1f} | {bare:,.1f} | {shown} |")
    return "\n".join(lines)


def verdict(ratio: Spread) -> int:
    """0: the median meets the goal. 1: it misses it for certain. 2: run it again, longer."""
    if ratio.median >= GOAL:
        return 0
    print(f"{'missed' if ratio.high < GOAL else 'too noisy to judge'}: {ratio.shown()} of {GOAL}")
    return 1 if ratio.high < GOAL else 2


if __name__ == "__main__":
    sys.exit(main())
