"""The bus delivers at least once, whatever dies: handler, worker or server."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from tests.conftest import wait_until
from tests.factories import a_model_trained
from tests.models_stream import GROUP, OTHER, Seen, consumer, models, pending, poison

from learnback.contracts.messages import ModelTrained
from learnback.contracts.streams import MODELS
from learnback.core.bus import create_groups, encode, publish
from learnback.core.errors import Conflict, Unavailable
from learnback.core.redis import connect
from learnback.core.streams import PAGE, dead_letter, dead_letters, lags, replay


async def test_a_group_sees_what_came_before_it(redis: Any) -> None:
    await publish(redis, MODELS, models(3))
    await create_groups(redis)
    seen = Seen()
    assert await consumer(redis, seen).run_until_empty() == 3
    assert seen.versions == ["v0", "v1", "v2"]


async def test_a_consumer_makes_its_own_group(redis: Any) -> None:
    await publish(redis, MODELS, models(2))
    seen = Seen()
    reading = consumer(redis, seen)
    await reading.run_until_empty()
    await reading.run_until_empty()
    assert seen.versions == ["v0", "v1"]


async def test_creating_groups_again_resets_nothing(redis: Any) -> None:
    await create_groups(redis)
    await publish(redis, MODELS, models(2))
    await consumer(redis, Seen()).run_until_empty()
    await create_groups(redis)
    again = Seen()
    assert await consumer(redis, again).run_until_empty() == 0


async def test_each_group_gets_every_message(redis: Any) -> None:
    await create_groups(redis)
    await publish(redis, MODELS, models(4))
    one, two = Seen(), Seen()
    await consumer(redis, one).run_until_empty()
    await consumer(redis, two, group=OTHER).run_until_empty()
    assert one.versions == two.versions == ["v0", "v1", "v2", "v3"]


async def test_two_workers_share_a_group_without_overlap(redis: Any) -> None:
    await create_groups(redis)
    await publish(redis, MODELS, models(40))
    one, two = Seen(), Seen()
    workers = [
        consumer(redis, one, name="one", batch_size=4),
        consumer(redis, two, name="two", batch_size=4),
    ]
    await asyncio.gather(*(w.run_until_empty() for w in workers))
    assert sorted(one.versions + two.versions) == sorted(m.version for m in models(40))


async def test_an_unknown_group_is_refused(redis: Any) -> None:
    with pytest.raises(ValueError, match="has no group"):
        consumer(redis, Seen(), group="nobody")


async def test_acknowledged_only_after_the_effect(redis: Any) -> None:
    await create_groups(redis)
    await publish(redis, MODELS, models(2))
    during: list[int] = []

    async def handler(messages: Sequence[ModelTrained]) -> None:
        during.append(await pending(redis))

    await consumer(redis, handler).run_until_empty()
    assert (during, await pending(redis)) == ([2], 0)


async def test_a_poison_message_does_not_hold_up_the_others(redis: Any) -> None:
    await create_groups(redis)
    await publish(redis, MODELS, models(5))
    seen = Seen(poison("v2"))
    await consumer(redis, seen).run_until_empty()
    assert seen.versions == ["v0", "v1", "v3", "v4"]
    assert await pending(redis) == 1


async def test_a_message_that_keeps_failing_is_buried_once(redis: Any) -> None:
    await create_groups(redis)
    await publish(redis, MODELS, models(3))
    seen = Seen(poison("v1"))
    await consumer(redis, seen, redelivery_s=0, max_deliveries=3).run_until_empty()
    (letter,) = await dead_letters(redis, MODELS)
    assert (letter.group, letter.deliveries, letter.type) == (GROUP, 3, "ModelTrained")
    assert ModelTrained.model_validate_json(letter.body).version == "v1"
    assert await pending(redis) == 0


async def test_burying_and_acknowledging_are_one_transaction(redis: Any) -> None:
    await create_groups(redis)
    await redis.xadd(MODELS.key, {"type": "Gibberish"})
    sent: list[str] = []
    async with redis.monitor() as monitor:
        await consumer(redis, Seen()).run_until_empty()
        await redis.echo("the end")
        while not sent or sent[-1] != "ECHO":
            sent.append((await monitor.next_command())["command"].split()[0].upper())
    written = [c for c in sent if c in {"MULTI", "XADD", "XACK", "EXEC"}]
    assert written == ["MULTI", "XADD", "XACK", "EXEC"]


@pytest.mark.parametrize(
    "fields",
    [
        {"type": "FeedbackReceived", "body": "{}"},
        {"type": "ModelTrained", "body": "{"},
        {"type": "ModelTrained", "body": b"\xff\xfe"},
        {"type": "ModelTrained", "body": "[" * 5000},
        {"type": b"\xff", "body": "{}"},
        {"anything": "else"},
    ],
)
async def test_what_nobody_can_read_is_buried_at_once(redis: Any, fields: dict[str, Any]) -> None:
    await create_groups(redis)
    await redis.xadd(MODELS.key, fields)
    await publish(redis, MODELS, models(1))
    seen = Seen()
    await consumer(redis, seen).run_until_empty()
    assert seen.versions == ["v0"]
    (letter,) = await dead_letters(redis, MODELS)
    assert letter.deliveries == 1
    assert letter.error


async def test_an_entry_for_an_unreadable_group_kills_nobody(redis: Any) -> None:
    await create_groups(redis)
    await redis.xadd(MODELS.key, {b"type": b"ModelTrained", b"group": b"\xff\xfe"})
    assert await consumer(redis, Seen()).run_until_empty() == 1
    assert (await pending(redis), await dead_letters(redis, MODELS)) == (0, [])


async def test_a_replay_reaches_only_the_group_that_failed(redis: Any) -> None:
    await create_groups(redis)
    await publish(redis, MODELS, models(1))
    await consumer(redis, Seen(poison("v0")), max_deliveries=1).run_until_empty()
    healthy = Seen()
    await consumer(redis, healthy, group=OTHER).run_until_empty()
    (letter,) = await dead_letters(redis, MODELS)

    await replay(redis, MODELS, letter)

    mended = Seen()
    await consumer(redis, mended).run_until_empty()
    await consumer(redis, healthy, group=OTHER).run_until_empty()
    assert (mended.versions, healthy.versions) == (["v0"], ["v0"])
    assert await dead_letters(redis, MODELS) == []
    assert await pending(redis) == await pending(redis, OTHER) == 0


async def test_a_replay_that_fails_again_is_buried_again(redis: Any) -> None:
    await create_groups(redis)
    await publish(redis, MODELS, models(1))
    failing = consumer(redis, Seen(poison("v0")), max_deliveries=1)
    await failing.run_until_empty()
    await replay(redis, MODELS, (await dead_letters(redis, MODELS))[0])
    await failing.run_until_empty()
    (letter,) = await dead_letters(redis, MODELS)
    assert letter.group == GROUP
    assert ModelTrained.model_validate_json(letter.body).version == "v0"


async def test_more_dead_letters_than_a_page_are_counted_listed_and_found(redis: Any) -> None:
    await create_groups(redis)
    pipeline = redis.pipeline()
    for number in range(2 * PAGE + 3):
        group = OTHER if number == 0 else GROUP
        pipeline.xadd(MODELS.dead_key, {"group": group, "type": "ModelTrained", "body": "{}"})
    ids = [entry.decode() for entry in await pipeline.execute()]

    assert [letter.id for letter in await dead_letters(redis, MODELS)] == ids[::-1]
    found = {lag.group: lag.dead for lag in await lags(redis) if lag.stream == MODELS.name}
    assert (found[GROUP], found[OTHER]) == (2 * PAGE + 2, 1)
    oldest = await dead_letter(redis, MODELS, ids[0])
    assert oldest is not None
    assert oldest.group == OTHER
    assert await dead_letter(redis, MODELS, "1-1") is None
    assert await dead_letter(redis, MODELS, "nonsense") is None


async def test_a_server_that_is_too_old_is_refused_with_the_way_out(
    redis: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def info(section: str) -> dict[str, str]:
        return {"redis_version": "6.2.14"}

    monkeypatch.setattr(redis, "info", info)
    with pytest.raises(Conflict, match=r"Redis 6\.2\.14; Learnback needs Redis 7"):
        await create_groups(redis)


async def read_and_die(redis: Any, count: int, name: str = "dead") -> None:
    """A worker that reads a batch and is killed before any effect."""
    await redis.xreadgroup(GROUP, name, {MODELS.key: ">"}, count=count)


async def test_what_a_dead_worker_held_is_taken_over(redis: Any) -> None:
    await create_groups(redis)
    await publish(redis, MODELS, models(3))
    await read_and_die(redis, 2)
    seen = Seen()
    await consumer(redis, seen, redelivery_s=0).run_until_empty()
    assert sorted(seen.versions) == ["v0", "v1", "v2"]
    assert await pending(redis) == 0


async def test_a_worker_that_is_only_slow_keeps_its_batch(redis: Any) -> None:
    await create_groups(redis)
    await publish(redis, MODELS, models(2))
    await read_and_die(redis, 2, name="slow")
    seen = Seen()
    assert await consumer(redis, seen, redelivery_s=60).run_until_empty() == 0


async def test_a_large_backlog_of_a_dead_worker_is_taken_over_at_once(redis: Any) -> None:
    """Not one batch per `redelivery_s`: after an outage that would take hours."""
    await create_groups(redis)
    await publish(redis, MODELS, models(50))
    await read_and_die(redis, 50)
    await wait_until(lambda: idle_ms(redis, 200), "the entries became old enough")
    seen = Seen()
    reading = consumer(redis, seen, redelivery_s=0.2, batch_size=5, block_ms=10)
    task = asyncio.create_task(reading.run_forever())
    await wait_until(lambda: len(seen.versions) >= 50, "all 50 taken over", timeout_s=5)
    reading.stop()
    await task
    assert sorted(seen.versions) == sorted(m.version for m in models(50))


async def idle_ms(redis: Any, at_least: int) -> bool:
    found = await redis.xpending_range(MODELS.key, GROUP, "-", "+", 1)
    return bool(found and found[0]["time_since_delivered"] > at_least)


async def test_unavailable_never_buries_and_counts_nothing(redis: Any) -> None:
    await create_groups(redis)
    await publish(redis, MODELS, models(2))
    away = True
    seen = Seen(lambda version: Unavailable("the ledger is away") if away else None)
    reading = consumer(redis, seen, redelivery_s=0, max_deliveries=2)
    for _ in range(6):
        with pytest.raises(Unavailable):
            await reading.run_until_empty()
    assert await dead_letters(redis, MODELS) == []
    counts = await redis.xpending_range(MODELS.key, GROUP, "-", "+", 10)
    assert [entry["times_delivered"] for entry in counts] == [1, 1]

    away = False
    await reading.run_until_empty()
    assert seen.versions == ["v0", "v1"]
    assert await pending(redis) == 0


async def test_unavailable_reads_no_further(redis: Any) -> None:
    """Else an outage of the ledger would turn the whole stream into one worker's backlog."""
    await create_groups(redis)
    await publish(redis, MODELS, models(30))
    reading = consumer(
        redis, Seen(lambda version: Unavailable("away")), batch_size=5, redelivery_s=60
    )
    for _ in range(4):
        with pytest.raises(Unavailable):
            await reading.run_until_empty()
    assert await pending(redis) == 5


async def test_a_held_batch_is_dropped_if_another_worker_did_it(redis: Any) -> None:
    await create_groups(redis)
    await publish(redis, MODELS, models(2))
    away = True
    seen = Seen(lambda version: Unavailable("away") if away else None)
    stuck = consumer(redis, seen, name="stuck")
    with pytest.raises(Unavailable):
        await stuck.run_until_empty()
    rival = Seen()
    await consumer(redis, rival, name="rival", redelivery_s=0).run_until_empty()
    away = False
    await stuck.run_until_empty()
    assert (rival.versions, seen.versions) == (["v0", "v1"], [])


async def test_unreadable_entries_are_buried_once_though_the_ledger_is_away(redis: Any) -> None:
    await create_groups(redis)
    await redis.xadd(MODELS.key, {"type": "Gibberish"})
    await publish(redis, MODELS, models(1))
    away = True
    reading = consumer(redis, Seen(lambda version: Unavailable("away") if away else None))
    for _ in range(3):
        with pytest.raises(Unavailable):
            await reading.run_until_empty()
    away = False
    await reading.run_until_empty()
    assert len(await dead_letters(redis, MODELS)) == 1


async def test_a_worker_that_stops_leaves_the_group(redis: Any) -> None:
    await create_groups(redis)
    await publish(redis, MODELS, models(1))
    seen = Seen()
    reading = consumer(redis, seen, block_ms=10)
    task = asyncio.create_task(reading.run_forever())
    await wait_until(lambda: seen.versions, "the message was handled")
    assert reading.healthy
    reading.stop()
    await task
    assert await redis.xinfo_consumers(MODELS.key, GROUP) == []


async def test_a_worker_that_stops_with_work_in_hand_stays_for_reclaim(redis: Any) -> None:
    await create_groups(redis)
    await publish(redis, MODELS, models(1))
    reading = consumer(redis, Seen(poison("v0")), block_ms=10)
    task = asyncio.create_task(reading.run_forever())
    await wait_until(lambda: pending(redis), "the message was read")
    reading.stop()
    await task
    after = Seen()
    await consumer(redis, after, name="next", redelivery_s=0).run_until_empty()
    assert after.versions == ["v0"]


@pytest.mark.parametrize("protocol", ["", "?protocol=2", "?protocol=3"])
async def test_the_url_may_ask_for_either_protocol(
    redis: Any, valkey_url: str, protocol: str
) -> None:
    client = connect(valkey_url + protocol)
    try:
        await create_groups(client)
        await publish(client, MODELS, models(2))
        seen = Seen()
        await read_and_die(client, 1)
        await consumer(client, seen, redelivery_s=0).run_until_empty()
        assert sorted(seen.versions) == ["v0", "v1"]
        assert {lag.lag for lag in await lags(client) if lag.stream == MODELS.name} == {0, 2}
    finally:
        await client.aclose()


async def test_a_message_says_its_type_and_nothing_about_groups() -> None:
    fields = encode(a_model_trained("v1"))
    assert set(fields) == {"type", "body"}
