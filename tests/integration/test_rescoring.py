"""Old completions get scores by a newer reward model when somebody needs them, each once."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from sqlalchemy import update
from tests.conftest import wait_until
from tests.factories import AT
from tests.learning import a_completion
from tests.reward_models import make_linear, publish

from learnback.cli import main
from learnback.contracts.messages import CompletionScored
from learnback.contracts.models import CompletionEnd
from learnback.contracts.streams import REWARDS
from learnback.core import bus
from learnback.core.clock import now
from learnback.feedback.recorder import Recorder
from learnback.ledger import completions, leases, rescoring
from learnback.ledger.database import Database
from learnback.ledger.rescoring import Rescoring
from learnback.ledger.tables import leases as leases_table
from learnback.ledger.tables import rescorings
from learnback.registry.artifacts import ArtifactStore
from learnback.retraining.scores import scores_of
from learnback.reward.rescoring import PAGE, Rescorer
from learnback.reward.scorers.model import CurrentModel
from learnback.reward.worker import Worker

pytestmark = pytest.mark.timeout(60)

LONG, SHORT = "This is a rather long answer that goes on and on.", "Short one."
COUNT = PAGE + 20
"""A page and a bit."""


async def remember(database: Database, count: int = COUNT) -> list[str]:
    """Completions of the past, with two choices each; their ids."""
    served = [
        a_completion(f"c{i:03}", f"q{i}", LONG, SHORT, created_at=AT + timedelta(hours=i))
        for i in range(count)
    ]
    async with database.write() as connection:
        await completions.record(connection, served)
    return [s.id for s in served]


async def ask(database: Database, model: str, **options: Any) -> Rescoring | None:
    async with database.write() as connection:
        return await rescoring.ask(connection, model, asked_by="test", **options)


async def said(redis: Any) -> list[CompletionScored]:
    entries = await redis.xrange(REWARDS.key)
    found = [bus.decode(REWARDS, entry_id, fields).message for entry_id, fields in entries]
    return [message for message in found if message]


async def record(redis: Any, database: Database) -> None:
    """What the feedback process does with scores."""
    await bus.create_groups(redis)
    await bus.Consumer(
        redis, REWARDS, "feedback", Recorder(database).rewards, name="f"
    ).run_until_empty()


@pytest.fixture
def rescorer(sqlite_database: Database, redis: Any, tmp_path: Path) -> Rescorer:
    return a_rescorer(sqlite_database, redis, tmp_path)


def a_rescorer(database: Database, redis: Any, home: Path) -> Rescorer:
    store = ArtifactStore(f"file://{home}/artifacts")
    current = CurrentModel(database, store, home / "cache")
    return Rescorer(database, Worker(redis, current), current)


@pytest.fixture
async def model(sqlite_database: Database, tmp_path: Path) -> str:
    folder = make_linear(tmp_path / "made", better=LONG, worse=SHORT)
    return await publish(sqlite_database, tmp_path, folder)


async def test_only_what_lacks_a_score_is_asked_for(database: Database) -> None:
    ids = await remember(database, 3)
    odd = [
        a_completion("erased", "q", LONG),
        a_completion("unstored", "q", stored=False, choices=()),
        a_completion("refused", "q", end=CompletionEnd.REFUSED, choices=()),
    ]
    async with database.write() as connection:
        await completions.record(connection, odd)
        await completions.erase(connection, "default", "erased")
    wanted = [*ids, *(o.id for o in odd), "unknown"]
    wish = await ask(database, "m1", ids=wanted)
    assert wish is not None
    assert wish.completion_ids == tuple(ids)
    assert await ask(database, "m1", ids=wanted[::-1]) == wish, "the same wish is the same row"
    everything = await ask(database, "m1")
    assert everything is not None
    assert everything.id != wish.id
    async with database.read() as connection:
        assert await rescoring.remaining(connection, everything) == 3
        first = await rescoring.oldest_open(connection)
    assert first is not None
    assert first.id == wish.id


async def test_a_wish_stays_the_same_while_it_is_done_and_is_not_repeated_at_once(
    rescorer: Rescorer, redis: Any, sqlite_database: Database, model: str
) -> None:
    ids = await remember(sqlite_database)
    wish = await ask(sqlite_database, model, ids=ids)
    assert wish is not None
    await rescorer.step()
    await record(redis, sqlite_database)
    half = await ask(sqlite_database, model, ids=ids)
    assert half is not None
    assert (half.id, half.asked_at, half.state) == (wish.id, wish.asked_at, "running")
    await rescorer.run_until_done()
    unrecorded = await ask(sqlite_database, model, ids=ids)
    assert unrecorded is not None
    assert unrecorded.state == "done", "its last scores are on their way"
    async with sqlite_database.write() as connection:
        long_ago = update(rescorings).values(changed_at=now() - timedelta(minutes=1))
        await connection.execute(long_ago)
    again = await ask(sqlite_database, model, ids=ids)
    assert again is not None
    assert (again.state, again.position) == ("asked", ""), "they got lost: once more"
    assert len(again.completion_ids or ()) == COUNT - PAGE


async def test_a_wish_can_begin_at_a_moment(database: Database) -> None:
    await remember(database, 5)
    wish = await ask(database, "m1", since=AT + timedelta(hours=3))
    assert wish is not None
    async with database.read() as connection:
        page = await rescoring.page(connection, wish, 10)
        assert page is not None
        assert [s.id for s in page.served] == ["c003", "c004"]
    assert await ask(database, "m1", since=AT + timedelta(hours=9)) is None


async def test_all_choices_get_their_score_and_then_nothing_is_left_to_ask(
    rescorer: Rescorer, redis: Any, sqlite_database: Database, model: str
) -> None:
    ids = await remember(sqlite_database)
    wish = await ask(sqlite_database, model, ids=ids)
    assert wish is not None
    await rescorer.run_until_done()
    await record(redis, sqlite_database)
    async with sqlite_database.read() as connection:
        found = await rescoring.scores_of(connection, model, ids)
        ended = await rescoring.get(connection, wish.id)
    assert ended is not None
    assert (ended.state, ended.scored, ended.failed) == ("done", 2 * COUNT, 0)
    assert len(found) == 2 * COUNT
    assert all(found[i, 0] > 0 > found[i, 1] for i in ids)  # type: ignore[operator]
    assert await ask(sqlite_database, model, ids=ids) is None
    assert await ask(sqlite_database, model) is None


async def test_a_dataset_asks_for_what_it_lacks_and_finds_it_later(
    rescorer: Rescorer, redis: Any, sqlite_database: Database, model: str
) -> None:
    ids = await remember(sqlite_database, 4)
    before = await scores_of(sqlite_database, ids)
    assert (before.reward_model, before.found) == (model, {})
    assert before.awaited_since is not None
    await rescorer.run_until_done()
    await record(redis, sqlite_database)
    after = await scores_of(sqlite_database, ids)
    assert after.awaited_since is None
    assert set(after.found) == {(i, choice) for i in ids for choice in (0, 1)}
    newer = make_linear(Path(rescorer.current.cache).parent / "newer", better=SHORT, worse=LONG)
    name = await publish(sqlite_database, Path(rescorer.current.cache).parent, newer)
    again = await scores_of(sqlite_database, ids)
    assert (again.reward_model, again.found) == (name, {}), "another model, other scores"


async def expire_lease(database: Database) -> None:
    async with database.write() as connection:
        await connection.execute(update(leases_table).values(expires_at=now()))


async def test_after_a_kill_another_process_goes_on_where_it_was(
    rescorer: Rescorer, redis: Any, sqlite_database: Database, model: str, tmp_path: Path
) -> None:
    await remember(sqlite_database)
    await ask(sqlite_database, model)
    await rescorer.step()
    assert len(await said(redis)) == 2 * PAGE
    other = a_rescorer(sqlite_database, redis, tmp_path)
    assert await other.step() is False, "the lease of the killed one still runs"
    await expire_lease(sqlite_database)
    await other.run_until_done()
    keys = [s.key for s in await said(redis)]
    assert len(keys) == len(set(keys)) == 2 * COUNT


async def test_a_kill_before_the_note_repeats_a_page_under_the_same_keys(
    rescorer: Rescorer, redis: Any, sqlite_database: Database, model: str, tmp_path: Path
) -> None:
    await remember(sqlite_database)
    wish = await ask(sqlite_database, model)
    assert wish is not None
    async with sqlite_database.write() as connection:
        lease = await leases.acquire(connection, "rescoring", "dead", timedelta(0))
        page = await rescoring.page(connection, wish, PAGE)
    assert lease is not None
    assert page is not None
    await rescorer._publish(page, await rescorer.current.open_named(model))
    await a_rescorer(sqlite_database, redis, tmp_path).run_until_done()
    keys = [s.key for s in await said(redis)]
    assert (len(keys), len(set(keys))) == (2 * COUNT + 2 * PAGE, 2 * COUNT)
    await record(redis, sqlite_database)
    assert await ask(sqlite_database, model) is None


async def test_who_lost_the_lease_writes_nothing_more(
    rescorer: Rescorer, redis: Any, sqlite_database: Database, model: str, tmp_path: Path
) -> None:
    await remember(sqlite_database, 3)
    wish = await ask(sqlite_database, model)
    assert wish is not None
    async with sqlite_database.write() as connection:
        old = await leases.acquire(connection, "rescoring", "slow", timedelta(0))
    assert old is not None
    await a_rescorer(sqlite_database, redis, tmp_path).run_until_done()
    with pytest.raises(leases.LeaseLost):
        await rescorer._note(old, wish, state="running", position="")
    async with sqlite_database.read() as connection:
        ended = await rescoring.get(connection, wish.id)
    assert ended is not None
    assert ended.state == "done"


async def test_wishes_that_ended_long_ago_go_as_another_ends(
    rescorer: Rescorer, sqlite_database: Database, model: str
) -> None:
    await remember(sqlite_database, 3)
    for since in (AT, AT + timedelta(hours=1)):
        await ask(sqlite_database, model, since=since)
    await rescorer.run_until_done()
    open_one = await ask(sqlite_database, "no-such-model", since=AT)
    assert open_one is not None
    async with sqlite_database.write() as connection:
        (first, second) = [w for w in await rescoring.newest(connection) if w.state == "done"]
        for wish in (first, open_one):
            long_ago = {"changed_at": now() - rescoring.KEPT - timedelta(minutes=1)}
            c = rescorings.c
            await connection.execute(update(rescorings).where(c.id == wish.id).values(long_ago))
        assert len(await rescoring.newest(connection)) == 3
    await rescorer.run_until_done()
    async with sqlite_database.read() as connection:
        left = {w.id for w in await rescoring.newest(connection)}
    assert left == {second.id, open_one.id}, "what is open stays, however old"


@pytest.mark.parametrize("problem", ["unknown", "damaged"])
async def test_a_model_that_cannot_score_ends_the_wish_with_the_reason(
    rescorer: Rescorer, sqlite_database: Database, model: str, tmp_path: Path, problem: str
) -> None:
    await remember(sqlite_database, 2)
    if problem == "damaged":
        (tmp_path / "artifacts" / model / "reward.npz").write_bytes(b"torn")
    wish = await ask(sqlite_database, model if problem == "damaged" else "no-such-model")
    assert wish is not None
    await rescorer.run_until_done()
    async with sqlite_database.read() as connection:
        ended = await rescoring.get(connection, wish.id)
    assert ended is not None
    assert ended.state == "failed"
    assert {"unknown": "no-such-model", "damaged": "digest"}[problem] in str(ended.error)


async def test_an_operator_asks_and_waits(
    rescorer: Rescorer,
    redis: Any,
    valkey_url: str,
    sqlite_database: Database,
    model: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LEARNBACK_REDIS_URL", valkey_url)
    monkeypatch.setenv("LEARNBACK_HOME", str(tmp_path))

    def command(*arguments: str) -> Any:
        result = CliRunner().invoke(main, ["rewards", *arguments, "--json"])
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    await remember(sqlite_database, 5)
    later = (AT + timedelta(hours=3)).isoformat()
    asked = await asyncio.to_thread(command, "rescore", "--since", later, "--no-wait")
    assert (asked["reward_model"], asked["state"], asked["remaining"]) == (model, "asked", 2)
    waiting = asyncio.create_task(asyncio.to_thread(command, "rescore"))

    async def done() -> bool:
        await rescorer.run_until_done()
        await record(redis, sqlite_database)
        return waiting.done()

    await wait_until(done, "the command ends once all scores are recorded")
    ended = waiting.result()
    assert (ended["state"], ended["remaining"]) == ("done", 0)
    assert (await asyncio.to_thread(command, "rescore"))["id"] is None
    listed = await asyncio.to_thread(command, "rescorings")
    assert {r["state"] for r in listed} == {"done"}
