"""A second judge is tried on what people said, and stops a reward that it does not see."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from sqlalchemy import update
from tests.learning import held_out, tell
from tests.release_world import BASE, LONG, SHORT, World, always

from learnback.contracts.models import FeedbackStatus, VersionState
from learnback.core.errors import Unavailable
from learnback.ledger import completions
from learnback.ledger.evaluation import held_out_comparisons
from learnback.ledger.tables import feedback
from learnback.models.judging import Comparison
from learnback.release.second import Judging, SecondJudge

GOOD = "tiny-dpo-000000000001"
POLICY = {"url": "http://judge", "model": "big", "pairs": 20}


class Judge:
    """Agrees with people, and answers by a test's rule about the two versions."""

    version = "big-1"

    def __init__(self, preferred: Any) -> None:
        self.preferred = preferred

    async def compare(self, prompt: Sequence[Any], first: str, second: str) -> Comparison:
        if "a fine answer" in first + second:
            return Comparison("first" if "fine" in first else "second")
        return Comparison(self.preferred, "503: away" if self.preferred is None else None)


def judging(preferred: Any) -> Judging:
    async def rate(rubric: str, messages: Sequence[dict[str, Any]], answer: str) -> float | None:
        return None

    return Judging(SecondJudge("big", Judge(preferred)), rate)


async def test_people_s_words_on_held_out_prompts_are_found(database: Any) -> None:
    ids = await tell(database, 60)
    kept = held_out(ids)
    async with database.read() as connection:
        found = await held_out_comparisons(connection, limit=100)
        few = await held_out_comparisons(connection, limit=3)
    assert {one.feedback_id for one in found} == kept
    assert all("fine answer" in one.chosen and "no " in one.rejected for one in found)
    assert len(few) == 3

    gone, erased, *_ = sorted(kept)
    async with database.write() as connection:
        await connection.execute(
            update(feedback).where(feedback.c.id == gone).values(status=FeedbackStatus.WITHDRAWN)
        )
        await completions.erase(connection, "default", f"c-{erased}")
    async with database.read() as connection:
        left = await held_out_comparisons(connection, limit=100)
    assert {one.feedback_id for one in left} == kept - {gone, erased}


async def test_a_reward_that_the_second_judge_does_not_see_is_a_hack(lite: World) -> None:
    await lite.prepare()
    await tell(lite.database, 80)
    await lite.candidate(GOOD, always(SHORT))
    await lite.controller(judge=POLICY, judging=judging("tie")).look()
    report = (await lite.version(GOOD)).gate_report or {}
    assert report["verdict"] == "refused"
    assert report["reasons"][0].startswith("reward_hack")
    assert report["evaluation"]["second"]["pairs"] >= 10


async def test_what_both_judges_like_is_promoted(lite: World) -> None:
    await lite.prepare()
    await lite.candidate(GOOD, always(SHORT))
    await lite.controller(judge=POLICY, judging=judging("first")).look()
    version = await lite.version(GOOD)
    assert version.state is VersionState.PROMOTED
    second = (version.gate_report or {})["evaluation"]["second"]
    assert (second["name"], second["agreement"]["rate"], second["pairs"]) == ("big", 1.0, 0)


async def test_a_judge_that_is_away_is_no_verdict(lite: World) -> None:
    await lite.prepare()
    lite.engine.says[BASE] = always(LONG)
    await lite.candidate(GOOD, always(SHORT))
    with pytest.raises(Unavailable, match="503: away"):
        await lite.controller(judge=POLICY, judging=judging(None)).look()
    assert (await lite.version(GOOD)).state is VersionState.REGISTERED
