"""Our training job against the bare TRL trainer: `python -m bench.training --rounds 3 --json FILE`.

Each round runs both once, in random order, on the same data with the same settings; ratios are
taken round by round. Exits 1 if a goal is missed, 2 if the run was too noisy to judge.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from bench.overhead.report import machine, plain
from bench.overhead.statistics import Spread, ratios, spread
from bench.training.variants import BARE, VARIANTS, in_a_child, write_run

from learnback.local.default_model import NAME, cache_folder

SPEED_GOAL, MEMORY_GOAL = 0.97, 1.05
_MAKE = (
    "import pathlib, sys; from learnback.models import {0} as m; m.{1}(pathlib.Path(sys.argv[1]))"
)
MAKE = {
    "smollm2": _MAKE.format("smollm2", "prepare"),
    "tiny": _MAKE.format("tiny", "make_tiny_llama"),
}


def main() -> int:
    """Measure, print, judge."""
    given = _given()
    with tempfile.TemporaryDirectory(prefix="learnback-bench-") as scratch:
        folder = Path(scratch)
        model = _model(given.model, folder)
        rows = [_measure(given, folder, model, method) for method in given.methods.split(",")]
    print(_table(rows))
    verdicts = [_verdict(row) for row in rows]
    for row, verdict in zip(rows, verdicts, strict=True):
        print(f"{row['method']}: {('goals met', 'goal missed', 'too noisy to judge')[verdict]}")
    if given.json:
        found = {"machine": machine(), "model": given.model, "methods": plain(rows)}
        given.json.write_text(json.dumps(found, indent=2) + "\n")
    return 1 if 1 in verdicts else max(verdicts)


def _given() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.training", description=__doc__)
    parser.add_argument("--methods", default="sft,dpo", help=f"of {', '.join(BARE)}")
    parser.add_argument("--model", default="smollm2", help="smollm2, tiny, or a folder")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=6, help="optimiser steps of a run")
    parser.add_argument("--batch", type=int, default=4, help="rows of a step")
    parser.add_argument("--seed", type=int, default=0, help="order within rounds")
    parser.add_argument("--json", type=Path, default=None, help="also write all figures here")
    return parser.parse_args()


def _model(name: str, folder: Path) -> str:
    """Its folder; made in another process, since this one forks and so must not compute."""
    if name not in MAKE:
        return name
    made = cache_folder() / NAME if name == "smollm2" else folder / name
    subprocess.run([sys.executable, "-c", MAKE[name], str(made)], check=True)
    return str(made)


def _measure(given: Any, folder: Path, model: str, method: str) -> dict[str, Any]:
    chance = random.Random(given.seed)
    speeds: dict[str, list[float]] = {name: [] for name in VARIANTS}
    peaks: dict[str, list[float]] = {name: [] for name in VARIANTS}
    for number in range(given.rounds):
        for name in chance.sample(list(VARIANTS), len(VARIANTS)):
            run = folder / f"{method}-{name}-{number}"
            write_run(run, model, method, given.steps, given.batch)  # type: ignore[arg-type]
            speed, peak = in_a_child(name, run)
            speeds[name].append(speed)
            peaks[name].append(peak)
            said = f"{method} round {number + 1}: {name} {speed:.2f} samples/s, {peak:.0f} MiB"
            print(said, file=sys.stderr, flush=True)
    return {
        "method": method,
        "speed_ratio": spread(ratios(speeds["ours"], speeds["bare"])),
        "memory_ratio": spread(ratios(peaks["ours"], peaks["bare"])),
        "samples_per_s": {name: spread(values) for name, values in speeds.items()},
        "peak_mib": {name: spread(values) for name, values in peaks.items()},
    }


def _verdict(row: dict[str, Any]) -> int:
    """0: both medians meet their goal. 1: one is missed for certain. 2: it can't be told."""
    speed, memory = row["speed_ratio"], row["memory_ratio"]
    if speed.high < SPEED_GOAL or memory.low > MEMORY_GOAL:
        return 1
    return 0 if speed.median >= SPEED_GOAL and memory.median <= MEMORY_GOAL else 2


def _table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| method | samples/s, ratio | peak memory, ratio | ours, samples/s | TRL's, samples/s |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        ours, bare = (row["samples_per_s"][name] for name in ("ours", "bare"))
        cells: list[Spread] = [row["speed_ratio"], row["memory_ratio"], ours, bare]
        lines.append(f"| {row['method']} | " + " | ".join(c.shown(2) for c in cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
