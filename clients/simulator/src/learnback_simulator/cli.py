"""`learnback-simulate`: let people loose on a server."""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict

import click
import httpx

from learnback_simulator.http import Server, ServerRefused
from learnback_simulator.load import PreferenceError, load_preference
from learnback_simulator.people import crowd
from learnback_simulator.prompts import split_prompts
from learnback_simulator.session import Counts, chat_and_compare

PROBABILITY = click.FloatRange(0, 1)


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--inference", default="http://127.0.0.1:8000", help="Base URL of the inference API.")
@click.option("--feedback", default="http://127.0.0.1:8001", help="Base URL of the feedback API.")
@click.option("--api-key", envvar="LEARNBACK_API_KEY", default=None, help="If the server asks.")
@click.option("--preference", default="brief", help="A name, or a FILE.py with score().")
@click.option("--people", "people_count", default=16, type=click.IntRange(1))
@click.option("--prompts", "prompt_count", default=100, type=click.IntRange(1))
@click.option("--error-rate", default=0.1, type=PROBABILITY)
@click.option("--position-bias", default=0.0, type=PROBABILITY)
@click.option("--laziness", default=0.0, type=PROBABILITY)
@click.option("--max-tokens", default=40, type=click.IntRange(1))
@click.option("--seed", default=0)
@click.option("--json", "as_json", is_flag=True, help="Answer as JSON.")
def main(
    inference: str,
    feedback: str,
    api_key: str | None,
    preference: str,
    people_count: int,
    prompt_count: int,
    max_tokens: int,
    seed: int,
    as_json: bool,
    **habits: float,
) -> None:
    """Simulated people ask, compare two answers, and say which one they like better."""

    async def run() -> Counts:
        people = crowd(people_count, load_preference(preference, seed), seed=seed, **habits)
        prompts = split_prompts(seed).train[:prompt_count]
        server = Server(inference, feedback, api_key)
        try:
            return await chat_and_compare(
                server, people, prompts, max_tokens=max_tokens, seed=seed, progress=_show
            )
        finally:
            await server.close()

    try:
        counts = asyncio.run(run())
    except (PreferenceError, ServerRefused, httpx.TransportError, ExceptionGroup) as error:
        raise click.ClickException(str(_first(error))) from error
    click.echo(json.dumps(asdict(counts)) if as_json else f"\r{_line(counts)}")


def _first(error: Exception) -> Exception:
    """Of a task group's errors the first; a bug passes as it is."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    if not isinstance(error, PreferenceError | ServerRefused | httpx.TransportError):
        raise error
    return error


def _show(counts: Counts) -> None:
    click.echo(f"\r{_line(counts)}", nl=False, err=True)


def _line(counts: Counts) -> str:
    return f"{counts.asked} prompts, {counts.preferences} preferences, {counts.tokens} tokens"
