"""Towns whose people return: equal versions, and candidates that break after ten minutes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from learnback.release.returning import AFTER, HALF, Regulars, Returned, simulate

HOURS = 24.0
BREAKS_AT = 1 / 6
TOWNS = (500.0, 5000.0)
"""Visits per hour."""
FAILS = (1.0, 0.5, 0.2)

Broken = tuple[bool, Regulars, Returned]
"""Whether it was promoted before it broke."""


def equal(
    canaries: int, seed: int, progress: Callable[[int], None] = lambda done: None
) -> Returned:
    """Two equal versions, with the default metrics, for a day."""
    return simulate(canaries, town=Regulars(hours=HOURS), seed=seed, progress=progress)


def broken(canaries: int, seed: int) -> list[Broken]:
    """Versions that begin to fail: candidates that half the people have, and promoted ones."""
    towns = [
        replace(Regulars(), hours=4.0, visits_per_hour=visits, breaks_at=BREAKS_AT, fails=fails)
        for visits in TOWNS
        for fails in FAILS
    ]
    return [
        (policy is AFTER, town, simulate(canaries, town=town, policy=policy, seed=seed))
        for policy in (HALF, AFTER)
        for town in towns
    ]


def table(same: Returned, gone: list[Broken]) -> str:
    """Markdown."""
    lines = [
        "| equal versions, people return | promoted | rolled back | by people at a step "
        "| by spans of time |",
        "|---|---|---|---|---|",
        f"| {same.canaries:,} canaries | {same.promoted:.2%} | {same.rolled_back:.2%} "
        f"| {same.by_people:.2%} | {same.by_spans:.2%} |",
        "",
        "| people who have it | visits an hour | from the tenth minute on fails | canaries "
        "| rolled back | minutes until then, in the middle | 95th percentile "
        "| people who met it meanwhile |",
        "|---|---|---|---|---|---|---|---|",
        *(_line(*one) for one in gone),
    ]
    return "\n".join(lines)


def _line(promoted: bool, town: Regulars, found: Returned) -> str:
    share = AFTER.steps[0].shown if promoted else HALF.steps[0].shown
    who = f"{share} (promoted)" if promoted else share
    times = " | ".join(f"{m:.1f}" for m in found.minutes) if found.minutes else "- | -"
    return (
        f"| {who} | {town.visits_per_hour:,.0f} | {town.fails:.0%} | {found.canaries} "
        f"| {found.rolled_back:.0%} | {times} | {found.reached or 0:,.0f} |"
    )
