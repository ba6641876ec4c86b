"""`learnback`: one command per process, `up` and `demo` for one machine, and the operator's verbs.

Only click is imported before the arguments are parsed, so that `--help` answers at once.
Exit codes: 0 done, 1 failed, 2 wrong usage, 3 refused by the gate.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from learnback import __version__
from learnback.cli_keys import keys
from learnback.cli_options import errors_shown, operator
from learnback.cli_prompts import prompts
from learnback.cli_training import runs, train

PROCESSES = {
    "feedback": ("learnback.feedback.app", "Take in what people say; keep the ledger."),
    "reward": ("learnback.reward.app", "Score every completion."),
    "retraining": ("learnback.retraining.app", "Build datasets and train new versions."),
    "release": ("learnback.release.app", "Judge, promote and roll back versions."),
    "operator": ("learnback.operator.app", "Show releases as Kubernetes objects."),
}


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="learnback")
def main() -> None:
    """An OpenAI-compatible model server that learns from the people who use it."""


main.add_command(keys)
main.add_command(prompts)
main.add_command(runs)
main.add_command(train)


def _process_command(name: str, module: str, about: str) -> click.Command:
    @click.command(name, help=f"{about} Settings: LEARNBACK_{name.upper()}_* (docs/settings.md).")
    @errors_shown
    def run() -> None:
        importlib.import_module(module).main()

    return run


for _name, (_module, _about) in PROCESSES.items():
    main.add_command(_process_command(_name, _module, _about))


@main.command()
@click.option(
    "--engine-url",
    "engine_urls",
    multiple=True,
    metavar="URL[,URL]",
    help="Stand before this OpenAI-compatible server (vLLM, SGLang) instead of starting vLLM.",
)
@errors_shown
def inference(engine_urls: tuple[str, ...]) -> None:
    """Answer the OpenAI API with vLLM. Settings: LEARNBACK_INFERENCE_* (docs/settings.md)."""
    from learnback.inference.serve import main as serve

    serve(engine_urls)


def _operator(*, group: click.Group = main, name: str | None = None) -> Callable[..., Any]:
    return operator(group, name)


def _home(home: Path | None) -> Path:
    from learnback.core.settings import CommonSettings

    return home or CommonSettings().home


@main.command()
@click.option("--model", default=None, help="Folder or hub name (default: the demo's small model).")
@click.option(
    "--home", type=click.Path(path_type=Path), default=None, help="Folder to keep all in."
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8000, show_default=True, help="First of five ports.")
@errors_shown
def up(model: str | None, home: Path | None, host: str, port: int) -> None:
    """Run the whole platform on this machine until Ctrl-C."""
    import asyncio

    from rich.console import Console

    from learnback.core import logging
    from learnback.local.default_model import resolve_model
    from learnback.local.platform import Plan
    from learnback.local.up import up as run

    logging.configure("up", level="WARNING")
    console = Console()
    chosen = resolve_model(model, console)
    asyncio.run(run(Plan(_home(home), chosen, host, port), console))


@main.command()
@click.option("--preference", default="brief", show_default=True, help="A name, or a FILE.py.")
@click.option("--seed", default=0, show_default=True, help="Repeats people, prompts and training.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the result here.")
@click.option(
    "--home", type=click.Path(path_type=Path), default=None, help="Folder to keep all in."
)
@click.option("--model", default=None, help="Folder or hub name (default: SmolLM2-135M-Instruct).")
@click.option("--prompts", default=None, type=int, help="How many prompts people ask.")
@click.option("--list", "list_only", is_flag=True, help="List the preferences and end.")
@errors_shown
def demo(list_only: bool, **options: Any) -> None:
    """Close the loop before your eyes: people, feedback, training, gate, hot swap."""
    from learnback.local.demo import list_preferences, run_demo

    if list_only:
        for line in list_preferences():
            click.echo(line)
        return
    sys.exit(run_demo(**options))


@main.command()
@click.option(
    "--budget",
    default=60.0,
    show_default=True,
    type=click.FloatRange(min=0, min_open=True),
    metavar="MINUTES",
    help="Scales prompts and steps.",
)
@click.option("--seed", default=0, show_default=True, help="Repeats people, prompts and training.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the result here.")
@click.option("--preference", default="brief", show_default=True, help="A name, or a FILE.py.")
@click.option("--model", default=None, help="Folder or hub name (default: SmolLM2-135M-Instruct).")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("ladder"),
    show_default=True,
    help="Folder for the page, the pictures and the runs.",
)
@click.option("--resume", is_flag=True, help="Go on where the ladder in --out was ended.")
@errors_shown
def ladder(**options: Any) -> None:
    """Measure how far prompts, SFT, DPO, KTO and RLOO get, by a judge that none of them sees."""
    from learnback.local.ladder.run import run_ladder

    sys.exit(run_ladder(**options))


@_operator()
def status(home: Path | None, as_json: bool) -> None:
    """Show versions, traffic, queue lags and counts."""
    from learnback.local.status import show_status

    show_status(home, as_json)


@_operator()
@click.option("--wait", "wait_s", type=click.FloatRange(min=0), default=0.0, metavar="SECONDS")
@click.option("--take-streams", is_flag=True, help="Also if they belong to another ledger.")
def migrate(home: Path | None, as_json: bool, wait_s: float, take_streams: bool) -> None:
    """Bring the ledger and the streams to this version. Safe to repeat.

    With --wait a database or a Redis that is away is waited for.
    """
    from learnback.local.operations import run_migrate

    run_migrate(home, as_json, wait_s, take_streams)


@main.command()
@click.option("--inference-url", default="http://127.0.0.1:8000", show_default=True)
@click.option("--feedback-url", default="http://127.0.0.1:8001", show_default=True)
@click.option("--model", default="learnback", show_default=True, help="The public model name.")
@click.option("--timeout", "timeout_s", type=click.FloatRange(min=1), default=120.0)
@click.option("--json", "as_json", is_flag=True, help="Answer as JSON.")
@errors_shown
def check(**options: Any) -> None:
    """Send one request and feedback for it, and wait for what becomes of both.

    Both are erased at the end, so that no model learns from them. The API key is that in
    LEARNBACK_API_KEY, with the scopes infer and feedback.
    """
    from learnback.local.check import run_check

    run_check(**options)


@main.group()
def streams() -> None:
    """Look after the queues between the processes."""


@_operator(group=streams, name="lag")
def stream_lag(home: Path | None, as_json: bool) -> None:
    """Show how far each consumer group is behind."""
    from learnback.local.operations import run_lag

    run_lag(home, as_json)


@_operator(group=streams, name="dead")
@click.argument("stream")
def stream_dead(home: Path | None, as_json: bool, stream: str) -> None:
    """List the dead letters of STREAM with their reasons."""
    from learnback.local.operations import run_dead

    run_dead(home, as_json, stream)


@_operator(group=streams, name="replay")
@click.argument("stream")
@click.option("--id", "letter_id", default=None, help="Only this dead letter.")
def stream_replay(home: Path | None, as_json: bool, stream: str, letter_id: str | None) -> None:
    """Put the dead letters of STREAM back for the group that failed on them."""
    from learnback.local.operations import run_replay

    run_replay(home, as_json, stream, letter_id)


@main.command("reward-engine", context_settings={"ignore_unknown_options": True})
@click.option("--model", default=None, help="Folder or hub name (default: LEARNBACK_MODEL).")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8010, show_default=True, help="TCP port.")
@click.option("--max-rank", default=16, show_default=True, help="Highest rank of an adapter.")
@click.argument("more", nargs=-1, type=click.UNPROCESSED, metavar="[VLLM_OPTIONS]...")
@errors_shown
def reward_engine(model: str | None, host: str, port: int, max_rank: int, more: Any) -> None:
    """Serve neural reward models with vLLM; LEARNBACK_REWARD_ENGINE_URL names it to `reward`."""
    from learnback.reward.engine import run

    run(model, host, port, max_rank, more)


@main.group()
def rewards() -> None:
    """Look after the scores of answers."""


@_operator(group=rewards, name="rescore")
@click.option("--version", default=None, help="Of the reward model (default: the one in use).")
@click.option("--since", default=None, help="Only answers from then on (2026-11-23T12:00:00Z).")
@click.option("--wait/--no-wait", default=True, help="Stay until all scores are recorded.")
def rescore(
    home: Path | None, as_json: bool, version: str | None, since: str | None, wait: bool
) -> None:
    """Let the reward model score recorded answers that it has not scored. Safe to repeat."""
    from learnback.local.rewards import run_rescore

    run_rescore(home, as_json, version, since, wait)


@_operator(group=rewards, name="rescorings")
def rescorings(home: Path | None, as_json: bool) -> None:
    """List what was asked for, by operators and by datasets, and how far it is."""
    from learnback.local.rewards import run_rescorings

    run_rescorings(home, as_json)


@_operator()
@click.argument("version")
@click.option("--reason", required=True, help="Kept in the history.")
@click.option("--force", is_flag=True, help="Though the gate refused it, or some replica lacks it.")
def promote(home: Path | None, as_json: bool, version: str, reason: str, force: bool) -> None:
    """Let VERSION answer everybody."""
    from learnback.local.operations import run_promote

    run_promote(home, as_json, version, reason, force)


@_operator()
@click.option("--to", "to", default=None, help="Version to go back to (default: the one before).")
@click.option("--reason", required=True, help="Kept in the history.")
def rollback(home: Path | None, as_json: bool, to: str | None, reason: str) -> None:
    """Go back to the version that answered before."""
    from learnback.local.operations import run_rollback

    run_rollback(home, as_json, to, reason)


@_operator()
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
def gc(home: Path | None, as_json: bool, dry_run: bool) -> None:
    """Remove files of versions that nobody needs (LEARNBACK_RETENTION_*); history stays."""
    from learnback.local.garbage import run_gc

    run_gc(home, as_json, dry_run)


@main.group(invoke_without_command=True)
@click.option("--at", default=None, help="What answered people then (2026-11-23T12:00:00Z).")
@click.option("--home", type=click.Path(path_type=Path), default=None, help="Folder to look in.")
@click.option("--json", "as_json", is_flag=True, help="Answer as JSON.")
@click.pass_context
@errors_shown
def releases(context: click.Context, home: Path | None, as_json: bool, at: str | None) -> None:
    """List versions and their way to people; show one, ask for one, approve one."""
    if context.invoked_subcommand is None:
        from learnback.local.releases import run_releases

        run_releases(home, as_json, at)


@_operator(group=releases, name="show")
@click.argument("version")
def show_release(home: Path | None, as_json: bool, version: str) -> None:
    """Tell the whole story of VERSION: data, run, gate, each look, who approved."""
    from learnback.local.releases import run_show

    run_show(home, as_json, version)


@_operator(group=releases, name="report")
@click.argument("version")
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    default=None,
    help="File to write: .html with pictures, else Markdown (default: Markdown on the screen).",
)
def report_release(home: Path | None, as_json: bool, version: str, out: Path | None) -> None:
    """Show how VERSION was evaluated: win rate, guards, golden set, largest wins and losses."""
    from learnback.local.releases import run_report

    run_report(home, as_json, version, out)


@_operator(group=releases, name="ask")
@click.argument("version")
@click.option("--reason", required=True, help="Kept with the version.")
def ask_release(home: Path | None, as_json: bool, version: str, reason: str) -> None:
    """Ask for VERSION: it is evaluated before all others, also if it was refused before."""
    from learnback.local.releases import run_ask

    run_ask(home, as_json, version, reason)


@_operator(group=releases, name="approve")
@click.argument("version")
@click.option("--reason", required=True, help="Kept with the version.")
@click.option("--no", "refuse", is_flag=True, help="Refuse it for good.")
def approve_release(
    home: Path | None, as_json: bool, version: str, reason: str, refuse: bool
) -> None:
    """Let VERSION take the step that it waits for."""
    from learnback.local.releases import run_approve

    run_approve(home, as_json, version, reason, not refuse)


if __name__ == "__main__":
    main()
