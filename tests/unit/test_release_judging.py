"""Who judges: not whom the candidate learned to please, if there is anybody else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from tests.factories import a_version
from tests.unit.test_release_gate import an_evaluation

from learnback.contracts.models import VersionKind
from learnback.core.clock import now
from learnback.core.errors import Unavailable
from learnback.ledger.evaluation import HeldOutComparison, HeldOutPrompt
from learnback.models.judging import Comparison
from learnback.models.reward import Scored
from learnback.registry.artifacts import ArtifactCorrupt
from learnback.registry.store import ModelVersion
from learnback.release.engine import Answer
from learnback.release.evaluation import compare, pairs_of
from learnback.release.judging import Opened, choose
from learnback.release.questions import Side
from learnback.release.second import SecondJudge


def reward(name: str, data: str, correct: int = 80, **changes: Any) -> ModelVersion:
    metrics = {"held_out_pairs": 100, "held_out_correct": float(correct)}
    values = {"dataset_fingerprint": data, "artifact": name, "metrics": metrics}
    return a_version(name, kind=VersionKind.REWARD_MODEL, **values | changes)


def trained(method: str, by: str | None = None, data: str = "c") -> ModelVersion:
    return a_version("new", config={"method": method}, reward_model=by, dataset_fingerprint=data)


def judge_of(candidate: ModelVersion, in_use: ModelVersion, *others: ModelVersion) -> Any:
    return choose(candidate, in_use, [in_use, *others], 0.5)


def test_a_policy_that_climbed_a_reward_model_is_judged_by_another() -> None:
    first, second = reward("r1", "a"), reward("r2", "b")
    found = judge_of(trained("rloo", by="r2"), second, first)
    assert (found.version.name, found.note) == ("r1", "not r2, on which the candidate was trained")
    assert found.facts.note == found.note


@pytest.mark.parametrize(
    "other",
    [
        reward("r1", "b"),  # of the same comparisons
        reward("r1", "a", correct=52),  # a coin
        reward("r1", "a", metrics={}),
        reward("r1", "a", artifact=None),
        reward("r1", "a", base_digest="1" * 64),
    ],
)
def test_without_another_that_is_proven_the_report_says_so(other: ModelVersion) -> None:
    found = judge_of(trained("rloo", by="r2"), reward("r2", "b"), other)
    assert found.version.name == "r2"
    assert "there is no other" in (found.note or "")


def test_others_are_judged_by_the_one_in_use_and_shared_data_is_named() -> None:
    old, new = reward("r1", "a"), reward("r2", "b")
    assert judge_of(trained("dpo", by="r2", data="c"), new, old).note is None
    assert "fitted to the comparisons" in judge_of(trained("dpo", data="b"), new, old).note
    assert choose(trained("dpo"), None, [], 0.5) is None


class Scripted:
    """A judge that says what a test wants, and remembers what it was asked."""

    version = "scripted-1"

    def __init__(self, says: Any) -> None:
        self.says = says
        self.asked: list[tuple[str, str]] = []

    async def compare(self, prompt: Sequence[Any], first: str, second: str) -> Comparison:
        self.asked.append((first, second))
        said = self.says(first, second)
        return said if isinstance(said, Comparison) else Comparison(said)


def a_round(count: int = 64) -> tuple[Any, tuple[Side, Side], list[HeldOutPrompt]]:
    """A measured evaluation that the candidate wins throughout by the reward model."""
    keys = [f"k{i}" for i in range(count)]
    sides = (
        Side("new", "candidate", {k: Answer(f"new {k}") for k in keys}),
        Side("old", "stable", {k: Answer(f"old {k}") for k in keys}),
    )
    prompts = [HeldOutPrompt(k, ({"role": "user", "content": k},), now()) for k in keys]
    return an_evaluation(count, 0, 0, keys=keys), sides, prompts


def people(count: int) -> list[HeldOutComparison]:
    return [
        HeldOutComparison(f"f{i}", ({"role": "user", "content": "?"},), f"good {i}", f"bad {i}")
        for i in range(count)
    ]


async def test_a_second_judge_is_tried_on_people_and_asked_about_each_pair() -> None:
    def says(first: str, second: str) -> Any:
        if first.startswith("good"):
            return "first" if int(first.split()[1]) < 30 else "second"
        if first.endswith(("k0", "k1")):
            return Comparison("tie", position="first")
        return "second" if first.endswith("k2") else "first"

    judge = Scripted(says)
    found = await SecondJudge("big", judge).opinion(*a_round(), people(40))
    assert (found.pairs, found.correct, len(found.outcomes)) == (40, 30.0, 64)
    assert found.win_rate is not None
    assert found.agreement is not None
    assert found.win_rate.rate == pytest.approx(62 / 64)
    assert (found.agreement.n, round(found.agreement.rate * 62)) == (62, 61)
    assert found.consistent == pytest.approx(62 / 64)


async def test_peoples_comparisons_are_asked_about_once() -> None:
    judge = Scripted(lambda first, second: "first")
    second = SecondJudge("big", judge)
    await second.opinion(*a_round(4), people(10))
    assert len(judge.asked) == 14
    again = await second.opinion(*a_round(4), people(12))
    assert (len(judge.asked), again.pairs) == (20, 12)


async def test_a_judge_that_is_away_is_no_verdict() -> None:
    judge = Scripted(lambda first, second: Comparison(None, "503: away"))
    with pytest.raises(Unavailable, match="503: away"):
        await SecondJudge("big", judge).opinion(*a_round(), [])


async def test_a_pair_that_it_can_not_judge_is_left_out() -> None:
    def says(first: str, second: str) -> Any:
        return Comparison(None, "unreadable") if first.endswith("k3") else "first"

    found = await SecondJudge("big", Scripted(says)).opinion(*a_round(), [])
    assert (len(found.outcomes), "k3" in found.keys) == (63, False)


class Rewards:
    """A reward model that scores as a test says."""

    kind = "neural"

    def __init__(self, says: Any) -> None:
        self.says = says

    def score_batch(self, items: Sequence[Any]) -> list[Scored]:
        return [self.says(answer) for _, answer in items]


def test_a_text_that_the_reward_model_can_not_judge_leaves_its_prompt_out() -> None:
    def says(answer: str) -> Scored:
        if answer == "new k3":
            return Scored(None, "the text has 9000 tokens")
        return Scored(1.0 if answer.startswith("new") else 0.0)

    base, sides, prompts = a_round(30)
    found = compare(base, sides, prompts, Opened(Rewards(says)), 0)
    assert (found.answered, found.wins, len(found.keys)) == (30, 29, 29)
    assert "k3" not in found.keys
    assert len(pairs_of(found, sides, prompts)) == 29


def test_a_broken_reward_model_is_no_verdict() -> None:
    broken = Opened(Rewards(lambda answer: Scored(None, "it said nan", fault=True)))
    with pytest.raises(ArtifactCorrupt, match="it said nan"):
        broken.score_many([((), "a")])
