"""`learnback rewards`: let a reward model score completions that it has not seen."""

from __future__ import annotations

import asyncio
from datetime import datetime
from pathlib import Path
from typing import Any

import click
from rich.progress import Progress, TaskID

from learnback.contracts.models import Alias, VersionKind
from learnback.core.clock import now
from learnback.core.errors import Conflict, LearnbackError, Unprocessable
from learnback.ledger import rescoring
from learnback.ledger.rescoring import OPEN, Rescoring
from learnback.local.access import Access, actor, run, time_of
from learnback.local.show import show_json, show_table
from learnback.registry import store

POLL_S = 0.5


class RescoringFailed(LearnbackError):
    """The reward process could not do it; the message says why."""

    code, title = "rescoring_failed", "Rescoring failed"


def run_rescore(
    home: Path | None, as_json: bool, version: str | None, since: str | None, wait: bool
) -> None:
    """Ask for scores, and show how far they are until all are recorded."""
    after = None if since is None else time_of(since, "--since")
    found = run(home, lambda opened: _rescore(opened, version, after, wait, quiet=as_json))
    if as_json:
        show_json(found)
    elif found["id"] is None:
        click.echo(f"Every completion has a score by {found['reward_model']}.")
    elif found["state"] in OPEN:
        click.echo(f"Asked for: {found['remaining']} completions. The reward process does it.")
    else:
        left = found["remaining"]
        more = f" {left} completions are not recorded: see `learnback streams lag`." if left else ""
        click.echo(f"{found['scored']} scored, {found['failed']} could not be.{more}")


def run_rescorings(home: Path | None, as_json: bool) -> None:
    """List what was asked for last, by operators and by datasets."""

    async def work(opened: Access) -> list[Rescoring]:
        async with opened.database.read() as connection:
            return await rescoring.newest(connection)

    found = run(home, work)
    if as_json:
        show_json(found)
        return
    show_table(
        "Rescorings",
        ["reward model", "since", "completions", "state", "scored", "failed", "asked by", "error"],
        [
            [
                *(r.reward_model, r.since, len(r.completion_ids or ()) or "all", r.state),
                *(r.scored, r.failed, r.asked_by, r.error),
            ]
            for r in found
        ],
    )


async def _rescore(
    opened: Access, version: str | None, since: datetime | None, wait: bool, *, quiet: bool
) -> dict[str, Any]:
    async with opened.database.write() as connection:
        name = await _reward_model(connection, version)
        wish = await rescoring.ask(connection, name, asked_by=actor(), since=since)
        left = await rescoring.remaining(connection, wish) if wish else 0
    if wish is not None and wait:
        wish, left = await _follow(opened, wish, left, quiet=quiet)
    shown = {name: getattr(wish, name, None) for name in ("id", "state")}
    counts = {name: getattr(wish, name, 0) for name in ("scored", "failed")}
    return {"reward_model": name, **shown, **counts, "remaining": left}


async def _reward_model(connection: Any, version: str | None) -> str:
    if version is None:
        in_use = (await store.alias_state(connection, Alias.REWARD)).version
        if in_use is None:
            raise Conflict("There is no reward model yet: the first training run fits one.")
        return in_use
    found = await store.get(connection, version)
    if found.kind is not VersionKind.REWARD_MODEL:
        raise Unprocessable(f"{version} is no reward model but of the kind {found.kind}.")
    return version


async def _follow(
    opened: Access, wish: Rescoring, total: int, *, quiet: bool
) -> tuple[Rescoring, int]:
    """Until it has ended and what was scored is recorded, or it has failed.

    What is not recorded long after the end is left to be seen by whoever reads the answer.
    """
    with Progress(disable=quiet, transient=True) as shown:
        bar = shown.add_task("scoring (Ctrl-C leaves it running)", total=total)
        while True:
            wish, left = await _look(opened, wish, shown, bar)
            if wish.state == "failed":
                raise RescoringFailed(f"{wish.reward_model} can't score: {wish.error}")
            late = now() - wish.changed_at > rescoring.RECORDED_WITHIN
            if wish.state == "done" and (left == 0 or late):
                return wish, left
            await asyncio.sleep(POLL_S)


async def _look(
    opened: Access, wish: Rescoring, shown: Progress, bar: TaskID
) -> tuple[Rescoring, int]:
    async with opened.database.read() as connection:
        wish = await rescoring.get(connection, wish.id) or wish
        left = await rescoring.remaining(connection, wish)
    total = shown.tasks[bar].total or 0
    shown.update(bar, completed=max(0.0, total - left))
    return wish, left
