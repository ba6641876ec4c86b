"""Bodies of the release API."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from learnback.contracts.models import Alias, VersionKind, VersionState
from learnback.registry.store import AliasMove, AliasState, ModelVersion


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
    """Overrides the gate; the history says so."""
    expected_revision: int | None = Field(default=None, ge=0, lt=2**31)
    """Refuse if the alias moved since this revision was read."""


class Rollback(Asked):
    """Let an earlier stable version answer again."""

    reason: Reason
    to: Name | None = None
    """None: the last stable version that was not rolled back."""
    expected_revision: int | None = Field(default=None, ge=0, lt=2**31)
    """Refuse if the alias moved since this revision was read."""


class AliasView(BaseModel):
    """What an alias names."""

    alias: Alias
    version: str | None
    weight: float
    revision: int

    @classmethod
    def of(cls, state: AliasState) -> AliasView:
        """From the registry's."""
        return cls(
            alias=state.alias, version=state.version, weight=state.weight, revision=state.revision
        )


class MoveView(BaseModel):
    """One move of an alias."""

    revision: int
    version: str | None
    previous: str | None
    at: datetime
    actor: str
    reason: str

    @classmethod
    def of(cls, move: AliasMove) -> MoveView:
        """From the registry's."""
        return cls(
            revision=move.revision,
            version=move.version,
            previous=move.previous,
            at=move.at,
            actor=move.actor,
            reason=move.reason,
        )


class VersionLine(BaseModel):
    """A version in the list."""

    name: str
    kind: VersionKind
    state: VersionState
    created_at: datetime
    verdict: str | None
    reasons: list[str]
    progress: dict[str, Any] | None
    """Of the evaluation in this process, if there is or was one."""

    @classmethod
    def of(cls, version: ModelVersion, progress: dict[str, Any] | None) -> VersionLine:
        """From the registry's."""
        report = version.gate_report or {}
        return cls(
            name=version.name,
            kind=version.kind,
            state=version.state,
            created_at=version.created_at,
            verdict=report.get("verdict"),
            reasons=report.get("reasons", []),
            progress=progress,
        )


class Releases(BaseModel):
    """All versions, and which of them answer."""

    stable: AliasView
    candidate: AliasView
    versions: list[VersionLine]


class Story(BaseModel):
    """Everything about one version: lineage, gate report, and when it served."""

    version: ModelVersion
    history: list[MoveView]
    """The moves of `stable` to and away from it, newest first."""
    progress: dict[str, Any] | None


class History(BaseModel):
    """The moves of an alias, newest first."""

    alias: Alias
    moves: list[MoveView]
