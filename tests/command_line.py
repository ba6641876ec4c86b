"""Whether the command line has a command, without running it."""

from __future__ import annotations

from typing import Any

import click


def parse(arguments: list[str], command: click.Command, parent: Any = None) -> None:
    """Raises click.UsageError for a command or an option that there is not."""
    existing = ["/dev/null" if a.startswith("/var/run/secrets/") else a for a in arguments]
    context = command.make_context("learnback", existing, parent=parent)
    rest = [*context._protected_args, *context.args]
    if isinstance(command, click.Group) and rest:
        name, inner, rest = command.resolve_command(context, rest)
        assert inner is not None, name
        parse(rest, inner, context)
