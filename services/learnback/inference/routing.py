"""Which version answers a request. Pure: the same snapshot, name and subject, the same version."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import msgspec

from learnback.contracts.models import Track, VersionKind
from learnback.core.ids import digest_text
from learnback.inference.errors import ModelNotFound, VersionUnavailable
from learnback.models.strategy import Strategy
from learnback.registry.store import Release


@dataclass(frozen=True)
class Servable:
    """A version as this process serves it."""

    name: str
    kind: VersionKind
    engine_model: str
    """The model name under which the engine answers for it."""
    needs: tuple[str, ...] = ()
    """Versions whose files must be loaded: an adapter, and this version's own example bank."""
    strategy: Strategy | None = None
    """Of a version of kind `prompt`."""
    problem: str | None = None
    """Why it can't be served at all; None: nothing known against it."""
    created: int = 0
    """Unix time in seconds."""


@dataclass(frozen=True)
class Snapshot:
    """What routing goes by. Replaced whole, never changed."""

    public_names: frozenset[str] = frozenset()
    versions: Mapping[str, Servable] = field(default_factory=dict)
    stable: str | None = None
    """The version that this replica serves; the one before while a new one is loading."""
    candidate: str | None = None
    """None as well while this replica has not loaded it."""
    weight: float = 0.0
    """The candidate's share of subjects, 0 to 1."""
    mirror: float = 0.0
    """The share of subjects of whose requests the candidate gets a copy, 0 to 1."""
    ready: frozenset[str] = frozenset()
    """Versions whose files are loaded: adapters by the engine, example banks by us."""


class Assignment(msgspec.Struct, frozen=True):
    """The version for one request, and the probability with which it got it."""

    version: Servable
    track: Track
    probability: float


def route(snapshot: Snapshot, model: str, subject: str) -> Assignment:
    """Assign a version. Raises ModelNotFound, or VersionUnavailable if there is nothing to serve.

    An exact version name pins it. A public name goes to the candidate for a share of the
    subjects, always the same ones, and to the stable version for the others.
    """
    pinned = snapshot.versions.get(model)
    if pinned is not None:
        return Assignment(servable(pinned), Track.PINNED, 1.0)
    if model not in snapshot.public_names:
        raise ModelNotFound(
            f"The model {model!r} does not exist; GET /v1/models lists those that do.",
            field="model",
        )
    stable = snapshot.versions.get(snapshot.stable or "")
    if stable is None:
        raise VersionUnavailable("This replica has not loaded the stable version yet; try again.")
    candidate = snapshot.versions.get(snapshot.candidate or "")
    if candidate is None or candidate.name == stable.name or snapshot.weight <= 0:
        return Assignment(stable, Track.STABLE, 1.0)
    if position(subject, candidate.name) < snapshot.weight:
        return Assignment(candidate, Track.CANDIDATE, min(1.0, snapshot.weight))
    return Assignment(stable, Track.STABLE, 1.0 - snapshot.weight)


def servable(version: Servable) -> Servable:
    """The version itself; VersionUnavailable if something is known against it."""
    if version.problem is not None:
        raise VersionUnavailable(
            f"The version {version.name!r} can't be served: {version.problem}", field="model"
        )
    return version


def advance(current: Snapshot, release: Release, *, may_replace: bool = True) -> Snapshot:
    """The snapshot to serve next: a stable version that is not ready, or may not yet replace the
    one before it, leaves that one; a candidate that is not ready gets nobody."""
    stable = release.stable.version
    candidate = release.candidate.version
    shown = stable if may_replace and ready(current, stable) else current.stable
    tried = candidate if ready(current, candidate) else None
    return replace(
        current,
        stable=shown,
        candidate=tried,
        weight=release.candidate.weight if tried is not None else 0.0,
        mirror=release.candidate.mirror if tried is not None else 0.0,
    )


def ready(snapshot: Snapshot, name: str | None) -> bool:
    """Whether a version can answer here now: nothing is known against it, its files are loaded."""
    version = snapshot.versions.get(name or "")
    if version is None or version.problem is not None:
        return False
    return snapshot.ready.issuperset(version.needs)


def position(subject: str, salt: str) -> float:
    """Where a subject stands in [0, 1): uniform, and independent between salts.

    A raised weight only adds subjects to the candidate; the salt is the candidate's name, so
    that each candidate meets other people first.
    """
    digest = hashlib.sha256(f"{salt}\0{subject}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:7], "big") / 2**56


def subject_of(
    tenant: str, safety_identifier: str | None, user: str | None, key_id: str | None
) -> str | None:
    """Who is kept on one version, as a digest that says nothing of the person; None: nobody known.

    `safety_identifier` first, then `user`, then the API key, within the tenant.
    """
    for kind, identifier in (("user", safety_identifier or user), ("key", key_id)):
        if identifier:
            text = f"{tenant}\0{kind}\0{identifier}"
            return digest_text(text)[:32]
    return None
