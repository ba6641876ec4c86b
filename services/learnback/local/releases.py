"""`learnback releases`: which versions there are, a version's story, and what served when."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from learnback.core.report import Page
from learnback.local.access import actor, run, time_of
from learnback.local.show import show_json, show_table
from learnback.release import asking, reporting, story
from learnback.release.schemas import Releases, ServedAt, Story


def run_releases(home: Path | None, as_json: bool, at: str | None) -> None:
    """List all versions, or say what served at a moment."""
    if at is not None:
        _show_served(run(home, lambda o: story.served_at(o.database, time_of(at, "--at"))), as_json)
        return
    found: Releases = run(home, lambda opened: story.list_releases(opened.database, {}))
    if as_json:
        show_json(found)
        return
    show_table(
        "Releases",
        ["version", "kind", "phase", "share", "verdict", "created"],
        [
            [v.name, v.kind, v.phase, f"{v.weight:.0%}", v.verdict, v.created_at]
            for v in found.versions
        ],
    )


def run_show(home: Path | None, as_json: bool, version: str) -> None:
    """Tell a version's whole story."""
    told: Story = run(home, lambda opened: story.tell(opened.database, version))
    if as_json:
        show_json(told)
        return
    made = told.version
    rows: list[list[Any]] = [
        ["phase", told.phase],
        ["answers", f"{told.weight:.0%} of people"],
        ["verdict", told.verdict],
        *([["", reason] for reason in told.reasons]),
        ["made from", " <- ".join(told.parents) or made.base],
        ["dataset", made.dataset_fingerprint],
        ["run", f"{told.run.id} ({told.run.method}, seed {told.run.seed})" if told.run else None],
        ["reward model", made.reward_model],
        ["asked for by", _said(told.release.asked_by, told.release.asked_reason)],
        ["approved by", made.approved_by],
        *([["files", "removed by garbage collection"]] if made.deleted else []),
    ]
    show_table(f"Version {made.name}", ["", ""], rows)
    _show_gate(made.gate_report or {})
    _show_way(told)


def run_report(home: Path | None, as_json: bool, version: str, out: Path | None) -> None:
    """Write the report of an evaluation: HTML or Markdown by the file's name, or Markdown here."""
    if as_json:
        told: Story = run(home, lambda opened: story.tell(opened.database, version))
        show_json(told.version.gate_report)
        return
    found: Page = run(home, lambda opened: reporting.read(opened.database, version))
    if out is None:
        click.echo(reporting.without_pictures(found).markdown())
        return
    if out.suffix == ".html":
        out.write_text(found.html(), encoding="utf-8")
    else:
        out.write_text(reporting.without_pictures(found).markdown(), encoding="utf-8")
    click.echo(f"The report of {version} is in {out}.")


def run_ask(home: Path | None, as_json: bool, version: str, reason: str) -> None:
    """Ask for a version."""
    run(home, lambda opened: asking.ask(opened.database, version, actor(), reason))
    _told(home, as_json, version)


def run_approve(home: Path | None, as_json: bool, version: str, reason: str, yes: bool) -> None:
    """Say yes or no to the step that a version waits for."""
    run(
        home,
        lambda opened: asking.approve(opened.database, version, actor(), reason, approved=yes),
    )
    _told(home, as_json, version)


def _told(home: Path | None, as_json: bool, version: str) -> None:
    told: Story = run(home, lambda opened: story.tell(opened.database, version))
    if as_json:
        show_json(told)
    else:
        click.echo(f"{version}: {told.phase}")


def _show_gate(report: dict[str, Any]) -> None:
    show_table(
        "Gate",
        ["check", "measured", "asked for", "passed", "why"],
        [
            [c["name"], _short(c["value"]), c["threshold"], c["passed"], c["why"]]
            for c in report.get("checks", [])
        ],
    )


def _show_way(told: Story) -> None:
    show_table(
        "Looks at the canary" + (f" ({told.earlier_looks} earlier)" if told.earlier_looks else ""),
        ["", "at", "share", "verdict", "reason"],
        [[k.number, k.at, f"{k.weight:.0%}", k.verdict, k.reason] for k in told.looks],
    )
    show_table(
        "Approvals",
        ["step", "approved", "by", "at", "reason"],
        [[a.step, a.approved, a.by, a.at, a.reason] for a in told.release.approvals],
    )
    show_table(
        "Moves",
        ["alias", "at", "version", "share", "by", "reason"],
        [[m.alias, m.at, m.version, f"{m.weight:.0%}", m.actor, m.reason] for m in told.history],
    )


def _show_served(found: ServedAt, as_json: bool) -> None:
    if as_json:
        show_json(found)
        return
    moves = [m for m in (found.stable, found.candidate) if m is not None and m.version]
    show_table(
        f"Served at {found.at.isoformat()}",
        ["alias", "version", "share", "since", "by", "reason"],
        [[m.alias, m.version, f"{m.weight:.0%}", m.at, m.actor, m.reason] for m in moves],
    )


def _said(who: str | None, why: str | None) -> str | None:
    return f"{who}: {why}" if who else None


def _short(value: float | None) -> str | None:
    return None if value is None else f"{value:.3g}"
