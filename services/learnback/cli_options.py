"""What the command line's verbs share; imports nothing heavy."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import click


def errors_shown(command: Callable[..., Any]) -> Callable[..., Any]:
    """Show our own errors as one line and exit with 1."""

    @wraps(command)
    def shown(*args: Any, **kwargs: Any) -> Any:
        from learnback.core.errors import LearnbackError

        try:
            return command(*args, **kwargs)
        except LearnbackError as error:
            raise click.ClickException(error.detail) from error

    return shown


def operator(group: click.Group, name: str | None = None) -> Callable[..., Any]:
    """An operator's command: `--home`, `--json`, our errors in one line."""

    def decorate(function: Callable[..., Any]) -> click.Command:
        options = [
            click.option(
                "--home",
                type=click.Path(path_type=Path),
                default=None,
                help="Folder of the platform (default: LEARNBACK_HOME, else .learnback).",
            ),
            click.option("--json", "as_json", is_flag=True, help="Answer as JSON."),
        ]
        shown = errors_shown(function)
        for option in options:
            shown = option(shown)
        return group.command(name)(shown)

    return decorate
