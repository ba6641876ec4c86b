"""The report of an evaluation: what was measured, in tables and pictures, and what was said.

One page, as Markdown and as HTML, drawn from the ledger each time: so a prompt that was erased is
in no report.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from learnback.core.errors import NotFound
from learnback.core.report import Chart, Heading, Page, Part, Text, bar_chart, line_chart, table
from learnback.ledger.database import Database
from learnback.ledger.evaluations import Pair, pairs_of
from learnback.models.text_features import prompt_text
from learnback.registry import store
from learnback.release.analysis import Estimate
from learnback.release.measured import Check, Evaluation, GateReport, Second

SHOWN = 10
"""Wins, and as many losses, that are shown with both answers."""
LONGEST = 1500
"""Characters of a prompt or an answer that are shown."""
BINS = 16


async def read(database: Database, version: str) -> Page:
    """The report of a version. Raises NotFound if it was never evaluated."""
    async with database.read() as connection:
        found = await store.get(connection, version)
        pairs = await pairs_of(connection, version)
    if not found.gate_report or not found.gate_report.get("evaluation"):
        raise NotFound(f"{version} was not evaluated, so there is no report.")
    return page(GateReport.model_validate(found.gate_report), pairs)


def page(report: GateReport, pairs: Sequence[Pair]) -> Page:
    """All of it. Pure; `report` has an evaluation."""
    found = report.evaluation or Evaluation(candidate="", stable="")
    made = Page(f"{found.candidate} against {found.stable}: {report.verdict}")
    made.add(
        *(Text(reason) for reason in report.reasons),
        *_who_judged(found),
        *_win_rates(found),
        Heading("Guards and proofs"),
        _checks(report.checks),
        *_golden(found),
        *_distributions(found),
        *_examples("Largest wins", sorted(pairs, key=lambda p: -p.gain), wins=True),
        *_examples("Largest losses", sorted(pairs, key=lambda p: p.gain), wins=False),
    )
    return made


def without_pictures(made: Page) -> Page:
    """The same with each chart in words: for Markdown that travels alone."""
    parts: list[Part] = []
    for part in made.parts:
        parts += [Text(f"{part.title}: {part.summary}.")] if isinstance(part, Chart) else [part]
    return replace(made, parts=parts)


def _who_judged(found: Evaluation) -> list[Part]:
    parts: list[Part] = []
    if found.judge is not None:
        note = f" Mind: {found.judge.note}." if found.judge.note else ""
        parts.append(
            Text(
                f"Judged by the reward model {found.judge.version}, which is right in "
                f"{found.judge.held_out_correct or 0:g} of {found.judge.held_out_pairs or 0} "
                f"held-out comparisons of people.{note}"
            )
        )
    parts.append(Text(_second_words(found.second)))
    if found.note:
        parts.append(Text(found.note))
    return parts


def _second_words(second: Second | None) -> str:
    if second is None:
        return "There is no second judge: nobody but the reward model compared the answers."
    people = f"right in {second.correct:g} of {second.pairs}" if second.pairs else "not tried"
    agreement = f"{_percent(second.agreement)} of" if second.agreement else "none of"
    consistent = "-" if second.consistent is None else f"{second.consistent:.0%}"
    return (
        f"Second judge: {second.name}, on people's held-out comparisons {people}. It says the same "
        f"in both orders of {consistent} of pairs, and the same as the reward model in "
        f"{agreement} pairs in which both name a winner."
    )


def _win_rates(found: Evaluation) -> list[Part]:
    rates = {"reward model": found.win_rate, "on strangers' prompts": found.strangers}
    if found.second is not None:
        rates[found.second.name] = found.second.win_rate
    known = {name: rate for name, rate in rates.items() if rate is not None}
    if not known:
        return []
    rows: list[list[object]] = [[name, _percent(rate), rate.n] for name, rate in known.items()]
    rows.append(
        ["wins, ties, losses", f"{found.wins}, {found.ties}, {found.losses}", len(found.keys)]
    )
    return [
        Heading("Win rate"),
        table(["by", "of the candidate", "prompts"], rows),
        bar_chart(
            "Win rate of the candidate, with 95% interval (0.5: as good as stable)",
            {name: rate.rate for name, rate in known.items()},
            y_label="win rate",
            intervals={name: (rate.low, rate.high) for name, rate in known.items()},
        ),
    ]


def _checks(checks: Sequence[Check]) -> Part:
    rows = [
        [
            check.name,
            "not measured" if check.value is None else check.value,
            check.threshold,
            "-" if check.p is None else f"{check.p:.2g}",
            "yes" if check.passed else "NO",
            check.why,
        ]
        for check in checks
    ]
    return table(["check", "measured", "asked for", "p", "passed", "why"], rows)


def _golden(found: Evaluation) -> list[Part]:
    golden = found.golden
    if golden is None:
        return []
    rows: list[list[object]] = [
        ["items", golden.items],
        ["passed by stable", golden.stable_passed],
        ["passed by the candidate", golden.candidate_passed],
        ["lost", ", ".join(golden.regressions) or "-"],
        ["gained", ", ".join(golden.gains) or "-"],
        ["flaky", ", ".join(golden.flaky) or "-"],
        ["not measured", "; ".join(golden.unmeasured) or "-"],
    ]
    return [Heading(f"Golden set, each item {golden.repeats} times"), table(["", ""], rows)]


def _distributions(found: Evaluation) -> list[Part]:
    parts: list[Part] = []
    for title, x_label, sides in (
        ("Length of answers", "words", found.words),
        ("Learned reward of answers", "reward", found.rewards),
    ):
        if len(sides) == 2 and sides[0]:
            named = {"candidate": sides[0], "stable": sides[1]}
            parts += [Heading(title), histogram(title, x_label, named)]
    return parts


def histogram(title: str, x_label: str, sides: Mapping[str, Sequence[float]]) -> Chart:
    """How many answers fall where, as a line for each side over common bins."""
    values = [v for side in sides.values() for v in side]
    edges = np.histogram_bin_edges(values, bins=BINS)
    centres = (edges[:-1] + edges[1:]) / 2
    lines = {
        name: list(zip(centres.tolist(), np.histogram(side, edges)[0].tolist(), strict=True))
        for name, side in sides.items()
    }
    drawn = line_chart(title, lines, x_label=x_label, y_label="answers")
    middles = ", ".join(f"{name} {float(np.median(side)):.3g}" for name, side in sides.items())
    return replace(drawn, summary=f"in the middle {middles} {x_label}")


def _examples(title: str, ranked: Sequence[Pair], *, wins: bool) -> list[Part]:
    """The first of `ranked` that are wins, or losses."""
    chosen = [p for p in ranked if (p.gain > 0 if wins else p.gain < 0)][:SHOWN]
    if not chosen:
        return []
    rows = [
        [
            f"{pair.gain:+.2f}",
            _short(prompt_text(pair.prompt)),
            _short(pair.candidate),
            _short(pair.stable),
        ]
        for pair in chosen
    ]
    return [Heading(title), table(["reward", "prompt", "candidate", "stable"], rows)]


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def _percent(rate: Estimate) -> str:
    return f"{rate.rate:.0%} [{rate.low:.0%}, {rate.high:.0%}]"
