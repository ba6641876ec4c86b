"""Which version is judged next. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass

from learnback.contracts.models import VersionState
from learnback.ledger.releases import Release
from learnback.registry.store import ModelVersion


@dataclass(frozen=True)
class Queue:
    """`first` is judged now; `superseded` are never judged, each with what came after it."""

    first: ModelVersion | None
    superseded: tuple[tuple[str, str], ...]


def queue(
    versions: Sequence[ModelVersion], ways: Mapping[str, Release], stable: str | None
) -> Queue:
    """What somebody asked for goes first, the earliest ask before the later ones.

    Of those that came by themselves (`versions` is newest first) only the newest is judged, and
    none that is older than the stable version.
    """
    waiting = [v for v in versions if v.state is VersionState.REGISTERED]
    asked = {v.name: at for v in waiting if (at := way_of(ways, v.name).asked_at) is not None}
    newest, superseded = _by_age(versions, asked.keys(), stable)
    if asked:
        first = min(asked, key=lambda name: (asked[name], name))
        newest = next(v for v in waiting if v.name == first)
    return Queue(newest, tuple(superseded))


def way_of(ways: Mapping[str, Release], version: str) -> Release:
    """A version's row, empty for one that has none yet."""
    return ways.get(version) or Release(version=version)


def _by_age(
    versions: Sequence[ModelVersion], asked: Set[str], stable: str | None
) -> tuple[ModelVersion | None, list[tuple[str, str]]]:
    newest: ModelVersion | None = None
    newer: str | None = None  # what an older one is superseded by
    superseded: list[tuple[str, str]] = []
    for version in versions:
        if version.name == stable:
            newer = newer or version.name
        elif version.state is VersionState.REGISTERED and version.name not in asked:
            if newer is None:
                newest = version
            else:
                superseded.append((version.name, newer))
            newer = newer or version.name
    return newest, superseded
