"""Where a version stands on its way to people, in one word; pure."""

from __future__ import annotations

from enum import StrEnum

from learnback.contracts.models import Track, VersionState
from learnback.ledger.releases import Release
from learnback.registry.store import Release as Serving


class Phase(StrEnum):
    """One word for a version's way, as the API tells it."""

    REGISTERED = "Registered"
    """It waits for its turn."""
    EVALUATING = "Evaluating"
    AWAITING_APPROVAL = "AwaitingApproval"
    LOADING = "Loading"
    """It passed the gate, and replicas load it; nobody gets it before all of them have."""
    MIRRORING = "Mirroring"
    """It gets copies of people's requests, and nobody sees what it answers."""
    CANARY = "Canary"
    """It passed the gate, and answers a share of people or is about to."""
    PROMOTED = "Promoted"
    """It answers everybody, or did until the next version came."""
    REFUSED = "Refused"
    ROLLED_BACK = "RolledBack"


FINAL = {
    VersionState.PROMOTED: Phase.PROMOTED,
    VersionState.REFUSED: Phase.REFUSED,
    VersionState.ROLLED_BACK: Phase.ROLLED_BACK,
}


def phase_of(state: VersionState, release: Release) -> Phase:
    """From the registry's state and the ledger's row."""
    if state in FINAL:
        return FINAL[state]
    if state is VersionState.REGISTERED:
        return Phase.EVALUATING if release.evaluating_since else Phase.REGISTERED
    if release.awaiting_step is not None:
        return Phase.AWAITING_APPROVAL
    if release.loading:
        return Phase.LOADING
    return Phase.MIRRORING if release.mirroring else Phase.CANARY


def track_of(version: str, serving: Serving) -> Track | None:
    """Whom a version answers now."""
    if version == serving.stable.version:
        return Track.STABLE
    return Track.CANDIDATE if version == serving.candidate.version else None


def weight_of(version: str, serving: Serving) -> float:
    """The share of people whom a version answers now, as the aliases say."""
    tried = serving.candidate.weight if serving.candidate.version else 0.0
    track = track_of(version, serving)
    if track is Track.STABLE:
        return 1.0 - tried
    return tried if track is Track.CANDIDATE else 0.0
