"""The measurement itself: short rounds, all servers up, every variant in each round."""

from __future__ import annotations

import random
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

import psutil
from bench.overhead.loadgen import Generator, Load

LEAST_REQUESTS = 8
"""In one round; the median of fewer says little."""
CLIENTS = (1, 16, 64)


@dataclass(frozen=True)
class Variant:
    """A server under test; `root` is its first process, `helpers` are counted apart.

    `records`: every answer must turn up on the stream, and that work counts as the server's.
    """

    name: str
    port: int
    root: psutil.Process
    helpers: dict[str, psutil.Process] = field(default_factory=dict)
    records: bool = False
    path: str = "/v1/chat/completions"


@dataclass
class Series:
    """Values of one variant under one shape of load, one for each round."""

    values: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    errors: int = 0
    """Requests that failed, and answers that were not recorded."""

    def add(self, result: dict[str, Any], cpu: dict[str, float]) -> None:
        """Take in one round: a result of the generator and CPU seconds by process."""
        count = result["requests"]
        self.errors += result["errors"] + result.get("unrecorded", 0)
        self.values["requests_per_s"].append(count / result["seconds"])
        for name, measured in (("ttft_ms", "first"), ("total_ms", "total"), ("gap_ms", "gap")):
            if result[measured] is not None:
                self.values[name].append(result[measured]["p50"] / 1e3)
        for process, seconds in cpu.items():
            self.values[f"cpu_us_{process}"].append(seconds / count * 1e6)


Key = tuple[str, int, bool]
Recorded = Callable[[int], int]
"""Waits until so many answers are on the stream, empties it, and gives the number it found."""


def cpu_seconds(variant: Variant) -> dict[str, float]:
    """CPU used so far by the server's first process, by its children, and by the helpers."""
    children = sum(_cpu(child) for child in variant.root.children(recursive=True))
    used = {"server": _cpu(variant.root), "children": children}
    return used | {name: _cpu(process) for name, process in variant.helpers.items()}


def _cpu(process: psutil.Process) -> float:
    """Seconds of all threads: by Linux's clock of that process, since ticks are 10 ms coarse."""
    try:
        return time.clock_gettime((~process.pid << 3) | 2)  # as clock_getcpuclockid(3) does
    except OSError:
        times = process.cpu_times()
        return float(times.user + times.system)


def calibrate(
    generate: Generator, variant: Variant, load: Load, round_s: float, recorded: Recorded
) -> int:
    """How many requests take about `round_s` seconds; also warms the server up."""
    least = max(LEAST_REQUESTS, load.clients * 2)
    count = least
    while True:
        load = replace(load, port=variant.port, path=variant.path, requests=count)
        seconds = _one(generate, variant, load, recorded)[0]["seconds"]
        if seconds > round_s / 4:
            return max(least, round(count * round_s / seconds))
        count *= 3


def measure(
    generate: Generator,
    variants: Sequence[Variant],
    bodies: dict[bool, bytes],
    *,
    minutes: float,
    round_s: float,
    seed: int,
    recorded: Recorded,
    say: Callable[[str], None],
    pace: float | None = None,
    clients: Sequence[int] = CLIENTS,
) -> dict[Key, Series]:
    """Rounds in random order until `minutes` are over; every variant once in each round.

    `pace`: the share of what the slowest variant can do that clients ask for at most, by pausing
    between their requests; None: they never pause, so that the server is always saturated.
    """
    chance = random.Random(seed)
    loads: dict[tuple[int, bool], Load] = {}
    # under a pace only the first token is of interest
    for many, streamed in product(clients, (False, True) if pace is None else (True,)):
        load = Load(0, many, 0, bodies[streamed])
        most = min(calibrate(generate, v, load, round_s, recorded) for v in variants)
        loads[many, streamed] = replace(load, requests=most)
        if pace is not None:
            count = max(LEAST_REQUESTS, round(most * pace))
            pause_s = many * round_s / count  # with no time for answers: a little below the pace
            loads[many, streamed] = replace(load, requests=count, pause_s=pause_s)
        say(f"{many} clients, {_word(streamed)}: {loads[many, streamed].requests} a round")
    found: dict[Key, Series] = defaultdict(Series)
    began = time.monotonic()
    done = 0
    while not done or time.monotonic() - began < minutes * 60:
        shapes = list(loads)
        chance.shuffle(shapes)
        for shape in shapes:
            order = list(variants)
            chance.shuffle(order)
            for variant in order:
                load = replace(loads[shape], port=variant.port, path=variant.path, seed=done)
                found[variant.name, *shape].add(*_one(generate, variant, load, recorded))
        done += 1
        say(f"round {done}, {(time.monotonic() - began) / 60:.1f} of {minutes:g} minutes")
    return found


def _one(
    generate: Generator, variant: Variant, load: Load, recorded: Recorded
) -> tuple[dict[str, Any], dict[str, float]]:
    before = cpu_seconds(variant)
    result = generate(load)
    answered = cpu_seconds(variant)
    if variant.records:
        result["unrecorded"] = load.requests - recorded(load.requests)
    # The server has done its part with the last byte; while we wait for the stream it only idles.
    after = cpu_seconds(variant) | {"server": answered["server"]}
    return result, {name: after[name] - before[name] for name in before}


def _word(streamed: bool) -> str:
    return "streamed" if streamed else "whole"
