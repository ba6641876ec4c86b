"""What was measured, as a table for people and as data."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from typing import Any

import psutil
from bench.overhead.rounds import Key, Series
from bench.overhead.statistics import Spread, differences, ratios, spread

RATIO_GOAL = 0.98
TTFT_GOAL_MS = 0.5


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    return {
        "cpu": _cpu_name(),
        "cores": psutil.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "python": platform.python_version(),
        "system": platform.platform(),
        "load_average_1m": round(psutil.getloadavg()[0], 2),
    }


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            names = [line.split(": ", 1)[1].strip() for line in file if "model name" in line]
    except OSError:
        names = []
    return names[0] if names else platform.processor()


def compare(found: dict[Key, Series], variants: Sequence[str]) -> list[dict[str, Any]]:
    """One row for each variant and shape: against the first variant, round by round."""
    base = variants[0]
    shapes = sorted({(clients, streamed) for _, clients, streamed in found})
    return [
        _row((name, *shape), found[name, *shape], found[base, *shape])
        for shape in shapes
        for name in variants[1:]
        if (name, *shape) in found
    ]


def _row(key: Key, series: Series, base: Series) -> dict[str, Any]:
    ours, theirs = series.values, base.values
    row: dict[str, Any] = {
        **dict(zip(("variant", "clients", "streamed"), key, strict=True)),
        "errors": series.errors + base.errors,
        "throughput_ratio": spread(ratios(ours["requests_per_s"], theirs["requests_per_s"])),
        "ttft_added_ms": spread(differences(ours["ttft_ms"], theirs["ttft_ms"])),
        "ttft_ratio": spread(ratios(ours["ttft_ms"], theirs["ttft_ms"])),
        "server_cpu_added_us": spread(differences(_server_cpu(ours), _server_cpu(theirs))),
        "cpu_ratio": spread(ratios(_all_cpu(ours), _all_cpu(theirs))),
    }
    if "gap_ms" in ours:
        row["gap_ratio"] = spread(ratios(ours["gap_ms"], theirs["gap_ms"]))
    return row


def _server_cpu(values: dict[str, list[float]]) -> list[float]:
    """CPU of the API server, and of the engine behind it where that is another server."""
    engine = values.get("cpu_us_engine") or [0.0] * len(values["cpu_us_server"])
    return [a + b for a, b in zip(values["cpu_us_server"], engine, strict=True)]


def _all_cpu(values: dict[str, list[float]]) -> list[float]:
    """The same with its children, such as vLLM's engine core."""
    return [a + b for a, b in zip(_server_cpu(values), values["cpu_us_children"], strict=True)]


def absolute(found: dict[Key, Series]) -> list[dict[str, Any]]:
    """The medians themselves, of every variant."""
    return [
        {
            "variant": name,
            "clients": clients,
            "streamed": streamed,
            "errors": series.errors,
            **{measure: spread(values) for measure, values in series.values.items()},
        }
        for (name, clients, streamed), series in found.items()
    ]


def plain(value: Any) -> Any:
    """The same with spreads as JSON objects."""
    if isinstance(value, Spread):
        return vars(value)
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list) else value


def judged(spread: Spread, goal: float, *, least: bool) -> str:
    """Where the whole interval lies: `met`, `missed`, or `too noisy` if it holds the goal.

    `least`: the goal is the least that is good, such as a throughput; else the most.
    """
    low, high = (spread.low, spread.high) if least else (-spread.high, -spread.low)
    goal = goal if least else -goal
    return "met" if low >= goal else "missed" if high < goal else "too noisy"


def judge(rows: Sequence[dict[str, Any]], variant: str, *, paced: bool = False) -> None:
    """Say in each row of `variant` how it stands to its goals, in the field `goals`.

    The first token is judged where the server is not saturated: under a pace, or with one client.
    A saturated server's latency is its throughput again (clients / throughput: Little 1961).
    """
    for row in (row for row in rows if row["variant"] == variant):
        goals = row["goals"] = {}
        if not paced:
            ratio = row["throughput_ratio"]
            goals["throughput"] = judged(ratio, RATIO_GOAL, least=True)
        if row["streamed"] and (paced or row["clients"] == 1):  # whole: first byte is the last
            added = row["ttft_added_ms"]
            goals["first token"] = judged(added, TTFT_GOAL_MS, least=False)
        if row["errors"]:
            goals["answers"] = "missed"


def verdict(rows: Sequence[dict[str, Any]]) -> list[str]:
    """How many goals are met, and a line for each that is not."""
    found = [(row, name, how) for row in rows for name, how in row.get("goals", {}).items()]
    lines = [f"goals met: {sum(how == 'met' for *_, how in found)} of {len(found)}"] * bool(found)
    for row, name, how in found:
        if how != "met":
            kind = "stream" if row["streamed"] else "whole"
            lines.append(f"{how}: {name} of {row['variant']} at {row['clients']} clients, {kind}")
    return lines


def exit_code(rows: Sequence[dict[str, Any]]) -> int:
    """0: all goals are met. 1: one is missed. 2: none is, but the run was too noisy to say."""
    hows = {how for row in rows for how in row.get("goals", {}).values()}
    return 1 if "missed" in hows else 2 if "too noisy" in hows else 0


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The comparison as a Markdown table: medians with 95% intervals."""
    lines = [
        "| variant | clients | answer | throughput ratio | first byte, added ms "
        "| inter-token ratio | server CPU, added us/request | CPU ratio | goal |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        gap = row["gap_ratio"].shown() if "gap_ratio" in row else "-"
        lines.append(
            f"| {row['variant']} | {row['clients']} | {'stream' if row['streamed'] else 'whole'} "
            f"| {row['throughput_ratio'].shown()} | {row['ttft_added_ms'].shown(2)} | {gap} "
            f"| {row['server_cpu_added_us'].shown(0)} | {row['cpu_ratio'].shown()} "
            f"| {_goals(row)} |"
        )
    return "\n".join(lines)


def _goals(row: dict[str, Any]) -> str:
    return ", ".join(f"{name} {how}" for name, how in row.get("goals", {}).items()) or "-"
