"""Bodies of the release API."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from learnback.contracts.models import Alias, Track, VersionKind, VersionState
from learnback.ledger.releases import Look
from learnback.ledger.releases import Release as WayOn
from learnback.ledger.replicas import Loaded
from learnback.ledger.runs import Run
from learnback.registry.store import AliasMove, AliasState, ModelVersion
from learnback.registry.store import Release as Serving
from learnback.release.phases import Phase, phase_of, track_of, weight_of


def _printable(text: str) -> str:
    if any(c == "\x00" or "\ud800" <= c <= "\udfff" for c in text):
        raise ValueError("has characters that can't be stored (NUL or half surrogates)")
    return text


Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,199}$")]
"""A model version's name."""
Reason = Annotated[
    str, StringConstraints(min_length=1, max_length=2000), AfterValidator(_printable)
]
"""Why an alias moves; it stays in the history for ever."""


class Asked(BaseModel):
    """A request body: unknown fields are an error."""

    model_config = ConfigDict(extra="forbid")


class Promotion(Asked):
    """Let a version answer everybody."""

    version: Name
    reason: Reason
    force: bool = False
    """Overrides the gate, and waits for no replica; the history says so."""
    expected_revision: int | None = Field(default=None, ge=0, lt=2**31)
    """Refuse if the alias moved since this revision was read."""


class Rollback(Asked):
    """Let an earlier stable version answer again."""

    reason: Reason
    to: Name | None = None
    """None: the last stable version that was not rolled back."""
    expected_revision: int | None = Field(default=None, ge=0, lt=2**31)
    """Refuse if the alias moved since this revision was read."""


class Ask(Asked):
    """Evaluate a version and let it take its way to people."""

    version: Name
    reason: Reason


class Decision(Asked):
    """Somebody's yes or no to the step that a version waits for."""

    approved: bool
    reason: Reason
    expected_revision: int | None = Field(default=None, ge=0, lt=2**31)
    """Refuse if the version's release changed since this `revision` was read."""


class AliasView(BaseModel):
    """What an alias names."""

    alias: Alias
    version: str | None
    weight: float
    revision: int
    mirror: float
    """Share of requests of which it gets a copy; nobody sees what it answers."""

    @classmethod
    def of(cls, state: AliasState) -> AliasView:
        """From the registry's."""
        return cls(
            alias=state.alias,
            version=state.version,
            weight=state.weight,
            revision=state.revision,
            mirror=state.mirror,
        )


class MoveView(BaseModel):
    """One move of an alias."""

    alias: Alias
    revision: int
    version: str | None
    previous: str | None
    weight: float
    at: datetime
    actor: str
    reason: str
    mirror: float

    @classmethod
    def of(cls, move: AliasMove) -> MoveView:
        """From the registry's."""
        return cls(
            alias=move.alias,
            revision=move.revision,
            version=move.version,
            previous=move.previous,
            weight=move.weight,
            at=move.at,
            actor=move.actor,
            reason=move.reason,
            mirror=move.mirror,
        )


class VersionLine(BaseModel):
    """A version in the list."""

    name: str
    kind: VersionKind
    state: VersionState
    phase: Phase
    track: Track | None
    weight: float
    created_at: datetime
    verdict: str | None
    reasons: list[str]
    progress: dict[str, Any] | None
    """Of the evaluation in this process, if there is or was one."""

    @classmethod
    def of(
        cls,
        version: ModelVersion,
        way: WayOn,
        serving: Serving,
        progress: dict[str, Any] | None,
        loaded: Loaded | None = None,
    ) -> VersionLine:
        """From the registry's and the ledger's; `loaded` while replicas load it."""
        report = version.gate_report or {}
        return cls(
            name=version.name,
            kind=version.kind,
            state=version.state,
            phase=phase_of(version.state, way),
            track=track_of(version.name, serving),
            weight=weight_of(version.name, serving),
            created_at=version.created_at,
            verdict=report.get("verdict"),
            reasons=[str(loaded)] if loaded else report.get("reasons", []),
            progress=progress,
        )


class Releases(BaseModel):
    """All versions, and which of them answer."""

    stable: AliasView
    candidate: AliasView
    versions: list[VersionLine]


class Story(BaseModel):
    """Everything about one version: lineage, gate report, canary, and when it served."""

    version: ModelVersion
    phase: Phase
    verdict: str | None
    """Of the newest look at its canary, else of the gate."""
    reasons: list[str]
    """Of that verdict; while replicas load it, how far they are."""
    track: Track | None
    """Whom it answers now: `stable`, `candidate`, or nobody."""
    weight: float
    """The share of people whom it answers now, 0 to 1."""
    revision: int
    """Counts the changes of its release; what `expected_revision` of an approval means."""
    release: WayOn
    """Who asked for it, which step it is at, who approved, what was fixed as the canary began."""
    parents: list[str]
    """What it was trained from, the nearest first."""
    run: Run | None
    """The training run that made it."""
    exposed: int
    """People who have got an answer of it as a candidate, counted now."""
    looks: list[Look]
    """The newest looks at its canary, oldest first. One that says the same as the one before and
    changes nothing is not kept."""
    earlier_looks: int
    """So many were before: `GET /admin/v1/releases/{version}/looks?before=NUMBER` has them."""
    history: list[MoveView]
    """The moves of `stable` and `candidate` to and away from it, newest first."""
    progress: dict[str, Any] | None


class Looks(BaseModel):
    """Looks at a version's canary, oldest first."""

    version: str
    looks: list[Look]
    earlier: int
    """So many were before these."""

    @classmethod
    def of(cls, version: str, looks: list[Look]) -> Looks:
        """Numbers count from 1 and none is left out."""
        return cls(version=version, looks=looks, earlier=earlier(looks))


def earlier(looks: list[Look]) -> int:
    """How many looks were before these."""
    return looks[0].number - 1 if looks else 0


class ServedAt(BaseModel):
    """What answered people at a moment, as the registry's aliases had it."""

    at: datetime
    stable: MoveView | None
    """The move that was in force; None before the first."""
    candidate: MoveView | None


class History(BaseModel):
    """The moves of an alias, newest first."""

    alias: Alias
    moves: list[MoveView]
