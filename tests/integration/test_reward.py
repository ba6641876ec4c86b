"""The reward process: every completion is scored, by the newest model, on request too."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.conftest import wait_until
from tests.factories import a_model_trained
from tests.fake_judge import FakeJudge
from tests.learning import a_completion
from tests.reward_models import make_linear, publish

from learnback.contracts.messages import CompletionScored
from learnback.contracts.models import Scope, VersionKind
from learnback.contracts.streams import COMPLETIONS, MODELS, REWARDS
from learnback.core import bus
from learnback.core.errors import Unavailable
from learnback.core.settings import CommonSettings
from learnback.ledger.database import Database
from learnback.ledger.keys import create_key
from learnback.models.reward import Item, Scored
from learnback.registry import store
from learnback.registry.artifacts import ArtifactStore
from learnback.reward.app import create_app
from learnback.reward.scorers.judge import JudgeScorer
from learnback.reward.scorers.model import CurrentModel, ModelScorer
from learnback.reward.settings import RewardSettings
from learnback.reward.worker import Worker, in_share

pytestmark = pytest.mark.timeout(60)

LONG, SHORT = "This is a rather long answer that goes on and on.", "Short one."


async def publish_model(database: Database, home: Path, *, likes: str) -> str:
    """Train, store, register and point the alias at a model that likes `likes`; its name."""
    other = SHORT if likes == LONG else LONG
    folder = make_linear(home / f"made-{len(likes)}", better=likes, worse=other)
    return await publish(database, home, folder)


@pytest.fixture
def current(sqlite_database: Database, tmp_path: Path) -> CurrentModel:
    return CurrentModel(
        sqlite_database, ArtifactStore(f"file://{tmp_path}/artifacts"), tmp_path / "cache"
    )


async def scores(redis: Any) -> list[CompletionScored]:
    entries = await redis.xrange(REWARDS.key)
    found = [bus.decode(REWARDS, entry_id, fields) for entry_id, fields in entries]
    return [d.message for d in found if d is not None and d.message is not None]


async def consume(redis: Any, current: CurrentModel) -> Worker:
    worker = Worker(redis, current)
    await bus.create_groups(redis)
    consumer = bus.Consumer(redis, COMPLETIONS, "reward", worker.handle, name="w1")
    await consumer.run_until_empty()
    return worker


async def test_every_choice_of_every_completion_is_scored(
    redis: Any, current: CurrentModel
) -> None:
    await bus.publish(
        redis, COMPLETIONS, [a_completion("c1", "q", LONG, ""), a_completion("c2", "q", SHORT)]
    )
    await consume(redis, current)
    found = await scores(redis)
    assert [(s.completion_id, s.choice, s.scorer) for s in found] == [
        ("c1", 0, "rules"),
        ("c1", 1, "rules"),
        ("c2", 0, "rules"),
    ]
    assert [s.score for s in found] == [0.0, -3.0, 0.0]
    assert (await redis.xpending(COMPLETIONS.key, "reward"))["pending"] == 0


async def test_repeating_a_batch_says_the_same_under_the_same_keys(
    redis: Any, current: CurrentModel
) -> None:
    worker = Worker(redis, current)
    served = [a_completion("c1", "q", LONG, SHORT)]
    await worker.handle(served)
    await worker.handle(served)
    found = await scores(redis)
    assert len(found) == 4
    assert len({s.key for s in found}) == 2


async def test_a_learned_model_scores_as_soon_as_it_is_there(
    redis: Any, current: CurrentModel, sqlite_database: Database, tmp_path: Path
) -> None:
    assert await current.refresh() is False
    name = await publish_model(sqlite_database, tmp_path, likes=LONG)
    assert await current.refresh() is True
    await bus.publish(redis, COMPLETIONS, [a_completion("c1", "q", LONG, SHORT)])
    await consume(redis, current)
    learned = [s for s in await scores(redis) if s.scorer == "model"]
    assert [s.scorer_version for s in learned] == [name, name]
    assert learned[0].score is not None
    assert learned[1].score is not None
    assert learned[0].score > learned[1].score
    assert learned[0].components


async def test_a_newer_model_takes_over(
    current: CurrentModel, sqlite_database: Database, tmp_path: Path
) -> None:
    await publish_model(sqlite_database, tmp_path, likes=LONG)
    await current.refresh()
    newer = await publish_model(sqlite_database, tmp_path, likes=SHORT)
    assert await current.refresh() is True
    assert current.scorer is not None
    assert current.scorer.version == newer
    assert await current.refresh() is False


async def test_the_copy_of_a_model_goes_when_no_process_has_held_it_for_long(
    current: CurrentModel, sqlite_database: Any, tmp_path: Path
) -> None:
    first = await publish_model(sqlite_database, tmp_path, likes=SHORT)
    await current.refresh()
    rescoring = await current.open_named(first)
    await publish_model(sqlite_database, tmp_path, likes=LONG)
    await current.refresh()
    await _a_day_later(current)
    assert len(list(current.cache.iterdir())) == 2, "rescoring still uses the older one"
    del rescoring
    await _a_day_later(current)
    (left,) = current.cache.iterdir()
    assert current.scorer is not None
    async with sqlite_database.read() as connection:
        assert left.name == (await store.get(connection, current.scorer.version)).artifact_digest


async def _a_day_later(current: CurrentModel) -> None:
    for copy in current.cache.iterdir():
        os.utime(copy, (0, 0))
    await current.tidy()


async def test_a_model_with_changed_files_never_scores(
    current: CurrentModel, sqlite_database: Database, tmp_path: Path
) -> None:
    old = await publish_model(sqlite_database, tmp_path, likes=LONG)
    await current.refresh()
    bad = await publish_model(sqlite_database, tmp_path, likes=SHORT)
    weights = tmp_path / "artifacts" / bad / "reward.npz"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    assert await current.refresh() is False
    assert current.scorer is not None
    assert current.scorer.version == old
    assert "digest" in str(current.problem)


@asynccontextmanager
async def serving(
    database: Database, redis: Any, home: Path, *, keys: bool = False, **more: Any
) -> AsyncIterator[httpx.AsyncClient]:
    """The process with its workers, and a client of it."""
    app = create_app(
        RewardSettings(look_every=timedelta(hours=1)),
        CommonSettings(home=home, require_keys=keys),
        database=database,
        redis=redis,
        **more,
    )
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://test") as client,
    ):
        yield client


@pytest.fixture
async def http(
    sqlite_database: Database, redis: Any, tmp_path: Path, request: pytest.FixtureRequest
) -> AsyncIterator[httpx.AsyncClient]:
    keys = getattr(request, "param", False)
    async with serving(sqlite_database, redis, tmp_path, keys=keys) as client:
        yield client


async def scorers(http: httpx.AsyncClient) -> dict[str, str]:
    """Name and version of each scorer that the process offers."""
    listed = (await http.get("/v1/scorers")).json()["scorers"]
    return {s["name"]: s["version"] for s in listed}


async def until_scoring_with(http: httpx.AsyncClient, version: str) -> None:
    async def there() -> bool:
        return (await scorers(http)).get("model") == version

    await wait_until(there, f"{version} scores")


async def test_the_message_that_a_model_was_trained_brings_it_in(
    http: httpx.AsyncClient, redis: Any, sqlite_database: Database, tmp_path: Path
) -> None:
    assert await scorers(http) == {"rules": "1"}
    name = await publish_model(sqlite_database, tmp_path, likes=LONG)
    await bus.publish(redis, MODELS, [a_model_trained(name, kind=VersionKind.REWARD_MODEL)])
    await until_scoring_with(http, name)
    answer = await http.post("/v1/score", json={"prompt": "q", "answer": LONG})
    assert [s["scorer"] for s in answer.json()["scores"]] == ["rules", "model"]


async def test_several_answers_are_scored_in_order(http: httpx.AsyncClient) -> None:
    prompt = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "q"}]
    answer = await http.post("/v1/score", json={"prompt": prompt, "answers": [LONG, ""]})
    assert answer.status_code == 200
    found = answer.json()["scores"]
    assert [(s["answer"], s["scorer"], s["score"]) for s in found] == [
        (0, "rules", 0.0),
        (1, "rules", -3.0),
    ]
    assert found[0]["scorer_version"] == "1"
    assert found[0]["error"] is None


async def test_a_batch_of_prompts_is_scored_by_the_scorers_named(
    sqlite_database: Database, redis: Any, tmp_path: Path
) -> None:
    name = await publish_model(sqlite_database, tmp_path, likes=LONG)
    items = [{"prompt": f"q{i}", "answer": text} for i, text in enumerate((SHORT, LONG, SHORT))]
    async with serving(sqlite_database, redis, tmp_path) as http:
        await until_scoring_with(http, name)
        answer = await http.post("/v1/score", json={"items": items, "scorers": ["model"] * 2})
        pair = {"prompt": "q", "first": SHORT, "second": LONG, "scorers": ["model"]}
        compared = (await http.post("/v1/compare", json=pair)).json()["comparisons"]
    found = answer.json()["scores"]
    assert [(s["answer"], s["scorer"]) for s in found] == [(i, "model") for i in range(3)]
    assert found[0]["score"] < 0 < found[1]["score"]
    assert [(c["scorer_version"], c["preferred"]) for c in compared] == [(name, "second")]
    assert compared[0]["probability"] < 0.5


async def test_a_judge_is_asked_only_by_name_and_its_bias_is_counted(
    sqlite_database: Database, redis: Any, tmp_path: Path
) -> None:
    def always_the_first(parts: dict[str, str]) -> str:
        return '{"grade": 10}' if "answer" in parts else '{"better": "A"}'

    judge = JudgeScorer(FakeJudge(always_the_first).judge())
    async with serving(sqlite_database, redis, tmp_path, judge=judge) as http:
        unnamed = (await http.post("/v1/score", json={"prompt": "q", "answer": LONG})).json()
        body = {"prompt": "q", "answer": LONG, "scorers": ["judge"]}
        graded = (await http.post("/v1/score", json=body)).json()["scores"]
        pair = {"prompt": "q", "first": LONG, "second": SHORT, "scorers": ["judge"]}
        (compared,) = (await http.post("/v1/compare", json=pair)).json()["comparisons"]
        metrics = (await http.get("/metrics")).text
    assert {s["scorer"] for s in unnamed["scores"]} == {"rules"}
    assert [(s["score"], s["scorer_version"]) for s in graded] == [(1.0, judge.version)]
    assert (compared["preferred"], compared["position"]) == ("tie", "first")
    assert 'judge_comparisons_total{outcome="position_first"} 1.0' in metrics


async def test_a_share_of_the_completions_is_graded_by_the_judge_and_failures_are_no_scores(
    redis: Any, current: CurrentModel
) -> None:
    server = FakeJudge(lambda parts: "hm" if "bad" in parts["answer"] else '{"grade": 10}')
    worker = Worker(redis, current, judge=JudgeScorer(server.judge()), judge_share=0.5)
    served = [a_completion(f"c{i}", "q", "good", "bad") for i in range(40)]
    await worker.handle(served)
    graded = [s for s in await scores(redis) if s.scorer == "judge"]
    expected = [s.id for s in served if in_share(s.id, 0.5)]
    assert 5 < len(expected) < 35
    assert [s.completion_id for s in graded if s.choice == 0] == expected
    assert {(s.choice, s.score) for s in graded} == {(0, 1.0), (1, None)}


def test_batches_are_small_only_for_scorers_that_take_long(
    redis: Any, current: CurrentModel
) -> None:
    judge = JudgeScorer(FakeJudge(str).judge())
    assert Worker(redis, current, judge=judge, judge_share=0.0).batch_size() == bus.BATCH_SIZE
    assert Worker(redis, current, judge=judge, judge_share=0.1).batch_size() < bus.BATCH_SIZE


async def test_while_a_model_is_away_its_batch_waits_and_nothing_is_written_twice(
    redis: Any, current: CurrentModel
) -> None:
    class Away:
        kind = "neural"
        down = True

        def score_batch(self, items: Sequence[Item]) -> list[Scored]:
            if self.down:
                raise Unavailable("The engine is away.")
            return [Scored(0.5) for _ in items]

    current.scorer = ModelScorer("v1", Away())  # type: ignore[arg-type]
    worker = Worker(redis, current)
    served = [a_completion("c1", "q", LONG, SHORT)]
    for _ in range(3):
        with pytest.raises(Unavailable):
            await worker.handle(served)
    Away.down = False
    await worker.handle(served)
    keys = [s.key for s in await scores(redis)]
    assert len(keys) == len(set(keys)) == 4


WRONG: list[tuple[Any, int, str]] = [
    ({}, 422, "prompt"),
    ({"prompt": "q"}, 422, "answer"),
    ({"prompt": "q", "answer": "a", "answers": ["b"]}, 422, "answer"),
    ({"prompt": "q", "answers": []}, 422, "answers"),
    ({"prompt": "q", "answers": ["a"] * 65}, 422, "answers"),
    ({"prompt": "q", "answer": 3}, 422, "answer"),
    ({"prompt": "q", "answer": "a", "surprise": 1}, 422, "surprise"),
    ({"prompt": [{"content": "no role"}], "answer": "a"}, 422, "prompt.list[MessageIn].0.role"),
    ({"items": []}, 422, "items"),
    ({"items": [{"prompt": "q", "answer": "a"}], "prompt": "q"}, 422, "items"),
    ({"items": [{"prompt": "q"}]}, 422, "items.0.answer"),
    ({"prompt": "q", "answer": "a", "scorers": ["oracle"]}, 422, "scorers"),
    ({"prompt": "q", "answer": "a", "scorers": []}, 422, "scorers"),
    ("just text", 422, ""),
]


@pytest.mark.parametrize(("body", "status", "field"), WRONG)
async def test_bad_input_says_what_is_wrong(
    http: httpx.AsyncClient, body: Any, status: int, field: str
) -> None:
    answer = await http.post("/v1/score", json=body)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert field in [error["field"] for error in answer.json()["errors"]]


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (b"{", "application/json", 400),
        (b"\xff", "application/json", 400),
        (b"[" * 40 + b"]" * 40, "application/json", 400),
        (b"{}", "text/plain", 415),
        (b'"' + b"x" * 1024 * 1024 + b'"', "application/json", 413),
    ],
)
async def test_bodies_that_cannot_be_read(
    http: httpx.AsyncClient, content: bytes, kind: str, status: int
) -> None:
    answer = await http.post("/v1/score", content=content, headers={"Content-Type": kind})
    assert answer.status_code == status


async def test_half_an_emoji_is_no_server_error(http: httpx.AsyncClient) -> None:
    answer = await http.post(
        "/v1/score",
        content=rb'{"prompt": "q", "answer": "torn \ud83d"}',
        headers={"Content-Type": "application/json"},
    )
    assert answer.status_code in {200, 400, 422}


@pytest.mark.parametrize("http", [True], indirect=True)
async def test_scoring_needs_a_key_that_may_infer(
    http: httpx.AsyncClient, sqlite_database: Database
) -> None:
    async with sqlite_database.write() as c:
        _, low = await create_key(c, "default", "low", [Scope.FEEDBACK])
        _, good = await create_key(c, "default", "good", [Scope.INFER])
    body = {"prompt": "q", "answer": "a"}
    assert (await http.post("/v1/score", json=body)).status_code == 401
    for key, status in ((low, 403), (good, 200)):
        headers = {"Authorization": f"Bearer {key}"}
        assert (await http.post("/v1/score", json=body, headers=headers)).status_code == status


async def test_it_is_ready_once_it_consumes(http: httpx.AsyncClient) -> None:
    async def ready() -> bool:
        return (await http.get("/readyz")).status_code == 200

    await wait_until(ready, "the process is ready")
    assert "learnback_reward_scores_total" in (await http.get("/metrics")).text
