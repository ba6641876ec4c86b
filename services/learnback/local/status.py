"""`learnback status`: versions, traffic, queues and counts at a glance."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Float, func, select

from learnback.contracts.models import Alias, Track
from learnback.core.streams import GroupLag, lags
from learnback.ledger.replicas import Replica, live
from learnback.ledger.tables import completions, feedback, rewards, runs
from learnback.local.access import Access, run
from learnback.local.show import show_json, show_table
from learnback.registry import store


@dataclass(frozen=True)
class Status:
    """What `learnback status --json` answers."""

    stable: str | None
    candidate: str | None
    candidate_weight: float
    reward_model: str | None
    versions: list[dict[str, Any]]
    traffic: list[dict[str, Any]]
    """By version: completions that people saw, how they ended, mean reward by the reward model in
    use."""
    feedback: dict[str, int]
    """Count by status; the sum is all that was ever received."""
    runs: list[dict[str, Any]]
    queues: list[GroupLag]
    replicas: list[Replica]
    """Inference processes that said within the last seconds that they live."""


async def read_status(opened: Access) -> Status:
    """Everything in one transaction, but the queues."""
    async with opened.database.read() as connection:
        release = await store.release(connection)
        reward = await store.alias_state(connection, Alias.REWARD)
        versions = await store.list_versions(connection)
        traffic = await _traffic(connection, reward.version)
        counts = {
            row.status: row.signals
            for row in await connection.execute(
                select(feedback.c.status, func.count().label("signals")).group_by(feedback.c.status)
            )
        }
        recent = await connection.execute(
            select(runs.c.id, runs.c.method, runs.c.state, runs.c.reason, runs.c.version)
            .order_by(runs.c.created_at.desc())
            .limit(5)
        )
        latest = [dict(row) for row in recent.mappings()]
        living = await live(connection)
    return Status(
        stable=release.stable.version,
        candidate=release.candidate.version,
        candidate_weight=release.candidate.weight,
        reward_model=reward.version,
        versions=[
            {"name": v.name, "kind": v.kind, "state": v.state, "created_at": v.created_at}
            for v in versions
        ],
        traffic=traffic,
        feedback=counts,
        runs=latest,
        queues=await lags(opened.redis),
        replicas=living,
    )


async def _traffic(connection: Any, reward_model: str | None) -> list[dict[str, Any]]:
    served = await connection.execute(
        select(
            completions.c.version,
            func.count().label("completions"),
            func.count().filter(completions.c.end != "complete").label("unfinished"),
            func.sum(completions.c.completion_tokens).label("tokens"),
        )
        .where(completions.c.track != Track.MIRRORED.value)
        .group_by(completions.c.version)
    )
    scored = await connection.execute(
        select(rewards.c.version, func.avg(rewards.c.score).cast(Float).label("mean"))
        .where(
            rewards.c.scorer == "model",
            rewards.c.scorer_version == reward_model,  # each model has a scale of its own
            rewards.c.score.is_not(None),
        )
        .group_by(rewards.c.version)
    )
    means = {row.version: row.mean for row in scored}
    return [{**row, "mean_reward": means.get(row["version"])} for row in served.mappings()]


def show_status(home: Path | None, as_json: bool) -> None:
    """Print the status."""
    status = run(home, read_status)
    if as_json:
        show_json(status)
        return
    pointing = {status.stable: "stable", status.candidate: "candidate"}
    show_table(
        "Versions",
        ["version", "kind", "state", "serves"],
        [[v["name"], v["kind"], v["state"], pointing.get(v["name"], "")] for v in status.versions],
    )
    show_table(
        "Traffic",
        ["version", "completions", "unfinished", "tokens", "mean reward"],
        [[*list(t.values())[:4], _short(t["mean_reward"])] for t in status.traffic],
    )
    show_table("Feedback", ["status", "signals"], sorted(status.feedback.items()))
    show_table(
        "Training runs",
        ["run", "method", "state", "reason", "version"],
        [list(r.values()) for r in status.runs],
    )
    show_queues(status.queues)
    show_table(
        "Replicas",
        ["replica", "takes requests", "has loaded"],
        [[r.id, r.serving, ", ".join(r.versions)] for r in status.replicas],
    )


def show_queues(queues: list[GroupLag]) -> None:
    """The lag of each group."""
    show_table(
        "Queues",
        ["stream", "group", "lag", "pending", "dead"],
        [[q.stream, q.group, q.lag, q.pending, q.dead] for q in queues],
    )


def _short(value: float | None) -> str | None:
    return None if value is None else f"{value:.3f}"
