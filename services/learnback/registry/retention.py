"""Which versions are needed, and by whom; pure. What is not needed may lose its files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from learnback.contracts.models import Alias, VersionKind, VersionState
from learnback.ledger.releases import Release
from learnback.ledger.runs import ENDED, Run
from learnback.registry.settings import RetentionSettings
from learnback.registry.store import AliasMove, AliasState, ModelVersion

UNDECIDED = frozenset({VersionState.REGISTERED, VersionState.PASSED})


@dataclass(frozen=True)
class Facts:
    """What the ledger says at one moment."""

    at: datetime
    versions: Sequence[ModelVersion]
    aliases: Sequence[AliasState] = ()
    moves: Sequence[AliasMove] = ()
    """Of all aliases, the newest first."""
    ways: Mapping[str, Release] = field(default_factory=dict)
    runs: Sequence[Run] = ()
    """Those that have not ended."""
    loaded: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """The replicas that have a version loaded, by its name."""


def collectable(facts: Facts, retention: RetentionSettings) -> list[str]:
    """The versions that have files and that nobody needs, by name."""
    kept = needed(facts, retention)
    return sorted(
        v.name for v in facts.versions if v.artifact and not v.deleted and v.name not in kept
    )


def needed(facts: Facts, retention: RetentionSettings) -> dict[str, str]:
    """Each version that is needed, with the first reason in words."""
    kept: dict[str, str] = {}
    for name, reason in _roots(facts, retention):
        kept.setdefault(name, reason)
    return _with_supports(kept, {v.name: v for v in facts.versions})


def why_report_stays(run: Run, facts: Facts, retention: RetentionSettings) -> str | None:
    """Why the report of a run is needed; None if nobody needs it.

    It stays as long as what the run made has files, and as long after the last change as versions
    do that nobody serves.
    """
    if run.state not in ENDED:
        return f"run {run.id} is under way"
    names = {run.version, run.progress.get("reward_model")}
    made = [v for v in facts.versions if v.name in names]
    for version in made:
        if not version.deleted:
            return f"{version.name} came of this run"
    ended = run.finished_at or run.created_at
    if max([ended, *(v.changed_at for v in made)]) > facts.at - retention.unused:
        return f"it changed less than {_days(retention.unused)} ago"
    return None


def _roots(facts: Facts, retention: RetentionSettings) -> Iterator[tuple[str, str]]:
    for state in facts.aliases:
        if state.version is not None:
            yield state.version, f"it is {state.alias}"
    for name, replicas in facts.loaded.items():
        if replicas:
            yield name, f"loaded by {', '.join(sorted(replicas))}"
    for run in facts.runs:
        for name in _names_in(run.model_dump(mode="json")):
            yield name, f"run {run.id} uses it"
    yield from _on_their_way(facts)
    yield from _within_history(facts, retention)
    for version in facts.versions:
        if version.changed_at > facts.at - retention.unused:
            yield version.name, f"it changed less than {_days(retention.unused)} ago"


def _on_their_way(facts: Facts) -> Iterator[tuple[str, str]]:
    """What waits for a verdict. Reward models never do: their alias moves at once or never."""
    for version in facts.versions:
        if version.state in UNDECIDED and version.kind is not VersionKind.REWARD_MODEL:
            yield version.name, "it is on its way to people"
    for name, way in facts.ways.items():
        if way.ended_at is None and way.revision > 0:
            yield name, "it is on its way to people"


def _within_history(facts: Facts, retention: RetentionSettings) -> Iterator[tuple[str, str]]:
    since = facts.at - retention.history
    for move in facts.moves:
        if move.at >= since:
            for name in (move.version, move.previous):
                if name is not None:
                    yield name, f"it was {move.alias} within {_days(retention.history)}"
    good = {v.name for v in facts.versions if v.state is VersionState.PROMOTED}
    stable = dict.fromkeys(m.version for m in facts.moves if m.alias is Alias.STABLE)
    for name in [name for name in stable if name in good][: retention.versions]:
        yield str(name), f"it is one of the last {retention.versions} to go back to"


def _with_supports(kept: dict[str, str], versions: Mapping[str, ModelVersion]) -> dict[str, str]:
    """And what they stand on: the parent of each, and the model that judged it.

    An adapter's files are whole without its parent's, so only a prompt strategy's parent needs
    one more.
    """
    found = dict(kept)
    waiting = list(kept)
    while waiting:
        version = versions.get(waiting.pop())
        if version is None:
            continue
        for name in (version.parent, version.reward_model):
            if name is not None and name not in found:
                found[name] = f"{version.name} stands on it"
                if version.kind is VersionKind.PROMPT:
                    waiting.append(name)
    return found


def _names_in(value: Any) -> Iterator[str]:
    """All strings in what a run's row holds: a version's name may stand anywhere."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for entry in value.values():
            yield from _names_in(entry)
    elif isinstance(value, Sequence):
        for entry in value:
            yield from _names_in(entry)


def _days(span: timedelta) -> str:
    days = span.total_seconds() / 86_400
    return f"{days:g} days" if days >= 1 else f"{days * 24:g} hours"
