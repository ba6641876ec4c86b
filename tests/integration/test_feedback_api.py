"""Feedback over HTTP: durable, counted once, joined, superseded, withdrawn, erased."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from sqlalchemy import func, select
from tests.feedback_service import (
    Service,
    a_completion,
    a_key,
    correction,
    preference,
    service,
    thumbs,
)

from learnback.contracts.models import FeedbackStatus, Scope
from learnback.ledger.tables import feedback, idempotency_keys, outbox


@pytest.fixture
async def api(database: Any, redis: Any) -> AsyncIterator[Service]:
    async with service(database, redis) as opened:
        yield opened


async def rows_of(api: Service, table: Any) -> int:
    async with api.database.read() as connection:
        count = await connection.execute(select(func.count()).select_from(table))
    return int(count.scalar_one())


async def test_a_preference_waits_for_training_and_tells_the_stream(api: Service) -> None:
    one, other = a_completion(), a_completion(answers=["5", "6"])
    await api.record(one, other)
    body = preference(one.id, other.id, rater={"id": "u1"}, reason="right", tags=["math"])
    body["second"]["choice"] = 1
    posted = await api.post(body)
    assert posted["status"] == "accepted"
    shown = await api.get(posted["id"])
    assert shown["status"] == "accepted"
    assert shown["revision"] == 1
    assert shown["body"]["second"] == {"completion_id": other.id, "choice": 1}
    (message,) = await api.relayed()
    assert (message.id, message.status, message.revision) == (posted["id"], "accepted", 1)
    assert await rows_of(api, outbox) == 0


@pytest.mark.parametrize(
    ("kind", "changes", "status", "reason"),
    [
        ("thumbs", {"value": "down"}, "accepted", None),
        ("rating", {"value": 4}, "accepted", None),
        ("comment", {"text": "hm"}, "recorded", "comments"),
        ("correction", {"text": "better"}, "accepted", None),
    ],
)
async def test_each_kind_gets_its_status(
    api: Service, kind: str, changes: dict[str, Any], status: str, reason: str | None
) -> None:
    one = a_completion()
    await api.record(one)
    posted = await api.post({"kind": kind, "completion_id": one.id} | changes)
    assert posted["status"] == status
    assert (reason or "") in (posted["status_reason"] or "")


async def test_a_tie_is_of_use_and_a_text_can_win(api: Service) -> None:
    one, other = a_completion(), a_completion()
    await api.record(one, other)
    tie = await api.post(preference(one.id, other.id, preferred="tie_bad"))
    assert tie["status"] == "accepted"
    text = await api.post(preference(one.id, "-", second={"text": "four"}, preferred="second"))
    assert text["status"] == "accepted"


async def test_the_same_key_twenty_times_at_once_is_one_signal(api: Service) -> None:
    one = a_completion()
    await api.record(one)
    answers = await asyncio.gather(*(api.post(correction(one.id), key="k-1") for _ in range(20)))
    assert len({answer["id"] for answer in answers}) == 1
    assert await api.counts() == {"accepted": 1}
    assert await rows_of(api, idempotency_keys) == 1


async def test_the_same_key_across_replicas_is_one_signal(database: Any, redis: Any) -> None:
    one = a_completion()
    async with service(database, redis) as left, service(database, redis) as right:
        await left.record(one)
        answers = await asyncio.gather(
            *(
                api.post(correction(one.id), key=f"k-{i % 4}")
                for i in range(24)
                for api in (left, right)
            )
        )
        assert len({answer["id"] for answer in answers}) == 4
        assert await left.counts() == {"accepted": 4}


async def test_a_replay_is_marked_and_another_body_refused(api: Service) -> None:
    one = a_completion()
    await api.record(one)
    first = await api.post(thumbs(one.id), key="k-1")
    again = await api.client.post(
        "/v1/feedback", json=thumbs(one.id), headers={"Idempotency-Key": "k-1"}
    )
    assert again.status_code == 202
    assert again.headers["idempotent-replayed"] == "true"
    assert again.json() == first
    refused = await api.post(thumbs(one.id, value="down"), 409, key="k-1")
    assert refused["errors"][0]["field"] == "Idempotency-Key"
    assert await api.counts() == {"accepted": 1}


async def test_a_refused_body_does_not_use_up_its_key(api: Service) -> None:
    one = a_completion()
    await api.record(one)
    await api.post(correction(one.id, choice=3), 422, key="k-1")
    await api.post(correction(one.id), key="k-1")
    assert await api.counts() == {"accepted": 1}


async def test_feedback_before_its_completion_is_joined_later(api: Service) -> None:
    one, other = a_completion(), a_completion()
    posted = await api.post(preference(one.id, other.id))
    assert posted["status"] == "pending_target"
    await api.record(one)
    assert (await api.get(posted["id"]))["status"] == "pending_target"
    await api.record(other)
    shown = await api.get(posted["id"])
    assert (shown["status"], shown["revision"]) == ("accepted", 2)
    assert shown["joined_at"] is not None
    assert [m.status for m in await api.relayed()] == ["pending_target", "accepted"]


async def test_a_signal_that_contradicts_its_late_completion_is_quarantined(
    api: Service,
) -> None:
    one, other, third = a_completion("a"), a_completion("b"), a_completion("a")
    apart = await api.post(preference(one.id, other.id))
    no_choice = await api.post(correction(third.id, choice=2))
    await api.record(one, other, third)
    assert "different prompts" in (await api.get(apart["id"]))["status_reason"]
    assert "no choice 2" in (await api.get(no_choice["id"]))["status_reason"]
    assert await api.counts() == {"quarantined": 2}


async def test_the_same_contradictions_are_refused_when_known(api: Service) -> None:
    one, other = a_completion("a"), a_completion("b")
    failed = a_completion(choices=(), end="refused", status_code=400)
    await api.record(one, other, failed)
    apart = await api.post(preference(one.id, other.id), 422)
    assert apart["errors"][0]["field"] == "second.completion_id"
    choice = await api.post(
        preference(one.id, "x", second={"text": "t"}, first={"completion_id": one.id, "choice": 9}),
        422,
    )
    assert choice["errors"][0]["field"] == "first.choice"
    assert "failed" in (await api.post(thumbs(failed.id), 422))["detail"]
    assert await api.counts() == {}
    assert await rows_of(api, outbox) == 0


async def test_a_completion_that_was_not_stored_is_recorded_only(api: Service) -> None:
    unstored = a_completion(stored=False, prompt=(), choices=())
    await api.record(unstored)
    posted = await api.post(correction(unstored.id))
    assert posted["status"] == "recorded"
    assert "store=false" in posted["status_reason"]


async def test_an_outcome_belongs_to_a_session(api: Service) -> None:
    outcome = {"kind": "outcome", "session_id": "s-1", "name": "resolved", "value": 1}
    early = await api.post(outcome)
    assert early["status"] == "pending_target"
    await api.record(a_completion(session="s-1"))
    assert (await api.get(early["id"]))["status"] == "recorded"
    assert (await api.post(outcome))["status"] == "recorded"


async def test_superseding_makes_a_new_signal(api: Service) -> None:
    one = a_completion()
    await api.record(one)
    old = await api.post(correction(one.id))
    await api.set_status(
        old["id"], FeedbackStatus.TRAINED, run_id="run_1", trained_version="tiny-dpo-1"
    )
    url = f"/v1/feedback/{old['id']}"
    put = await api.client.put(url, json=correction(one.id, text="best"))
    assert put.status_code == 202
    new = put.json()
    assert new["id"] != old["id"]
    was, is_now = await api.get(old["id"]), await api.get(new["id"])
    assert (was["status"], was["superseded_by"]) == ("superseded", new["id"])
    assert (was["run_id"], was["trained_version"]) == ("run_1", "tiny-dpo-1")
    assert (is_now["status"], is_now["supersedes"]) == ("accepted", old["id"])
    assert (await api.client.put(url, json=correction(one.id))).status_code == 409
    assert (await api.client.delete(url)).status_code == 409
    assert await api.counts() == {"superseded": 1, "accepted": 1}
    assert [(m.id, m.status) for m in await api.relayed()][2:] == [
        (new["id"], "accepted"),
        (old["id"], "superseded"),
    ]


async def test_superseding_twice_with_one_key_is_once(api: Service) -> None:
    one = a_completion()
    await api.record(one)
    url = f"/v1/feedback/{(await api.post(correction(one.id)))['id']}"

    async def put() -> Any:
        body = correction(one.id, text="best")
        return await api.client.put(url, json=body, headers={"Idempotency-Key": "p"})

    answers = await asyncio.gather(*(put() for _ in range(5)))
    assert {a.status_code for a in answers} == {202}
    assert len({a.json()["id"] for a in answers}) == 1


async def test_rivals_that_supersede_one_signal_have_one_winner(api: Service) -> None:
    one = a_completion()
    await api.record(one)
    url = f"/v1/feedback/{(await api.post(correction(one.id)))['id']}"
    answers = await asyncio.gather(
        *(api.client.put(url, json=correction(one.id, text=f"t{i}")) for i in range(6))
    )
    assert sorted(a.status_code for a in answers) == [202, 409, 409, 409, 409, 409]
    assert await api.counts() == {"accepted": 1, "superseded": 1}


async def test_withdrawing_is_idempotent_and_keeps_what_was_trained(api: Service) -> None:
    one = a_completion()
    await api.record(one)
    posted = await api.post(correction(one.id))
    await api.set_status(posted["id"], FeedbackStatus.TRAINED, trained_version="tiny-dpo-1")
    url = f"/v1/feedback/{posted['id']}"
    first = await api.client.delete(url)
    again = await api.client.delete(url)
    assert first.status_code == again.status_code == 200
    assert first.json() == again.json()
    assert first.json()["status"] == "withdrawn"
    assert first.json()["trained_version"] == "tiny-dpo-1"
    assert (await api.client.put(url, json=correction(one.id))).status_code == 409


async def test_erasing_empties_the_completion_and_its_feedback(api: Service) -> None:
    one, other = a_completion("my name is Bob", session="s"), a_completion("my name is Bob")
    await api.record(one, other)
    posted = [
        await api.post(correction(one.id, text="Bob!", rater={"id": "bob"})),
        await api.post(preference(other.id, one.id, reason="Bob")),
    ]
    url = f"/v1/completions/{one.id}"
    assert (await api.client.get(url)).json()["prompt"][0]["content"] == "my name is Bob"
    erased = await api.client.delete(url)
    assert erased.json()["feedback_erased"] == 2
    assert (await api.client.delete(url)).json()["feedback_erased"] == 0
    assert (await api.client.get(url)).status_code == 410
    for signal in posted:
        shown = await api.get(signal["id"])
        assert (shown["status"], shown["body"]) == ("erased", None)
        gone = await api.client.put(f"/v1/feedback/{signal['id']}", json=correction(other.id))
        assert gone.status_code == 410
    await api.post(correction(one.id), 410)
    await api.record(one)
    assert (await api.client.get(url)).status_code == 410
    async with api.database.read() as connection:
        kept = (await connection.execute(select(feedback))).all()
    assert "Bob" not in str(kept)


async def test_tenants_do_not_see_each_other(database: Any, redis: Any) -> None:
    ours, theirs = await a_key(database, "ours"), await a_key(database, "theirs")
    async with (
        service(database, redis, require_keys=True, secret=ours) as us,
        service(database, redis, require_keys=True, secret=theirs) as them,
    ):
        one = a_completion(tenant="ours")
        await us.record(one)
        posted = await us.post(correction(one.id), key="same")
        foreign = await them.post(correction(one.id), key="same")
        unknown = await them.post(correction("chatcmpl-nobody"))
        assert foreign["status"] == unknown["status"] == "pending_target"
        await us.record(one)
        assert (await them.get(foreign["id"]))["status"] == "pending_target"
        url = f"/v1/feedback/{posted['id']}"
        for response in (
            await them.client.get(url),
            await them.client.delete(url),
            await them.client.put(url, json=correction(one.id)),
            await them.client.get(f"/v1/completions/{one.id}"),
            await them.client.delete(f"/v1/completions/{one.id}"),
        ):
            assert response.status_code == 404, response.text
        assert len((await them.client.get("/v1/feedback")).json()["data"]) == 2
        assert (await them.client.get("/v1/completions")).json()["data"] == []


async def test_keys_and_scopes_are_asked_for(sqlite_database: Any, redis: Any) -> None:
    infer = await a_key(sqlite_database, "ours", Scope.INFER)
    async with service(sqlite_database, redis, require_keys=True) as api:
        anonymous = await api.client.get("/v1/feedback")
        assert anonymous.status_code == 401
        assert anonymous.headers["www-authenticate"] == "Bearer"
        header = {"Authorization": f"Bearer {infer}"}
        assert (await api.client.get("/v1/feedback", headers=header)).status_code == 403


async def test_lists_are_filtered_and_paged(api: Service) -> None:
    made = [a_completion(metadata={"app": "web", "n.o": str(i % 2)}) for i in range(5)]
    await api.record(*made, a_completion(metadata={"app": "mobile"}))
    for completion in made:
        await api.post(correction(completion.id))
        await api.post(thumbs(completion.id))
    found: list[str] = []
    after = ""
    while True:
        query = f"?kind=correction&status=accepted&limit=2{after}"
        listed = (await api.client.get(f"/v1/feedback{query}")).json()
        found += [item["completion_id"] for item in listed["data"]]
        after = f"&after={listed['last_id']}"
        if not listed["has_more"]:
            break
    assert found == [completion.id for completion in reversed(made)]
    of_one = await api.client.get(f"/v1/feedback?completion_id={made[0].id}")
    assert len(of_one.json()["data"]) == 2
    web = await api.client.get("/v1/completions?metadata[app]=web&limit=3")
    assert (len(web.json()["data"]), web.json()["has_more"]) == (3, True)
    rest = await api.client.get(
        f"/v1/completions?metadata[app]=web&limit=3&after={web.json()['last_id']}"
    )
    assert [c["id"] for c in rest.json()["data"]] == [made[1].id, made[0].id]
    odd = await api.client.get("/v1/completions?metadata[app]=web&metadata[n.o]=1")
    assert [c["id"] for c in odd.json()["data"]] == [made[3].id, made[1].id]


async def test_a_batch_gives_each_item_its_result(api: Service) -> None:
    one = a_completion()
    await api.record(one)
    items = [
        correction(one.id) | {"idempotency_key": "b-1"},
        correction(one.id) | {"idempotency_key": "b-1"},
        thumbs(one.id, value="sideways"),
        correction(one.id, choice=7),
        {"kind": "praise"},
        thumbs(one.id),
    ]
    response = await api.client.post("/v1/feedback/batch", json={"items": items})
    results = response.json()["results"]
    assert [r["status_code"] for r in results] == [202, 202, 422, 422, 422, 202]
    assert results[0]["id"] == results[1]["id"]
    assert [r["replayed"] for r in results[:2]] == [False, True]
    assert [r["error"]["errors"][0]["field"] for r in results[2:5]] == ["value", "choice", "kind"]
    assert await api.counts() == {"accepted": 2}


async def test_a_thousand_items_are_one_request(api: Service) -> None:
    one = a_completion()
    await api.record(one)
    items = [correction(one.id, text=f"t{i}") for i in range(1000)]
    response = await api.client.post("/v1/feedback/batch", json={"items": items})
    assert {r["status_code"] for r in response.json()["results"]} == {202}
    assert await api.counts() == {"accepted": 1000}
    assert len(await api.relayed()) == 1000


async def test_a_dry_run_stores_nothing(api: Service) -> None:
    one = a_completion()
    await api.record(one)
    url = "/v1/feedback?dry_run=true"
    good = await api.client.post(url, json=correction(one.id))
    assert (good.status_code, good.json()["status"], good.json()["id"]) == (200, "accepted", None)
    assert (await api.client.post(url, json=correction(one.id, choice=1))).status_code == 422
    batch = await api.client.post(
        "/v1/feedback/batch?dry_run=true", json={"items": [thumbs(one.id), {}]}
    )
    assert [r["status_code"] for r in batch.json()["results"]] == [200, 422]
    assert await api.counts() == {}
    assert await rows_of(api, outbox) == 0
