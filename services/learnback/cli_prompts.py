"""`learnback prompts`: strategies as versions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from learnback.cli_options import operator


@click.group()
def prompts() -> None:
    """Prompt strategies: versions that change the prompt instead of the weights."""


@operator(prompts, "create")
@click.option(
    *("--strategy", "name"),
    type=click.Choice(["zero_shot", "few_shot", "zero_shot_cot", "chain_of_thought"]),
    required=True,
    help="few_shot and chain_of_thought show the best-rated answers.",
)
@click.option("--system", default="", help="Text before the caller's own system text.")
@click.option("--wording", "suffix", default="", help="Text after the user's last words.")
@click.option(
    *("--examples", "examples_file"),
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help='Show these instead: JSON, [{"user": ..., "assistant": ...}].',
)
@click.option("--max-examples", type=int, default=4, show_default=True, help="In one prompt.")
@click.option("--max-example-bytes", type=int, default=4000, show_default=True, help="In one.")
@click.option("--reward-weight", type=float, default=0.3, show_default=True, help="0: likeness.")
@click.option("--min-votes", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--share-tenant", "shared", multiple=True, help="Its examples are for all tenants.")
@click.option("--on", default=None, help="Version whose weights answer (default: the stable one).")
@click.option("--reason", default="made by an operator", show_default=True)
@click.option("--dry-run", is_flag=True, help="Say what would be made.")
def create_prompts(home: Path | None, as_json: bool, **options: Any) -> None:
    """Make a strategy a version and ask for its release: gate and canary judge it like any other.

    Signals are not used up: they wait on for a training run.
    """
    from learnback.local.prompts import run_create, wanted

    run_create(home, as_json, wanted(**options))


@operator(prompts, "show")
@click.argument("version")
def show_prompts(home: Path | None, as_json: bool, version: str) -> None:
    """Show VERSION: its strategy, and its best examples with who they are from."""
    from learnback.local.prompts import run_show

    run_show(home, as_json, version)
