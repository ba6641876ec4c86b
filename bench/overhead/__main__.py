"""What Learnback adds to serving: `python -m bench.overhead --minutes 5 --json FILE`.

By default one real vLLM server on a tiny model, asked with and without the middleware in turn;
exits 1 if the goal is missed, 2 if the run was too noisy to judge. `--engine mock` puts us before
a fast engine without a model, which isolates our own cost in CPU time for each request and token.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.overhead import loadgen, report
from bench.overhead.rounds import Key, Series, measure
from bench.overhead.servers import (
    ENGINES,
    MOCKS,
    platform,
    request_body,
    start_engine,
    start_mocks,
)

MAX_TOKENS = 32


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.overhead", description=__doc__)
    parser.add_argument("--engine", choices=("vllm", "mock"), default="vllm")
    parser.add_argument("--minutes", type=float, default=3.0, help="how long to measure")
    parser.add_argument("--round-seconds", type=float, default=None, help="length of one load")
    parser.add_argument(
        "--pace",
        type=float,
        default=None,
        metavar="SHARE",
        help="clients pause, so that they ask for this share of what the server can do (0.5)",
    )
    parser.add_argument("--clients", default="1,16,64", help="how many at once, comma-separated")
    parser.add_argument("--json", type=Path, default=None, help="also write all figures here")
    parser.add_argument("--model", default=None, help="vllm: another model than the tiny one")
    parser.add_argument("--kv-cache-gib", type=int, default=1, help="vllm on the CPU: its cache")
    parser.add_argument("--variants", help="which to measure, comma-separated, `raw` first")
    parser.add_argument("--seed", type=int, default=0, help="order of the rounds")
    given = parser.parse_args()
    if given.pace is not None and not 0 < given.pace < 1:
        parser.error("--pace must be above 0 and below 1, such as 0.5")
    return given


def main() -> int:
    """Measure, print, judge."""
    given = arguments()
    with tempfile.TemporaryDirectory(prefix="learnback-bench-") as scratch:
        folder = Path(scratch)
        generate, generator = loadgen.prepare(folder)
        found = _run(given, folder, generate)
    variants = list(dict.fromkeys(name for name, _, _ in found))
    variants.sort(key=lambda name: name != "raw")
    rows = report.compare(found, variants)
    if given.engine == "vllm":
        report.judge(rows, "middleware", paced=given.pace is not None)
    print(report.table(rows))
    print("\n".join(report.verdict(rows)))
    if given.json:
        shown = {
            "engine": given.engine,
            "generator": generator,
            "minutes": given.minutes,
            "pace": given.pace,
            "machine": report.machine(),
            "comparison": report.plain(rows),
            "absolute": report.plain(report.absolute(found)),
        }
        given.json.write_text(json.dumps(shown, indent=2) + "\n")
    return report.exit_code(rows)


def _run(given: argparse.Namespace, folder: Path, generate: loadgen.Generator) -> dict[Key, Series]:
    model = given.model or _model(given.engine, folder)
    with platform(folder, model) as servers:
        if given.engine == "vllm":
            start_engine(servers, model, given.kv_cache_gib, _names(given, ENGINES))
        else:
            start_mocks(servers, _names(given, MOCKS))
        bodies = {
            streamed: request_body(180, MAX_TOKENS, streamed=streamed) for streamed in (False, True)
        }
        servers.recorded(sum(variant.records for variant in servers.variants))
        return measure(
            generate,
            servers.variants,
            bodies,
            minutes=given.minutes,
            round_s=given.round_seconds or (2.0 if given.engine == "vllm" else 0.5),
            seed=given.seed,
            pace=given.pace,
            clients=[int(number) for number in given.clients.split(",")],
            recorded=servers.recorded,
            say=_say,
        )


def _names(given: argparse.Namespace, default: Sequence[str]) -> Sequence[str]:
    return given.variants.split(",") if given.variants else default


def _model(engine: str, folder: Path) -> str:
    """The tiny model, made here; the mock needs only its name."""
    if engine == "mock":
        return "mock"
    from learnback.models.tiny import make_tiny_llama

    return str(make_tiny_llama(folder / "tiny-llama"))


def _say(line: str) -> Any:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
