"""What runs beside the feedback API: recorder, relay, grace time, trimming, measuring."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from prometheus_client import REGISTRY
from redis.exceptions import ConnectionError as RedisAway
from sqlalchemy import func, select
from tests.conftest import wait_until
from tests.feedback_service import (
    Service,
    a_completion,
    correction,
    preference,
    service,
    thumbs,
)

from learnback.contracts.messages import CompletionScored
from learnback.contracts.models import FeedbackStatus, Track
from learnback.contracts.streams import COMPLETIONS, FEEDBACK, REWARDS
from learnback.core.bus import Consumer, create_groups, publish
from learnback.core.clock import now
from learnback.feedback import expiry, upkeep
from learnback.feedback.app import GROUP
from learnback.feedback.recorder import Recorder
from learnback.feedback.relay import Relay
from learnback.feedback.settings import FeedbackSettings
from learnback.ledger import outbox
from learnback.ledger.tables import completions, rewards

NO_GRACE = timedelta(seconds=-1)


@pytest.fixture
async def api(database: Any, redis: Any) -> AsyncIterator[Service]:
    async with service(database, redis) as opened:
        yield opened


def a_reward(completion_id: str, score: float | None = 0.5) -> CompletionScored:
    return CompletionScored(
        completion_id=completion_id,
        tenant="default",
        scorer="rules",
        scorer_version="1",
        version="tiny-base-0",
        track=Track.STABLE,
        at=now(),
        score=score,
    )


async def count(database: Any, table: Any) -> int:
    async with database.read() as connection:
        found = await connection.execute(select(func.count()).select_from(table))
    return int(found.scalar_one())


async def test_a_redelivered_batch_changes_nothing(api: Service) -> None:
    one = a_completion()
    posted = await api.post(correction(one.id))
    recorder = Recorder(api.database)
    scored = [a_reward(one.id), a_reward(one.id, None)]
    for _ in range(3):
        await recorder.completions([one, one])
        await recorder.rewards(scored)
    assert await count(api.database, completions) == 1
    assert await count(api.database, rewards) == 1
    assert (await api.get(posted["id"]))["revision"] == 2
    shown = (await api.client.get(f"/v1/completions/{one.id}")).json()
    assert [reward["score"] for reward in shown["rewards"]] == [0.5]


async def test_what_only_one_database_could_store_is_stored_on_both(api: Service) -> None:
    odd = a_completion("nul \x00 here", metadata={"k": "\x00"}, parameters={"t": float("nan")})
    long = a_completion(session="s" * 400, subject="u" * 5000)
    nul = a_completion(session="a\x00b")
    waits = {"kind": "outcome", "name": "resolved", "value": 1}
    outcomes = [await api.post({**waits, "session_id": s}) for s in ("a\ufffdb", "s" * 200)]
    await Recorder(api.database).completions([odd, long, nul])
    shown = (await api.client.get(f"/v1/completions/{odd.id}")).json()
    assert shown["prompt"][0]["content"] == "nul \ufffd here"
    assert shown["parameters"] == {"t": None}
    assert await count(api.database, completions) == 3
    assert {(await api.get(o["id"]))["status"] for o in outcomes} == {"recorded"}, "joined"


async def test_a_relay_that_dies_after_publishing_repeats_and_loses_nothing(api: Service) -> None:
    one = a_completion()
    await api.record(one)
    for i in range(3):
        await api.post(correction(one.id, text=f"t{i}"))

    class Dies(Relay):
        async def _publish(self, waiting: list[outbox.Waiting]) -> None:
            await super()._publish(waiting)
            raise RedisAway("killed between publishing and deleting")

    with pytest.raises(RedisAway):
        await Dies(api.database, api.redis).run_until_empty()
    keys = [message.key for message in await api.relayed()]
    assert len(keys) == 6
    assert len(set(keys)) == 3
    assert await count(api.database, outbox.outbox) == 0


async def test_the_relay_waits_for_redis_and_then_sends(
    sqlite_database: Any, redis: Any, valkey_url: str
) -> None:
    from learnback.core.redis import connect

    away = connect("redis://127.0.0.1:1/0")
    async with service(sqlite_database, redis) as api:
        await api.record(one := a_completion())
        await api.post(correction(one.id))
        relay = Relay(sqlite_database, away, timedelta(milliseconds=20))
        running = asyncio.create_task(relay.run_forever())
        await wait_until(lambda: not relay.healthy, "the relay notices that Redis is away")
        assert await count(sqlite_database, outbox.outbox) == 1
        relay.redis = redis
        await wait_until(lambda: redis.xlen(FEEDBACK.key), "the message arrives")
        running.cancel()
    await away.aclose()


async def test_a_woken_relay_sends_at_once(api: Service) -> None:
    slow = Relay(api.database, api.redis, timedelta(hours=1))
    running = asyncio.create_task(slow.run_forever())
    await wait_until(lambda: slow._woken._waiters, "the relay rests")
    recorder = Recorder(api.database, slow.wake)
    posted = await api.post(correction((one := a_completion()).id))
    assert posted["status"] == "pending_target"
    await recorder.completions([one])
    await wait_until(lambda: api.redis.xlen(FEEDBACK.key), "woken", timeout_s=5)
    running.cancel()


async def test_two_relays_keep_the_order(api: Service) -> None:
    one = a_completion()
    for i in range(30):
        await api.post(correction(one.id, text=f"t{i}"))
    await api.record(one)
    rival = Relay(api.database, api.redis)
    await asyncio.gather(*(relay.run_until_empty() for relay in (api.relay, rival) * 4))
    revisions: dict[str, list[int]] = {}
    for message in await api.relayed():
        revisions.setdefault(message.id, []).append(message.revision)
    assert len(revisions) == 30
    if not api.database.sqlite:  # there two processes share a ledger only by accident
        assert all(found == [1, 2] for found in revisions.values())


async def test_the_grace_time_ends_what_never_found_its_target(api: Service) -> None:
    unknown = await api.post(thumbs("chatcmpl-nobody"))
    outcome = {"kind": "outcome", "session_id": "nowhere", "name": "resolved", "value": 1}
    session = await api.post(outcome)
    assert await expiry.sweep(api.database, timedelta(hours=1)) == 0
    assert await expiry.sweep(api.database, NO_GRACE) == 2
    assert await expiry.sweep(api.database, NO_GRACE) == 0
    for posted in (unknown, session):
        shown = await api.get(posted["id"])
        assert shown["status"] == "expired"
        assert "was recorded within" in shown["status_reason"]
    await api.record(a_completion(id="chatcmpl-nobody"))
    assert await api.counts() == {"expired": 2}


async def test_the_sweep_ends_more_than_one_transaction_holds(api: Service) -> None:
    items = [thumbs(f"chatcmpl-{i}") for i in range(expiry.MOST_PER_COMMIT + 1)]
    await api.client.post("/v1/feedback/batch", json={"items": items})
    assert await expiry.sweep(api.database, NO_GRACE) == len(items)


async def test_feedback_and_its_completion_at_the_same_moment_find_each_other(
    api: Service,
) -> None:
    made = [a_completion() for _ in range(40)]
    recorder = Recorder(api.database)
    await asyncio.gather(
        *(api.post(preference(a.id, b.id)) for a, b in zip(made[::2], made[1::2], strict=True)),
        *(recorder.completions([completion]) for completion in made),
    )
    assert await api.counts() == {"accepted": 20}


async def test_streams_are_trimmed_of_what_everybody_has_handled(api: Service) -> None:
    await create_groups(api.redis)
    made = [a_completion() for _ in range(20)]
    await api.record(*made)
    assert await upkeep.trim(api.redis, keep=5) == 0, "the reward group has read nothing"

    async def ignore(_: Any) -> None:
        return None

    await Consumer(api.redis, COMPLETIONS, "reward", ignore, name="t").run_until_empty()
    assert 0 < await upkeep.trim(api.redis, keep=5) <= 15


async def test_gauges_say_how_far_everything_is_behind(api: Service) -> None:
    await create_groups(api.redis)
    await api.post(thumbs("chatcmpl-nobody"))
    await publish(api.redis, REWARDS, [a_reward("chatcmpl-nobody")])
    await upkeep.measure(api.database, api.redis)

    def gauge(name: str, **labels: str) -> float | None:
        return REGISTRY.get_sample_value(f"learnback_feedback_{name}", labels)

    assert gauge("outbox_messages") == 1
    assert gauge("ledger_signals", status=FeedbackStatus.PENDING_TARGET.value) == 1
    assert gauge("stream_lag_messages", stream="rewards", group=GROUP) == 1
    told = await api.redis.info("memory")
    assert gauge("redis_used_bytes") == pytest.approx(told["used_memory"], rel=0.5)
    assert gauge("redis_limit_bytes") == told["maxmemory"]


async def test_the_process_closes_the_loop_by_itself(database: Any, redis: Any) -> None:
    """The lifespan runs recorder, relay and sweeps without a hand."""
    settings = FeedbackSettings(grace=timedelta(seconds=1), sweep_interval=timedelta(seconds=0.1))
    async with (
        service(database, redis, settings=settings) as api,
        api.app.router.lifespan_context(api.app),
    ):
        one = a_completion()
        lost = await api.post(thumbs("chatcmpl-nobody"))
        posted = await api.post(correction(one.id))
        await publish(redis, COMPLETIONS, [one])
        assert posted["status"] == "pending_target"

        async def is_now(feedback_id: str, status: str) -> bool:
            return bool((await api.get(feedback_id))["status"] == status)

        await wait_until(lambda: is_now(posted["id"], "accepted"), "joined")
        await wait_until(lambda: is_now(lost["id"], "expired"), "expired")

        async def all_sent() -> bool:
            return await redis.xlen(FEEDBACK.key) == 4

        await wait_until(all_sent, "four messages on the stream")
        ready = await api.client.get("/readyz")
        assert ready.status_code == 200, ready.text
        assert "learnback_feedback_outbox" in (await api.client.get("/metrics")).text
