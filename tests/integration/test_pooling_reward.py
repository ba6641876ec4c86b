"""Reward models in a pooling engine: loaded by name, scored over HTTP, unloaded in the end."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.factories import a_version
from tests.fake_pooling import BASE_DIGEST, FakePooling, an_adapter, running
from tests.reward_models import make_linear, publish

from learnback.core.errors import Unavailable
from learnback.ledger.database import Database
from learnback.models.pooling_reward import PoolingEngine, engine_name
from learnback.models.reward import Item, RewardModel, RewardModels
from learnback.registry.artifacts import ArtifactCorrupt, ArtifactStore
from learnback.release.judging import Chosen, load_judge
from learnback.reward.scorers.model import CurrentModel

pytestmark = pytest.mark.timeout(60)


def an_item(words: int) -> Item:
    return ({"role": "user", "content": "so?"},), " ".join(["word"] * words)


@pytest.fixture
def fake() -> Iterator[FakePooling]:
    with running(FakePooling()) as engine:
        yield engine


@pytest.fixture
def client(fake: FakePooling) -> Iterator[PoolingEngine]:
    engine = PoolingEngine(fake.url, concurrency=4, timeout_s=2.0, pause_s=0.01)
    yield engine
    engine.close()


def opened(client: PoolingEngine, folder: Path) -> RewardModel:
    return RewardModels(engine=client).open(folder.name, folder)


def scores(model: RewardModel, *words: int) -> list[float | None]:
    return [s.score for s in model.score_batch([an_item(n) for n in words])]


def test_logits_come_back_calibrated_in_order_and_no_more_at_once_than_allowed(
    fake: FakePooling, client: PoolingEngine, tmp_path: Path
) -> None:
    model = opened(client, an_adapter(tmp_path / "v1", 1.0))
    fake.delay_s = 0.005
    asked = list(range(40, 0, -1))
    assert scores(model, *asked) == [(n + 1 - 1.0) / 2.0 for n in asked]
    assert 2 <= fake.most_at_once <= 4


def test_two_models_live_in_one_engine_under_their_own_names(
    fake: FakePooling, client: PoolingEngine, tmp_path: Path
) -> None:
    up, down = (
        opened(client, an_adapter(tmp_path / n, f)) for n, f in (("up", 1.0), ("down", -1.0))
    )
    assert set(fake.loaded) == {"up", "down"}
    assert (scores(up, 8), scores(down, 8)) == ([4.0], [-5.0])


def test_a_model_that_nobody_holds_is_unloaded_and_one_that_somebody_holds_is_not(
    fake: FakePooling, client: PoolingEngine, tmp_path: Path
) -> None:
    folders = {name: an_adapter(tmp_path / name, 1.0) for name in ("old", "held", "new")}
    opened(client, folders["old"])
    held, twice = opened(client, folders["held"]), opened(client, folders["held"])
    del twice
    gc.collect()
    opened(client, folders["new"])
    assert fake.unloaded == ["old"]
    assert scores(held, 8) == [4.0]


def test_an_engine_that_was_started_anew_loads_the_model_again(
    fake: FakePooling, client: PoolingEngine, tmp_path: Path
) -> None:
    model = opened(client, an_adapter(tmp_path / "v1", 1.0))
    fake.loaded.clear()
    assert scores(model, 8, 9, 10, 11, 12) == [4.0, 4.5, 5.0, 5.5, 6.0]


def test_a_hiccup_is_outlasted(fake: FakePooling, client: PoolingEngine, tmp_path: Path) -> None:
    model = opened(client, an_adapter(tmp_path / "v1", 1.0))
    fake.fails = [503, 429]
    assert scores(model, 8) == [4.0]


@pytest.mark.parametrize("how", ["broken", "slow"])
def test_an_engine_that_is_away_is_no_score_at_all(
    fake: FakePooling, tmp_path: Path, how: str
) -> None:
    client = PoolingEngine(fake.url, timeout_s=0.2, pause_s=0.0)
    model = opened(client, an_adapter(tmp_path / "v1", 1.0))
    if how == "broken":
        fake.fails = [500] * 3
    else:
        fake.delay_s = 0.4
    with pytest.raises(Unavailable, match="does not answer"):
        scores(model, 8)
    client.close()


def test_what_it_refuses_or_what_is_too_long_has_no_score(
    client: PoolingEngine, tmp_path: Path
) -> None:
    model = opened(client, an_adapter(tmp_path / "v1", 1.0))
    tools: Item = (({"role": "tool", "content": "42"},), "a")
    found = model.score_batch([an_item(350), an_item(8), an_item(500), tools])
    assert [s.score for s in found] == [None, 4.0, None, None]
    assert "351 tokens" in str(found[0].error)
    assert "at most 400" in str(found[2].error)


def test_an_engine_on_another_base_is_never_asked(
    fake: FakePooling, client: PoolingEngine, tmp_path: Path
) -> None:
    fake.served = engine_name("other", "cd" * 32)
    with pytest.raises(ValueError, match=f"digest {BASE_DIGEST[:12]}.*reward-engine"):
        opened(client, an_adapter(tmp_path / "v1", 1.0))
    assert not fake.loaded


def test_an_adapter_that_the_engine_refuses_is_refused(
    fake: FakePooling, client: PoolingEngine, tmp_path: Path
) -> None:
    fake.refuses = True
    with pytest.raises(ValueError, match="no adapter there"):
        opened(client, an_adapter(tmp_path / "v1", 1.0))


async def test_release_judges_by_a_neural_model_in_the_engine(
    client: PoolingEngine, tmp_path: Path
) -> None:
    folder = an_adapter(tmp_path / "v1", 1.0)
    store = ArtifactStore(f"file://{tmp_path}/artifacts")
    version = a_version("v1", artifact="v1", artifact_digest=store.put(folder, "v1"))
    models = RewardModels(engine=client)
    judge = await load_judge(Chosen(version), store, tmp_path / "cache", models)
    assert judge.model.score_many([an_item(8), an_item(350)]) == [4.0, None]
    unusable = version.model_copy(update={"artifact_digest": "0" * 64})
    with pytest.raises(ArtifactCorrupt):
        await load_judge(Chosen(unusable), store, tmp_path / "cache", models)


async def test_with_the_engine_away_the_old_model_goes_on_until_it_is_back(
    sqlite_database: Database, tmp_path: Path
) -> None:
    with running(FakePooling()) as fake:
        port = int(fake.url.rsplit(":", 1)[1])
    models = RewardModels(engine=PoolingEngine(fake.url, pause_s=0.0))
    store = ArtifactStore(f"file://{tmp_path}/artifacts")
    current = CurrentModel(sqlite_database, store, tmp_path / "cache", models)
    old = await publish(
        sqlite_database, tmp_path, make_linear(tmp_path / "l", better="long one", worse="no")
    )
    assert await current.refresh()
    new = await publish(sqlite_database, tmp_path, an_adapter(tmp_path / "v1", 1.0))
    assert await current.refresh() is False
    assert current.scorer is not None
    assert current.scorer.version == old
    assert "does not answer" in str(current.problem)
    with running(fake, port):
        assert await current.refresh() is True
    assert current.scorer.version == new
    assert current.problem is None
    models.close()
