"""`learnback prompts`: make a prompt strategy a version, and look at one."""

from __future__ import annotations

import asyncio
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from pydantic import ValidationError
from sqlalchemy.ext.asyncio import AsyncConnection

from learnback.contracts.messages import ModelTrained
from learnback.contracts.models import Alias, VersionKind
from learnback.contracts.streams import MODELS
from learnback.core.bus import publish
from learnback.core.clock import now
from learnback.core.errors import NotFound, Unprocessable
from learnback.ledger import training
from learnback.ledger.canaries import learned_rewards
from learnback.local.access import Access, actor, run
from learnback.local.show import show_json, show_table
from learnback.models import example_bank
from learnback.models.strategy import SHOWS_EXAMPLES, Strategy
from learnback.registry import store
from learnback.registry.artifacts import ArtifactStore, digest_folder
from learnback.registry.store import ModelVersion
from learnback.release import asking
from learnback.retraining import strategies
from learnback.retraining.datasets.examining import examine
from learnback.retraining.datasets.split import Shares
from learnback.retraining.settings import FilterSettings, RetrainingSettings
from learnback.retraining.strategies import Bounds, Built

SHOWN = 20
"""Examples in a table; `--json` gives all."""


@dataclass(frozen=True)
class Wanted:
    """A strategy as asked for; `on` is the version whose weights answer (default: the stable
    one's)."""

    strategy: dict[str, Any]
    bounds: Bounds
    reason: str
    on: str | None = None
    dry_run: bool = False


def wanted(
    *,
    name: str,
    examples_file: Path | None,
    min_votes: int,
    shared: tuple[str, ...],
    reason: str,
    on: str | None,
    dry_run: bool,
    **parts: Any,
) -> Wanted:
    """What the command line asks for; `parts` are the strategy's own fields."""
    strategy = {"strategy": name, **parts}
    if examples_file is not None:
        try:
            strategy["examples"] = json.loads(examples_file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise Unprocessable(f"{examples_file} is no JSON: {error}") from error
    bounds = Bounds(min_votes=min_votes, shared=frozenset(shared))
    return Wanted(strategy, bounds, reason, on, dry_run)


def run_create(home: Path | None, as_json: bool, wanted: Wanted) -> None:
    """Make the version, register it and ask for its release."""
    version, built = run(home, lambda opened: _create(opened, wanted))
    answer = {
        "version": version.name,
        "config": version.config,
        "parent": version.parent,
        "registered": not wanted.dry_run,
        **version.metrics,
    }
    if as_json:
        show_json(answer)
        return
    if built is not None:
        _show_built(built)
    done = "would be" if wanted.dry_run else "is registered, and its release is asked for"
    click.echo(f"{version.name} {done}.")


def run_show(home: Path | None, as_json: bool, version: str) -> None:
    """Show a prompt version with its examples."""
    found, bank = run(home, lambda opened: _read(opened, version))
    entries = bank.entries if bank else ()
    if as_json:
        show_json({"version": found, "examples": [_as_json(entry) for entry in entries]})
        return
    rows = [[name, json.dumps(value)] for name, value in found.config.items()]
    show_table(f"Version {found.name}", ["", ""], [["on", found.parent], *rows])
    show_table(
        f"{min(SHOWN, len(entries))} of {len(entries)} examples",
        ["id", "tenant", "quality", "prompt", "answer", "signals"],
        [
            [e.id, e.tenant, e.quality, e.user[:60], e.answer[:60], len(e.feedback_ids)]
            for e in sorted(entries, key=lambda e: -e.quality)[:SHOWN]
        ],
    )


async def _create(opened: Access, wanted: Wanted) -> tuple[ModelVersion, Built | None]:
    async with opened.database.read() as connection:
        base, parent = await _stand_on(connection, wanted.on)
    _check(wanted.strategy)
    built = None
    with tempfile.TemporaryDirectory(prefix="learnback-bank-") as name:
        folder, asked = Path(name), dict(wanted.strategy)
        if asked["strategy"] in SHOWS_EXAMPLES and not asked.get("examples"):
            built = await _build(opened, base.base_digest, wanted.bounds)
            asked["bank"] = await asyncio.to_thread(_write, built, folder)
        version = strategies.version_of(
            Strategy.model_validate(asked), base, parent=parent, built=built
        )
        if not wanted.dry_run:
            if built is not None:
                artifacts = ArtifactStore(opened.settings.artifact_root)
                await asyncio.to_thread(artifacts.put, folder, version.name)
            await _register(opened, version, wanted.reason)
    return version, built


def _check(asked: dict[str, Any]) -> None:
    """Raises Unprocessable for what is no strategy, before anything is built."""
    pending = {"bank": "pending"} if asked["strategy"] in SHOWS_EXAMPLES else {}
    try:
        Strategy.model_validate(asked | pending)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise Unprocessable(f"{where or asked['strategy']}: {first['msg']}") from error


async def _stand_on(connection: AsyncConnection, on: str | None) -> tuple[ModelVersion, str]:
    """The base, and the version whose weights answer: an adapter or the base itself."""
    name = on or (await store.alias_state(connection, Alias.STABLE)).version
    if name is None:
        raise NotFound("Nothing is served yet, so there is nothing to prompt: start inference.")
    found = await store.get(connection, name)
    if found.kind is VersionKind.PROMPT and found.parent:
        found = await store.get(connection, found.parent)
    if found.kind not in {VersionKind.ADAPTER, VersionKind.BASE}:
        raise Unprocessable(f"{found.name} has no weights that could be prompted.", field="--on")
    return found, found.name


async def _build(opened: Access, base_digest: str, bounds: Bounds) -> Built:
    async with opened.database.read() as connection:
        signals = await training.signals(connection)
        ids = sorted({s.completion.id for s in signals if s.completion is not None})
        judge = (await store.alias_state(connection, Alias.REWARD)).version
        rewards = await learned_rewards(connection, ids)
    scores = {(i, 0): score for i, (by, score) in rewards.items() if by == judge}
    shares = Shares(opened.settings.held_out_share, RetrainingSettings().held_out_raters)

    def work() -> Built:
        examined = examine(signals, base_digest, shares, FilterSettings())
        return strategies.build(examined, signals, scores, bounds)

    built = await asyncio.to_thread(work)
    if not built.bank.entries:
        seen = f"{len(signals)} signals were looked at"
        raise Unprocessable(
            f"There is no answer yet that could be an example: {seen}, {built.left_out or 'none'} "
            "of them well rated and left out. Corrections, preferences, thumbs and ratings make "
            "some; `--min-votes 1` asks for the least."
        )
    return built


def _write(built: Built, folder: Path) -> str:
    example_bank.save(built.bank, folder)
    return digest_folder(folder)


async def _register(opened: Access, version: ModelVersion, reason: str) -> None:
    """Enter it, ask for its release, and say so; all of it may be repeated."""
    async with opened.database.write() as connection:
        judge = (await store.alias_state(connection, Alias.REWARD)).version
        await store.register(connection, version.model_copy(update={"reward_model": judge}))
    await asking.ask(opened.database, version.name, actor(), reason)
    told = ModelTrained(version=version.name, kind=version.kind, run_id="", at=now())
    await publish(opened.redis, MODELS, [told])


async def _read(opened: Access, name: str) -> tuple[ModelVersion, example_bank.Bank | None]:
    async with opened.database.read() as connection:
        version = await store.get(connection, name)
    if version.kind is not VersionKind.PROMPT:
        raise Unprocessable(f"{name} is no prompt version.", field="version")
    if version.artifact is None or version.artifact_digest is None:
        return version, None
    artifacts = ArtifactStore(opened.settings.artifact_root)
    cache = opened.settings.home / "cache" / "adapters"
    folder = await asyncio.to_thread(
        artifacts.fetch, version.artifact, version.artifact_digest, cache
    )
    try:
        return version, example_bank.load(folder)
    except ValueError as error:
        raise Unprocessable(f"{name}: {error}", field="version") from error


def _show_built(built: Built) -> None:
    counts = [["entries", len(built.bank.entries)], *sorted(built.left_out.items())]
    show_table("Example bank", ["", "answers"], [list(row) for row in counts])


def _as_json(entry: example_bank.Entry) -> dict[str, Any]:
    return {name: getattr(entry, name) for name in entry.__struct_fields__}
