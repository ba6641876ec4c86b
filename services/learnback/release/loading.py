"""Before anybody gets a version, every live replica has it: loaded, verified by digest, warmed.

The alias `candidate` names the version with a share of 0, so replicas load it and route nobody to
it. What they say of themselves (`ledger.replicas`) decides when the first people get it.
"""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy.ext.asyncio import AsyncConnection

from learnback.contracts.models import Alias
from learnback.core.clock import now
from learnback.ledger import releases, replicas
from learnback.ledger.releases import Release
from learnback.ledger.replicas import Loaded
from learnback.registry import store
from learnback.release.canary import CanaryVerdict, Decision
from learnback.release.plans import Plan
from learnback.release.policy import CanaryPolicy

LOOK_EVERY = timedelta(seconds=1)
"""How often replicas are asked while one is waited for: loading takes seconds."""
ONWARD = frozenset({CanaryVerdict.ADVANCE, CanaryVerdict.PROMOTE})


async def begin(
    connection: AsyncConnection, version: str, plan: Plan, serving: store.Release, actor: str
) -> None:
    """Have every replica load a version; what it is compared with is fixed from here on."""
    await releases.change(
        connection,
        version,
        loading_since=now(),
        step=None,
        step_since=None,
        canary_since=None,
        watched_since=None,
        ended_at=None,
        plan=plan.model_dump(mode="json"),
    )
    await store.move_alias(
        connection,
        Alias.CANDIDATE,
        version,
        expected_revision=serving.candidate.revision,
        actor=actor,
        reason="replicas load it",
        weight=0.0,
    )


async def loaded(connection: AsyncConnection, version: str) -> Loaded:
    """How far the replicas of the version's base are."""
    wanted = await store.get(connection, version)
    return await replicas.loaded(connection, version, wanted.base_digest)


def overdue(way: Release, policy: CanaryPolicy) -> bool:
    """Whether the replicas had time enough."""
    return way.loading_since is not None and now() - way.loading_since >= policy.load_within


def held_back(decision: Decision, found: Loaded) -> Decision:
    """Nobody else gets a version that a replica has lost, or does not have yet."""
    if decision.verdict not in ONWARD or found.everywhere:
        return decision
    return Decision(CanaryVerdict.HOLD, f"{found}; {decision.reason}")
