"""How canaries decide: `python -m bench.canary --json FILE --plot docs/canary.svg`.

Simulates canaries of two equal versions, looked at after every person, and of versions that
please people more or less often: by what people say of one answer, and by which of two side by side
they prefer. Then towns whose people return and hardly ever say anything. Prints the tables of
docs/canary.md. Exits 1 if equal versions are promoted or rolled back more often than the policy's
alpha.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from bench.canary import returning
from bench.canary.plot import plot
from rich.progress import Progress

from learnback.release.biases import Bias, only_the_unhappy, the_first_favoured
from learnback.release.returning import Returned
from learnback.release.simulation import COMPARING, POLICY, Outcomes, Town, simulate

EFFECTS = (0.02, 0.05, -0.1)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.canary", description=__doc__)
    parser.add_argument("--canaries", type=int, default=10_000, help="of equal versions")
    parser.add_argument("--power", type=int, default=500, help="canaries for each true difference")
    parser.add_argument("--people", type=int, default=10_000, help="who come in one canary at most")
    parser.add_argument(
        "--alike",
        type=float,
        default=Town.alike,
        help="how often the prompt decides whether both answers please",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, default=None, help="also write all figures here")
    parser.add_argument("--plot", type=Path, default=None, help="also draw an SVG here")
    return parser.parse_args()


def run(options: argparse.Namespace) -> list[Outcomes]:
    """Canaries in towns where everybody comes once, with a bar that knows how long it takes."""
    town = Town(people=options.people, alike=options.alike)
    sizes = {0.0: options.canaries} | dict.fromkeys(EFFECTS, options.power)
    asked = [(p, *size) for p in (POLICY, COMPARING) for size in sizes.items()]
    found = []
    with Progress() as shown:
        bar = shown.add_task("canaries", total=sum(canaries for *_, canaries in asked))
        done = 0
        for policy, effect, canaries in asked:
            found.append(
                simulate(
                    effect,
                    canaries,
                    town=town,
                    policy=policy,
                    seed=options.seed,
                    progress=lambda n, done=done: shown.update(bar, completed=done + n),  # type: ignore[misc]
                )
            )
            done += canaries
    return found


def run_returning(options: argparse.Namespace) -> Returned:
    """Equal versions where people return."""
    with Progress() as shown:
        bar = shown.add_task("returning", total=options.canaries)
        return returning.equal(
            options.canaries, options.seed, lambda done: shown.update(bar, completed=done)
        )


def biases(seed: int) -> list[Bias]:
    """Each kind of biased raters."""
    return [
        only_the_unhappy(seed=seed),
        the_first_favoured(seed=seed),
        the_first_favoured(seed=seed, drawn=False),
    ]


def table(found: list[Outcomes], biased: list[Bias]) -> str:
    """Markdown."""
    lines = [
        "| people say | true difference | canaries | promoted | rolled back | people until decided "
        "| of them saw the candidate | of them said what counts | hours | fixed-size test "
        "| a z-test at every look promotes |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
        *(_line(one) for one in found),
        "",
        "| raters | true difference | error of the plain mean | error of the corrected estimate |",
        "|---|---|---|---|",
        *(
            f"| {b.raters} | {b.truth:+.1%} | {b.uncorrected:+.1%} "
            f"| {'never done so' if b.corrected is None else f'{b.corrected:+.1%}'} |"
            for b in biased
        ),
    ]
    return "\n".join(lines)


def _line(one: Outcomes) -> str:
    cells = (one.people, one.exposed, one.votes, one.hours, one.fixed_size)
    shown = [f"{cell:,.0f}" if cell is not None else "-" for cell in cells]
    return (
        f"| {'which is better' if one.comparing else 'how they like one'} | {one.effect:+.0%} "
        f"| {one.canaries:,} | {one.promoted:.1%} | {one.rolled_back:.1%} | "
        + " | ".join(shown)
        + f" | {one.peeking:.0%} |"
    )


def main() -> int:
    """Simulate, print, judge."""
    options = arguments()
    began = time.monotonic()
    found, biased = run(options), biases(options.seed + 1)
    print(table(found, biased), flush=True)
    same = run_returning(options)
    gone = returning.broken(options.power, options.seed)
    print(f"\n{returning.table(same, gone)}")
    print(f"\n{time.monotonic() - began:,.0f} s, {time.process_time():,.0f} s of one core")
    if options.json:
        data = {
            "canaries": [o.model_dump() for o in found],
            "bias": [b.model_dump() for b in biased],
            "returning": same.model_dump(),
            "broken": [
                {"was_promoted": after, **vars(town), **one.model_dump()}
                for after, town, one in gone
            ],
        }
        options.json.write_text(json.dumps(data, indent=2))
    if options.plot:
        options.plot.write_text(plot(found, options.people))
    wrong = [rate for one in found if not one.effect for rate in (one.promoted, one.rolled_back)]
    wrong += [same.promoted, same.rolled_back]
    return int(max(wrong) > POLICY.alpha)


if __name__ == "__main__":
    sys.exit(main())
