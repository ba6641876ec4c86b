"""`learnback train` and `learnback runs`: what trains, and what came of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from learnback.cli_options import operator

METHODS = ("sft", "dpo", "kto", "reward_model", "rloo", "prompt")
"""As in retraining.choice.Chosen, which takes too long to import here; a test compares."""
RETRAINING_URL = click.option(
    "--url", default=None, help="Of the retraining process (default: the one here)."
)


@click.group()
def training() -> None:
    """Its commands are those of `learnback` itself."""


@operator(training)
@click.option("--reason", default="asked for by an operator", show_default=True)
@click.option("--seed", type=int, default=None)
@click.option(
    "--method",
    type=click.Choice(METHODS),
    default=None,
    help="Default: the one that fits what people said.",
)
@click.option("--dry-run", is_flag=True, help="Only show what the run would be, and why.")
@RETRAINING_URL
def train(home: Path | None, as_json: bool, **options: Any) -> None:
    """Ask for a training run now; the API key is that in LEARNBACK_API_KEY."""
    from learnback.local.training import run_train

    run_train(home, as_json, **options)


@click.group()
def runs() -> None:
    """Look at training runs."""


@operator(runs, "list")
@RETRAINING_URL
def list_runs(home: Path | None, as_json: bool, url: str | None) -> None:
    """List training runs, newest first, and what the next one waits for."""
    from learnback.local.training import run_list_runs

    run_list_runs(home, as_json, url)


@operator(runs, "report")
@click.argument("run_id")
@click.option("--out", type=click.Path(path_type=Path), default=None, help="Write HTML here.")
@RETRAINING_URL
def show_report(home: Path | None, as_json: bool, **options: Any) -> None:
    """Print the report of RUN_ID: curves, what was measured, answers before and after."""
    from learnback.local.training import run_report

    run_report(home, as_json, **options)
