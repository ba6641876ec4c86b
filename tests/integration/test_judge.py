"""A language model as a judge: both orders, whatever dialect its server speaks."""

from __future__ import annotations

import asyncio

import pytest
from tests.fake_judge import FakeJudge, prefers

from learnback.models.judge import tally

pytestmark = pytest.mark.timeout(30)

PROMPT = ({"role": "user", "content": "Greet me."},)


async def test_a_judge_that_knows_what_it_likes_is_followed_in_any_order() -> None:
    judge = FakeJudge(prefers("Hello")).judge()
    assert (await judge.compare(PROMPT, "Hello!", "Go.")).preferred == "first"
    assert (await judge.compare(PROMPT, "Go.", "Hello!")).preferred == "second"
    assert (await judge.compare(PROMPT, "Go.", "Go on.")).preferred == "tie"


async def test_a_judge_that_prefers_the_first_place_gives_ties_and_is_found_out() -> None:
    judge = FakeJudge(lambda parts: '{"better": "A"}').judge()
    found = await asyncio.gather(*(judge.compare(PROMPT, f"one {i}", "two") for i in range(6)))
    assert {c.preferred for c in found} == {"tie"}
    counted = tally(found)
    assert (counted.picked_first, counted.picked_last) == (6, 0)
    assert counted.position_bias == 1.0


@pytest.mark.parametrize(
    "refuses",
    [set(), {"max_tokens", "temperature"}, {"response_format"}, {"response_format", "max_tokens"}],
)
async def test_a_server_that_refuses_fields_is_asked_without_them(refuses: set[str]) -> None:
    server = FakeJudge(prefers("Hello"), refuses=frozenset(refuses))
    judge = server.judge()
    assert (await judge.compare(PROMPT, "Hello!", "Go.")).preferred == "first"
    server.seen.clear()
    assert (await judge.compare(PROMPT, "Go.", "Hello!")).preferred == "second"
    assert len(server.seen) == 2, "what was refused once is not tried again"


async def test_a_hiccup_is_outlasted_and_an_outage_is_an_error() -> None:
    server = FakeJudge(lambda parts: '{"grade": 10}', fails=[503, 429])
    assert (await server.judge().rate(PROMPT, "Hello!")).score == 1.0
    server.fails = [503] * 3
    down = await server.judge().rate(PROMPT, "Hello!")
    assert down.score is None
    assert "503" in str(down.error)


@pytest.mark.parametrize("said", ["I would rather not say.", ""])
async def test_what_cannot_be_read_is_no_verdict(said: str) -> None:
    judge = FakeJudge(lambda parts: said).judge()
    compared, rated = await judge.compare(PROMPT, "a", "b"), await judge.rate(PROMPT, "a")
    assert (compared.preferred, rated.score) == (None, None)
    assert compared.error
    assert rated.error


async def test_one_failed_order_is_no_verdict() -> None:
    def half(parts: dict[str, str]) -> str:
        return '{"better": "A"}' if parts["answer A"] == "a" else "hm"

    assert (await FakeJudge(half).judge().compare(PROMPT, "a", "b")).preferred is None


async def test_the_version_names_model_and_rubric() -> None:
    server = FakeJudge(prefers("x"))
    ours, others = server.judge(), server.judge(rubric="Prefer rhymes.")
    assert ours.version.startswith("judge-1-")
    assert ours.version != others.version
    await others.rate(PROMPT, "a")
    assert "Prefer rhymes." in server.seen[-1]["messages"][0]["content"]


async def test_no_more_questions_are_asked_at_once_than_allowed() -> None:
    server = FakeJudge(prefers("x"))
    judge = server.judge(concurrency=2)
    await asyncio.gather(*(judge.rate(PROMPT, f"a{i}") for i in range(20)))
    assert server.most_at_once == 2
