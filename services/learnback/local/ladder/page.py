"""The ladder on one page: a table, two pictures, and what the rungs said."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from learnback.core.report import Heading, Page, Text, bar_chart, line_chart, table
from learnback.local.ladder.curve import Curve
from learnback.local.ladder.measure import Rung
from learnback.local.ladder.tasks import KINDS

COLUMNS = (
    "rung", "win rate", "95 % interval", "tokens an answer", "KL, nats an answer", "signals",
    "seconds to make", "seconds an answer", *(f"{kind} solved" for kind in KINDS),
)  # fmt: skip


@dataclass
class LadderResult:
    """Everything that was measured; `--json` writes it as it stands."""

    model: str
    preference: str
    seed: int
    budget_minutes: float
    machine: str
    command: str
    total_seconds: float = 0.0
    sizes: dict[str, int] = field(default_factory=dict)
    speed: dict[str, float] = field(default_factory=dict)
    labels: dict[str, int] = field(default_factory=dict)
    reward_model: dict[str, Any] = field(default_factory=dict)
    rungs: list[Rung] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    """Rungs that could not be made, with the reason."""
    curves: list[Curve] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    """By stage."""

    @property
    def named(self) -> set[str]:
        """The rungs that are measured."""
        return {rung.name for rung in self.rungs}

    @classmethod
    def from_json(cls, text: str) -> LadderResult:
        """As `asdict` and `json` wrote it."""
        read = json.loads(text)
        read["rungs"] = [Rung(**rung) for rung in read["rungs"]]
        read["curves"] = [Curve(**curve) for curve in read["curves"]]
        return cls(**read)


def page_of(result: LadderResult) -> Page:
    """The whole page."""
    page = Page(f"The ladder: {result.preference}")
    page.add(Text(_conditions(result)))
    page.add(table(COLUMNS, [row(rung) for rung in result.rungs]))
    page.add(*(Text(f"{name} could not be made: {why}") for name, why in result.failed.items()))
    page.add(Heading("The ladder"), _bars(result.rungs))
    if result.curves:
        page.add(Heading("Over-optimisation"), Text(_CURVE), _lines(result.curves))
    page.add(Heading("What they said"))
    asked = [example.partition("\n")[0] for example in result.rungs[0].examples]
    for number, prompt in enumerate(asked):
        rows = [(r.name, r.examples[number].partition("\n")[2]) for r in result.rungs]
        page.add(Text(prompt), table(("rung", "answer"), rows))
    return page


_CURVE = (
    "Each line is one run with a fixed beta, step by step, as running means over three steps. Both "
    "rewards are in standard deviations of the pretrained model's answers. Where the paid reward "
    "rises and the gold one falls, the policy has learned what the reward model gets wrong."
)


def _conditions(result: LadderResult) -> str:
    labels = ", ".join(f"{count} {name}" for name, count in result.labels.items())
    accuracy = result.reward_model.get("held_out_accuracy")
    judged = "not measured" if accuracy is None else f"{accuracy:.2f}"
    return (
        f"Model: {result.model}. Hidden preference: {result.preference}. Seed {result.seed}. "
        f"Budget {result.budget_minutes:g} minutes, used {result.total_seconds / 60:.1f}. Machine: "
        f"{result.machine}. Command: {result.command}. People said: {labels}. The learned reward "
        f"model agrees with held-out comparisons in {judged} of cases. Win rates are against the "
        f"pretrained model's answers to {result.sizes.get('measured_prompts', 0)} prompts that no "
        "method saw, by the hidden preference, without error; answers are sampled at temperature 1."
    )


def row(rung: Rung) -> tuple[object, ...]:
    """A rung under `COLUMNS`."""
    return (
        rung.name,
        f"{rung.win_rate:.2f}",
        f"{rung.low:.2f} to {rung.high:.2f}",
        f"{rung.length:.1f}",
        f"{rung.kl:.1f}",
        rung.signals,
        f"{rung.seconds:.0f}",
        f"{rung.answer_seconds:.2f}",
        *(f"{rung.tasks[kind]:.2f}" for kind in KINDS),
    )


def _bars(rungs: Sequence[Rung]) -> Any:
    return bar_chart(
        "Win rate against the pretrained model",
        {rung.name: rung.win_rate for rung in rungs},
        y_label="win rate",
        intervals={rung.name: (rung.low, rung.high) for rung in rungs},
    )


def _lines(curves: Sequence[Curve]) -> Any:
    lines = {f"{kind}, {curve.name}": getattr(curve, kind) for curve in curves for kind in _KINDS}
    return line_chart(
        "Paid and gold reward against the distance from the pretrained model",
        lines,
        x_label="square root of the KL (nats an answer)",
        y_label="standard deviations",
    )


_KINDS = ("gold", "paid")
