"""`learnback gc`: remove files of versions that nobody needs."""

from __future__ import annotations

from pathlib import Path

import click

from learnback.local.access import Access, run
from learnback.local.show import show_json, show_table
from learnback.registry import garbage
from learnback.registry.artifacts import ArtifactStore
from learnback.registry.garbage import Collection
from learnback.registry.settings import RetentionSettings


def run_gc(home: Path | None, as_json: bool, dry_run: bool) -> None:
    """One pass, and what it did."""

    async def work(opened: Access) -> Collection:
        artifacts = ArtifactStore(opened.settings.artifact_root)
        return await garbage.collect(
            opened.database, artifacts, RetentionSettings(), dry_run=dry_run
        )

    found = run(home, work)
    if as_json:
        show_json(found)
        return
    rows = [
        *([name, "kept", why] for name, why in sorted(found.kept.items())),
        *([name, "marked", "nobody needs it"] for name in found.marked),
        *([name, "waiting", why] for name, why in sorted(found.waiting.items())),
        *([name, "removed", "its files are gone"] for name in found.removed),
        *([name, "removed", "an upload that never ended"] for name in found.abandoned),
        *([name, "left alone", "this ledger does not know it"] for name in found.unknown),
    ]
    show_table("Files of versions and reports of runs", ["version or report", "", "why"], rows)
    if dry_run:
        click.echo("Nothing was changed: this was a dry run.")
