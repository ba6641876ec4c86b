"""The report of a run, for people: what it was, its curves, and ten answers before and after."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from learnback.core.report import Chart, Heading, Page, Text, line_chart, table
from learnback.retraining.plan import RunPlan, RunResult

if TYPE_CHECKING:
    from learnback.retraining.trainers.base import Trained

CURVES: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("Loss", "nats", ("loss",)),
    ("Reward", "reward", ("reward", "reward_margin", "chosen_reward", "rejected_reward")),
    ("Accuracy", "share", ("reward_accuracy",)),
    (
        "Log-probability of answers",
        "nats",
        ("answer_log_probability", "chosen_log_probability", "rejected_log_probability"),
    ),
    ("KL from the reference", "nats per token", ("distance_from_reference",)),
    ("KL from the base model", "nats per answer", ("kl", "kl_sampled")),
    ("Price of the KL", "reward per nat", ("beta",)),
    ("Held-out win rate", "share", ("held_out_win_rate",)),
    ("Sampler against trainer", "nats per token", ("mismatch",)),
    (
        "Length of answers",
        "tokens",
        ("answer_tokens", "chosen_tokens", "rejected_tokens"),
    ),
)
"""Title, unit and metrics of each chart; a run shows those that it has."""


def report_of(plan: RunPlan, result: RunResult, trained: Trained) -> Page:
    """The whole report."""
    page = Page(f"Training run {plan.run_id}")
    page.add(_summary(plan, result))
    page.add(Heading("Measured"), table(("metric", "value"), sorted(_measured(result).items())))
    if result.rows_skipped:
        page.add(Heading("Rows left out"))
        page.add(table(("reason", "rows"), sorted(result.rows_skipped.items())))
    page.add(Heading("Curves"), *curves(trained.history))
    page.add(*trained.parts)
    if trained.samples:
        page.add(Heading("Answers before and after"))
        page.add(Text("Greedy, by the base model and by the trained one."))
        page.add(table(("prompt", "before", "after"), trained.samples))
    page.add(Heading("Settings"))
    page.add(table(("setting", "value"), list(plan.hyperparameters.model_dump().items())))
    return page


def curves(history: Sequence[dict[str, float]]) -> list[Chart]:
    """A chart for each group of metrics that the steps have."""
    found = []
    for title, unit, names in CURVES:
        series = {
            name.replace("_", " "): [(e["step"], e[name]) for e in history if name in e]
            for name in names
            if any(name in entry for entry in history)
        }
        if series:
            found.append(line_chart(title, series, x_label="step", y_label=unit))
    return found


def _summary(plan: RunPlan, result: RunResult) -> Text:
    base = plan.base_model.rstrip("/").rpartition("/")[2]
    weights = "all weights" if plan.hyperparameters.adaptation == "full" else "an adapter"
    resumed = f", resumed at step {result.resumed_from_step}" if result.resumed_from_step else ""
    together = f", {result.processes} processes" if result.processes > 1 else ""
    return Text(
        f"{plan.method} trained {weights} of {base} on {result.rows_used} rows in {result.steps} "
        f"steps and {result.seconds:.0f} s{resumed}{together}; seed {plan.seed}. Metrics are means "
        f"over the last quarter of the steps. SHA-256 of the weights: {result.weights_sha256}."
    )


def _measured(result: RunResult) -> dict[str, float]:
    measured = dict(result.metrics)
    if result.distance_from_reference is not None:
        measured["distance_from_reference"] = result.distance_from_reference
    return measured
