"""The command line's verbs on training: `train`, and `runs`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

Decorate = Callable[[Callable[..., Any]], click.Command]
METHODS = ("sft", "dpo", "kto", "reward_model", "rloo", "prompt")


def add_training_commands(main: click.Group, operator: Callable[..., Decorate]) -> None:
    """Add them to `main`; `operator` makes a function an operator's command."""
    url = click.option(
        "--url", default=None, help="Of the retraining process (default: the one here)."
    )

    @operator()
    @click.option("--reason", default="asked for by an operator", show_default=True)
    @click.option("--seed", type=int, default=None)
    @click.option(
        "--method",
        type=click.Choice(METHODS),
        default=None,
        help="Default: the one that fits what people said.",
    )
    @click.option("--dry-run", is_flag=True, help="Only show what the run would be, and why.")
    @url
    def train(home: Path | None, as_json: bool, **options: Any) -> None:
        """Ask for a training run now; the API key is that in LEARNBACK_API_KEY."""
        from learnback.local.training import run_train

        run_train(home, as_json, **options)

    @main.group()
    def runs() -> None:
        """Look at training runs."""

    @operator(group=runs, name="list")
    @url
    def list_runs(home: Path | None, as_json: bool, url: str | None) -> None:
        """List training runs, newest first, and what the next one waits for."""
        from learnback.local.training import run_list_runs

        run_list_runs(home, as_json, url)

    @operator(group=runs, name="report")
    @click.argument("run_id")
    @click.option("--out", type=click.Path(path_type=Path), default=None, help="Write HTML here.")
    @url
    def show_report(home: Path | None, as_json: bool, **options: Any) -> None:
        """Print the report of RUN_ID: curves, what was measured, answers before and after."""
        from learnback.local.training import run_report

        run_report(home, as_json, **options)
