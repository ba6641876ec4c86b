"""Looking after streams: lags, trimming that loses nothing, and followers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from tests.conftest import wait_until
from tests.factories import a_release_changed
from tests.models_stream import GROUP, OTHER, Seen, consumer, models, poison

from learnback.contracts.messages import ReleaseChanged
from learnback.contracts.streams import MODELS, RELEASES, STREAMS
from learnback.core.bus import create_groups, follow, publish
from learnback.core.errors import Unavailable
from learnback.core.streams import lags, trim


async def test_lag_counts_what_a_group_has_not_read(redis: Any) -> None:
    await publish(redis, MODELS, models(3))
    by_group = {(x.stream, x.group): x for x in await lags(redis)}
    assert by_group[MODELS.name, GROUP].lag == 3  # the group is not even there
    await consumer(redis, Seen(poison("v1"))).run_until_empty()
    mine = {(x.stream, x.group): x for x in await lags(redis)}[MODELS.name, GROUP]
    assert (mine.lag, mine.pending, mine.dead) == (0, 1, 0)
    assert {(x.stream, x.group) for x in await lags(redis)} == {
        (stream.name, group) for stream in STREAMS for group in stream.groups
    }


async def ids(redis: Any) -> list[bytes]:
    return [entry_id for entry_id, _ in await redis.xrange(MODELS.key)]


async def test_trim_drops_nothing_that_a_group_has_not_read(redis: Any) -> None:
    await create_groups(redis)
    await publish(redis, MODELS, models(500))
    await consumer(redis, Seen()).run_until_empty()  # one group of two
    assert await trim(redis, MODELS, keep=10) == 0
    other = Seen()
    await consumer(redis, other, group=OTHER).run_until_empty()
    assert len(other.versions) == 500


async def test_trim_drops_nothing_while_a_group_is_missing(redis: Any) -> None:
    await publish(redis, MODELS, models(500))
    await redis.xgroup_create(MODELS.key, GROUP, id="$")
    assert await trim(redis, MODELS, keep=10) == 0


async def test_trim_keeps_what_is_pending_and_all_after_it(redis: Any) -> None:
    await create_groups(redis)
    await publish(redis, MODELS, models(500))
    await consumer(redis, Seen(), group=OTHER).run_until_empty()
    await consumer(redis, Seen(poison("v300"))).run_until_empty()
    before = await ids(redis)
    dropped = await trim(redis, MODELS, keep=10)
    assert 0 < dropped <= 300
    assert await ids(redis) == before[dropped:]
    late = Seen()
    await consumer(redis, late, redelivery_s=0).run_until_empty()
    assert late.versions == ["v300"]


async def test_trim_keeps_the_newest(redis: Any) -> None:
    await create_groups(redis)
    await publish(redis, MODELS, models(500))
    for group in MODELS.groups:
        await consumer(redis, Seen(), group=group).run_until_empty()
    dropped = await trim(redis, MODELS, keep=120)
    assert 250 <= dropped <= 380  # whole nodes of the server
    assert await redis.xlen(MODELS.key) == 500 - dropped


async def test_trim_of_a_broadcast_keeps_the_newest(redis: Any) -> None:
    await publish(redis, RELEASES, [a_release_changed(i) for i in range(500)])
    dropped = await trim(redis, RELEASES, keep=100)
    assert 250 <= dropped <= 400


async def test_trim_of_nothing_is_nothing(redis: Any) -> None:
    assert [await trim(redis, stream) for stream in STREAMS] == [0] * len(STREAMS)


Record = Callable[[ReleaseChanged], Awaitable[None]]


async def test_follow_reads_the_truth_first_then_every_message(redis: Any) -> None:
    await publish(redis, RELEASES, [a_release_changed(1)])
    order: list[Any] = []

    async def truth() -> None:
        order.append("truth")
        await publish(redis, RELEASES, [a_release_changed(2)])  # comes while the truth is read

    async def message(changed: ReleaseChanged) -> None:
        order.append(changed.revision)

    task = asyncio.create_task(follow(redis, RELEASES, message, on_connect=truth))
    await wait_until(lambda: 2 in order, "the message that came meanwhile")
    task.cancel()
    assert order == ["truth", 2]


async def test_follow_goes_on_after_bad_entries_and_an_absent_ledger(redis: Any) -> None:
    seen: list[int] = []
    truths: list[int] = []

    async def truth() -> None:
        truths.append(1)
        if len(truths) == 1:
            raise Unavailable("the ledger is away")
        await redis.xadd(RELEASES.key, {"type": "Gibberish"})
        await publish(redis, RELEASES, [a_release_changed(7)])

    async def message(changed: ReleaseChanged) -> None:
        seen.append(changed.revision)

    task = asyncio.create_task(follow(redis, RELEASES, message, on_connect=truth))
    await wait_until(lambda: seen == [7], "the message after the bad one")
    task.cancel()
