"""`learnback keys`: who may ask what."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from learnback.cli_options import operator

SCOPES = ["infer", "feedback", "release", "evaluate", "train", "admin"]
"""As in contracts.models.Scope, which takes too long to import here; a test compares."""


@click.group()
def keys() -> None:
    """Make, list and revoke API keys."""


def _of_key(command: Callable[..., Any]) -> Callable[..., Any]:
    """What a new key has, however it comes."""
    chosen = click.option(
        *("--scope", "scopes"),
        multiple=True,
        type=click.Choice(SCOPES),
        default=("infer", "feedback"),
        show_default=True,
    )
    return click.option("--tenant", default="default", show_default=True)(chosen(command))


@operator(keys, "create")
@click.argument("name")
@_of_key
@click.option(
    "--days", type=click.IntRange(min=1), default=None, help="Expires after so many days."
)
def create_key(home: Path | None, as_json: bool, **options: Any) -> None:
    """Make a key called NAME; it is shown once."""
    from learnback.local.operations import run_create_key

    run_create_key(home, as_json, **options)


@operator(keys, "import")
@click.argument("name")
@click.option(
    "--file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    required=True,
    help="Holds the key alone.",
)
@_of_key
def import_key(home: Path | None, as_json: bool, **options: Any) -> None:
    """Make the ledger know a key that was made elsewhere, called NAME. Safe to repeat."""
    from learnback.local.operations import run_import_key

    run_import_key(home, as_json, **options)


@operator(keys, "list")
def list_keys(home: Path | None, as_json: bool) -> None:
    """List all keys, without their secrets."""
    from learnback.local.operations import run_list_keys

    run_list_keys(home, as_json)


@operator(keys, "revoke")
@click.argument("key_id")
def revoke_key(home: Path | None, as_json: bool, key_id: str) -> None:
    """Revoke the key KEY_ID; every process knows within seconds."""
    from learnback.local.operations import run_revoke_key

    run_revoke_key(home, as_json, key_id)
