"""The client against the real service, with faults between them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.feedback_service import Live, a_completion, a_key, live

from learnback.contracts.streams import COMPLETIONS
from learnback.core.bus import publish
from learnback_client import (
    APIConnectionError,
    AsyncLearnback,
    AuthenticationError,
    ConflictError,
    GoneError,
    InternalServerError,
    Learnback,
    NotFoundError,
    NotJoinedError,
    RetryPolicy,
    Text,
    UnprocessableEntityError,
    signals,
)

QUICK = RetryPolicy(max_retries=3, base_s=0.01)


@pytest.fixture
def served(tmp_path: Path, valkey_url: str, redis: Any) -> Iterator[Live]:
    """On an empty Valkey."""
    with live(f"sqlite:///{tmp_path / 'ledger.db'}", valkey_url) as running:
        yield running


@pytest.fixture
def client(served: Live) -> Iterator[Learnback]:
    with Learnback(served.url, retry=QUICK) as opened:
        yield opened


async def test_every_kind_by_both_clients(served: Live, client: Learnback, redis: Any) -> None:
    one, other = a_completion(session="s"), a_completion(metadata={"app": "web"})
    sent = client.preference(one.id, other.id, "first", strength=0.5, rater="u1", tags=["x"])
    assert sent.status == "pending_target"
    await publish(redis, COMPLETIONS, [one, other])
    joined = client.wait_until_joined(str(sent.id), timeout_s=20, interval_s=0.05)
    assert joined.status == "accepted"
    assert joined.body is not None
    assert joined.body["rater"]["id"] == "u1"
    assert client.thumbs(one.id, "up").status == "accepted"
    assert client.rating(one.id, 7, scale=(0, 10)).status == "accepted"
    assert client.comment(one.id, "hm").status == "recorded"
    assert client.outcome("s", "resolved", 1).status == "recorded"
    assert client.preference(one.id, Text("four"), "second").status == "accepted"
    async with AsyncLearnback(served.url, retry=QUICK) as learnback:
        corrected = await learnback.correction(one.id, "better")
        assert corrected.status == "accepted"
        replacing = await learnback.supersede(str(corrected.id), signals.thumbs(one.id, "up"))
        assert (await learnback.get(str(corrected.id))).superseded_by == replacing.id
        assert (await learnback.withdraw(str(replacing.id))).status == "withdrawn"
        assert len((await learnback.list(kind="thumbs")).data) == 2
        page = await learnback.list_completions(metadata={"app": "web"})
        assert [completion.id for completion in page.data] == [other.id]
        assert (await learnback.completion(one.id)).choices[0].text == "4"
        assert (await learnback.erase_completion(one.id)).feedback_erased == 7
        with pytest.raises(GoneError):
            await learnback.completion(one.id)


@pytest.mark.parametrize("fault", ["drop", 503, 500, 429])
def test_a_retry_never_counts_a_signal_twice(
    served: Live, client: Learnback, fault: str | int
) -> None:
    served.edge.plan = [fault, fault]
    sent = client.thumbs("chatcmpl-1", "up")
    assert len(client.list().data) == 1
    assert client.get(str(sent.id)).revision == 1
    posts = [key for method, key in served.edge.seen if method == "POST"]
    assert len(posts) == 3
    assert len(set(posts)) == 1
    assert sent.replayed is (fault == "drop")


def test_a_retried_batch_counts_once(served: Live, client: Learnback) -> None:
    served.edge.plan = ["drop"]
    items = [signals.thumbs(f"chatcmpl-{i}", "up") for i in range(3)]
    results = client.send_batch([*items, signals.thumbs("", "up")])
    assert [result.ok for result in results] == [True, True, True, False]
    assert [result.replayed for result in results] == [True, True, True, False]
    assert results[3].error is not None
    assert results[3].error.errors[0].field == "completion_id"
    assert len(client.list().data) == 3


def test_a_batch_may_be_longer_than_the_service_takes(client: Learnback) -> None:
    items = [signals.thumbs(f"chatcmpl-{i}", "up") for i in range(1001)]
    results = client.send_batch(items)
    assert [result.index for result in results] == list(range(1001))
    assert all(result.ok for result in results)


def test_errors_are_told_apart(served: Live, client: Learnback) -> None:
    client.thumbs("chatcmpl-1", "up", idempotency_key="k")
    with pytest.raises(ConflictError):
        client.thumbs("chatcmpl-1", "down", idempotency_key="k")
    with pytest.raises(NotFoundError):
        client.get("fb_nobody")
    with pytest.raises(UnprocessableEntityError) as refused:
        client.rating("chatcmpl-1", 9)
    assert refused.value.errors[0].field == "value"
    with pytest.raises(NotJoinedError):
        client.wait_until_joined(str(client.thumbs("chatcmpl-1", "up").id), timeout_s=0)
    served.edge.plan = [502, 502, 502, 502]
    with pytest.raises(InternalServerError):
        client.list()
    nowhere = Learnback("http://127.0.0.1:1", retry=RetryPolicy(0))
    with nowhere, pytest.raises(APIConnectionError):
        nowhere.list()


async def test_a_key_is_sent(
    sqlite_database: Any, valkey_url: str, redis: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = await a_key(sqlite_database, "ours")
    with live(sqlite_database.url, valkey_url, require_keys=True) as served:
        async with AsyncLearnback(served.url, secret, retry=QUICK) as learnback:
            assert (await learnback.thumbs("chatcmpl-1", "up")).status == "pending_target"
        monkeypatch.setenv("LEARNBACK_API_KEY", secret)
        monkeypatch.setenv("LEARNBACK_FEEDBACK_URL", served.url)
        async with AsyncLearnback() as learnback:
            assert len((await learnback.list()).data) == 1
        async with AsyncLearnback(api_key="lb_wrong") as learnback:
            with pytest.raises(AuthenticationError):
                await learnback.list()


async def test_a_dry_run_stores_nothing(client: Learnback) -> None:
    checked = client.send(signals.thumbs("chatcmpl-1", "up"), dry_run=True)
    assert (checked.id, checked.status) == (None, "pending_target")
    assert client.list().data == []
