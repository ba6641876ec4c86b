"""What the operator's verbs on training do: ask for a run, see it before it starts, read its
report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from learnback.local.access import ask, read_page
from learnback.local.show import show_json, show_table


def run_train(
    home: Path | None,
    as_json: bool,
    *,
    reason: str,
    seed: int | None,
    method: str | None,
    dry_run: bool,
    url: str | None,
) -> None:
    """Ask the retraining process for a run, or only what it would be: the process at `url`, else
    that of this machine."""
    if dry_run:
        named = f"?method={method}" if method else ""
        plan = ask(home, "retraining", "GET", f"/admin/v1/runs/plan{named}", base=url)
        _show_plan(plan, as_json)
        return
    body = {"reason": reason, "seed": seed, "method": method}
    body = {name: value for name, value in body.items() if value is not None}
    answer = ask(home, "retraining", "POST", "/admin/v1/runs", body, base=url)
    if as_json:
        show_json(answer)
    else:
        click.echo(f"Run {answer['id']} is {answer['state']}.")


def _show_plan(plan: dict[str, Any], as_json: bool) -> None:
    if as_json:
        show_json(plan)
        return
    if plan["method"] is None or plan["refused"]:
        click.echo(f"No run would start: {plan['refused']}.")
    else:
        click.echo(f"The next run: {plan['method']}, since {plan['reason']}.")
        click.echo(_size(plan))
    show_table("Signals that wait", ["kind", "signals"], sorted(plan["waiting"].items()))
    show_table(
        "Rows, after the filters",
        ["shape", "to train on", "held out"],
        [[name, rows["train"], rows["held_out"]] for name, rows in plan["rows"].items()],
    )
    show_table(
        "What becomes of all signals", ["outcome", "signals"], sorted(plan["signals"].items())
    )
    if left_out := sorted(plan["prompts_left_out"].items()):
        show_table("Prompts that no policy is asked", ["reason", "prompts"], left_out)
    show_table("Why not another method", ["method", "reason"], list(plan["others"].items()))
    show_table(
        "How far raters agree",
        ["of", "items", "pairwise", "alpha"],
        [[name, a["items"], a["pairwise"], a["alpha"]] for name, a in plan["agreement"].items()],
    )


def _size(plan: dict[str, Any]) -> str:
    """How much it learns from, and how long that takes."""
    known = plan["seconds"]
    time = f"about {known:.0f} s, as in {plan['seconds_as_in']}" if known else "time unknown yet"
    return f"{plan['new_signals']} new signals; {plan['steps']} steps; {time}."


def run_list_runs(home: Path | None, as_json: bool, url: str | None) -> None:
    """List training runs, newest first."""
    found = ask(home, "retraining", "GET", "/admin/v1/runs", base=url)
    if as_json:
        show_json(found)
        return
    show_table(
        "Training runs",
        ["run", "method", "state", "reason", "version"],
        [[r["id"], r["method"], r["state"], r["reason"], r["version"]] for r in found["runs"]],
    )
    click.echo(f"The next one: {found['waiting_for']}.")


def run_report(
    home: Path | None, as_json: bool, *, run_id: str, out: Path | None, url: str | None
) -> None:
    """Print a run's report as Markdown, or write it as HTML into a file."""
    form = "md" if out is None else "html"
    path = f"/admin/v1/runs/{run_id}/report?format={form}"
    page = read_page(home, "retraining", path, base=url)
    if out is not None:
        out.write_text(page, encoding="utf-8")
    if as_json:
        show_json({"run": run_id, "report": page if out is None else out})
    else:
        click.echo(page if out is None else f"The report of {run_id} is in {out}.")
