"""Bad input to the feedback API: a status, a message that says what is wrong, nothing written."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.feedback_service import (
    Service,
    a_completion,
    a_key,
    correction,
    preference,
    service,
    snapshot,
    thumbs,
)

from learnback.contracts.models import Scope
from learnback.core.clock import now
from learnback.feedback.settings import FeedbackSettings

KNOWN = "chatcmpl-known"
TWIN = "chatcmpl-twin"
APART = "chatcmpl-apart"
FOREIGN = "chatcmpl-foreign"
ERASED = "chatcmpl-erased"
FAILED = "chatcmpl-failed"
JSON_TYPE = {"Content-Type": "application/json"}
POST = "/v1/feedback"
MAX_BODY = 100_000


@dataclass(frozen=True)
class Bad:
    """A request that must be refused."""

    name: str
    status: int
    says: str
    body: Any = None
    """Bytes are sent as they are, anything else as JSON."""
    method: str = "POST"
    path: str = POST
    headers: dict[str, str] = field(default_factory=lambda: dict(JSON_TYPE))


def with_field(**changes: Any) -> dict[str, Any]:
    return thumbs(KNOWN, **changes)


def rating(**changes: Any) -> dict[str, Any]:
    return {"kind": "rating", "completion_id": KNOWN, "value": 3} | changes


def outcome(**changes: Any) -> dict[str, Any]:
    return {"kind": "outcome", "session_id": "s", "name": "n", "value": 1} | changes


def raw(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def thumbs_with(part: str) -> bytes:
    return raw(f'{{"kind":"thumbs","completion_id":"{KNOWN}","value":"up",{part}}}')


SOON = (now() + timedelta(days=1)).isoformat()

BODIES = [
    Bad("no body", 422, "required"),
    Bad("empty object", 422, "kind: Field required", {}),
    Bad("a list", 422, "", []),
    Bad("a string", 422, "", "hello"),
    Bad("null", 422, "", b"null"),
    Bad("a number", 422, "", b"7"),
    Bad("cut off JSON", 400, "not JSON", b'{"kind": "thumbs", '),
    Bad("two documents", 400, "not JSON", b"{}{}"),
    Bad("single quotes", 400, "not JSON", b"{'kind': 'thumbs'}"),
    Bad("trailing comma", 400, "not JSON", b'{"kind": "thumbs",}'),
    Bad("not UTF-8", 400, "UTF-8", b'{"kind": "\xff\xfe"}'),
    Bad("UTF-16", 400, "", '{"kind": "thumbs"}'.encode("utf-16")),
    Bad("deep arrays", 400, "deeper", b"[" * 100_000),
    Bad("deep objects", 400, "deeper", b'{"a":' * 5000 + b"1" + b"}" * 5000),
    Bad("an integer of 5000 digits", 400, "", thumbs_with('"choice":' + "9" * 5000)),
    Bad("over the size limit", 413, "100000 bytes", {"text": "x" * MAX_BODY}),
    Bad("text/plain", 415, "application/json", b"{}", headers={"Content-Type": "text/plain"}),
    Bad("a form", 415, "application/json", b"a=b", headers={
        "Content-Type": "application/x-www-form-urlencoded"}),
    Bad("no content type", 415, "not none", b"{}", headers={}),
    Bad("unknown kind", 422, "kind: Input should be", {"kind": "praise"}),
    Bad("kind of a wrong type", 422, "kind", {"kind": 7}),
    Bad("kind is null", 422, "kind", {"kind": None}),
    Bad("kind is a surrogate", 422, "kind", b'{"kind": "\\ud800"}'),
    Bad("unknown field", 422, "stars: Extra inputs", with_field(stars=5)),
    Bad("unknown surrogate field", 422, "unicode", thumbs_with('"\\udc00":1')),
    Bad("unknown huge field", 422, "Extra inputs", with_field(**{"y" * 50_000: 1})),
    Bad("field of another kind", 422, "text: Extra inputs", with_field(text="x")),
    Bad("status from outside", 422, "status: Extra inputs", with_field(status="trained")),
    Bad("no completion_id", 422, "completion_id: Field required", {
        "kind": "thumbs", "value": "up"}),
    Bad("completion_id a number", 422, "completion_id: Input should be a valid string",
        thumbs(7)),  # type: ignore[arg-type]
    Bad("completion_id empty", 422, "completion_id", thumbs("")),
    Bad("completion_id with a path", 422, "completion_id", thumbs("../../etc/passwd")),
    Bad("completion_id with SQL", 422, "completion_id", thumbs("x'; DROP TABLE feedback;--")),
    Bad("completion_id too long", 422, "completion_id", thumbs("a" * 97)),
    Bad("completion_id with a newline", 422, "completion_id", thumbs(KNOWN + "\n")),
    Bad("choice negative", 422, "choice", with_field(choice=-1)),
    Bad("choice huge", 422, "choice", with_field(choice=2**31)),
    Bad("choice a string", 422, "choice: Input should be a valid integer", with_field(choice="0")),
    Bad("choice a fraction", 422, "choice", with_field(choice=0.5)),
    Bad("choice true", 422, "choice", with_field(choice=True)),
    Bad("choice that is not there", 422, "no choice 3; it has 0", with_field(choice=3)),
    Bad("thumbs sideways", 422, "value: Input should be 'up' or 'down'", with_field(value="meh")),
    Bad("thumbs a boolean", 422, "value", with_field(value=True)),
    Bad("rating over its scale", 422, "value: 6.0 is not on the scale from 1.0 to 5.0",
        rating(value=6)),
    Bad("rating NaN", 422, "value: Input should be a finite number",
        raw(json.dumps(rating(value=float("nan"))))),
    Bad("rating infinite", 422, "finite", raw(json.dumps(rating(value=float("inf"))))),
    Bad("rating 1e999", 422, "finite", raw(json.dumps(rating()).replace("3", "1e999"))),
    Bad("rating a string", 422, "value: Input should be a valid number", rating(value="3")),
    Bad("rating a boolean", 422, "value", rating(value=True)),
    Bad("scale upside down", 422, "scale.max: max must be greater than min",
        rating(scale={"min": 5, "max": 1})),
    Bad("scale without room", 422, "scale.max", rating(scale={"min": 5})),
    Bad("scale unknown field", 422, "scale.step: Extra", rating(scale={"step": 1})),
    Bad("scale a list", 422, "scale", rating(scale=[1, 5])),
    Bad("preference without a side", 422, "second: Field required",
        {"kind": "preference", "first": {"completion_id": KNOWN}, "preferred": "first"}),
    Bad("preference with itself", 422, "second: first and second are the same",
        preference(KNOWN, KNOWN)),
    Bad("two texts", 422, "second: At most one",
        preference("-", "-") | {"first": {"text": "a"}, "second": {"text": "b"}}),
    Bad("a side both text and completion", 422, "first.text: Extra inputs",
        preference("-", TWIN) | {"first": {"text": "a", "completion_id": KNOWN}}),
    Bad("an empty side", 422, "first.completion_id: Field required",
        preference("-", TWIN) | {"first": {}}),
    Bad("a side is a string", 422, "first", preference("-", TWIN) | {"first": KNOWN}),
    Bad("another prompt", 422, "different prompts", preference(KNOWN, APART)),
    Bad("a side's choice is not there", 422, "first.choice: ",
        preference("-", TWIN) | {"first": {"completion_id": KNOWN, "choice": "x"}}),
    Bad("preferred neither", 422, "preferred", preference(KNOWN, TWIN, preferred="third")),
    Bad("strength 0", 422, "strength", preference(KNOWN, TWIN, strength=0)),
    Bad("strength over 1", 422, "strength", preference(KNOWN, TWIN, strength=1.01)),
    Bad("empty correction", 422, "text", correction(KNOWN, text="")),
    Bad("correction too long", 422, "text", correction(KNOWN, text="x" * 65_537)),
    Bad("NUL in a text", 422, "text: NUL", correction(KNOWN, text="a\x00b")),
    Bad("half a surrogate", 422, "text", raw(json.dumps(correction(KNOWN, text="\ud800")))),
    Bad("outcome infinite", 422, "value", raw(json.dumps(outcome(value=float("-inf"))))),
    Bad("outcome without a name", 422, "name", outcome(name="")),
    Bad("outcome's session too long", 422, "session_id", outcome(session_id="s" * 201)),
    Bad("outcome about a completion", 422, "completion_id: Extra", outcome(completion_id=KNOWN)),
    Bad("rater a string", 422, "rater", with_field(rater="bob")),
    Bad("rater unknown kind", 422, "rater.kind", with_field(rater={"kind": "cat"})),
    Bad("rater unknown field", 422, "rater.age: Extra", with_field(rater={"age": 7})),
    Bad("17 tags", 422, "tags", with_field(tags=["t"] * 17)),
    Bad("a tag is a number", 422, "tags.0", with_field(tags=[1])),
    Bad("17 metadata pairs", 422, "metadata", with_field(metadata={str(i): "" for i in range(17)})),
    Bad("metadata value a number", 422, "metadata.k", with_field(metadata={"k": 1})),
    Bad("metadata key too long", 422, "metadata", with_field(metadata={"k" * 65: ""})),
    Bad("surrogate in a metadata key", 422, "unicode",
        thumbs_with('"metadata":{"\\ud800":"x"}')),
    Bad("NUL in a metadata key", 422, "NUL", with_field(metadata={"\x00": ""})),
    Bad("time without a zone", 422, "created_at", with_field(created_at="2026-01-01T00:00:00")),
    Bad("time in the future", 422, "created_at: This is more", with_field(created_at=SOON)),
    Bad("time before time", 422, "created_at", with_field(created_at="0001-01-01T00:00:00+14:00")),
    Bad("time a number", 422, "created_at: Write a time", with_field(created_at=1700000000)),
    Bad("time a date", 422, "created_at", with_field(created_at="2026-01-01")),
    Bad("erased completion", 410, "erased", thumbs(ERASED)),
    Bad("completion without an answer", 422, "request failed", thumbs(FAILED)),
    Bad("idempotency key too long", 422, "Idempotency-Key", thumbs(KNOWN),
        headers={**JSON_TYPE, "Idempotency-Key": "k" * 201}),
    Bad("idempotency key empty", 422, "Idempotency-Key", thumbs(KNOWN),
        headers={**JSON_TYPE, "Idempotency-Key": ""}),
    Bad("dry_run neither", 422, "dry_run", thumbs(KNOWN), path=f"{POST}?dry_run=perhaps"),
    Bad("empty batch", 422, "items", {"items": []}, path=f"{POST}/batch"),
    Bad("batch of 1001", 422, "items", {"items": [{}] * 1001}, path=f"{POST}/batch"),
    Bad("batch of strings", 422, "items.0", {"items": ["x"]}, path=f"{POST}/batch"),
    Bad("batch is a list", 422, "", [thumbs(KNOWN)], path=f"{POST}/batch"),
    Bad("batch unknown field", 422, "extra: Extra", {"items": [{}], "extra": 1},
        path=f"{POST}/batch"),
]  # fmt: skip

PATHS = [
    Bad("unknown feedback", 404, "no feedback", method="GET", path=f"{POST}/fb_nobody"),
    Bad("NUL in an id", 404, "", method="GET", path=f"{POST}/fb_%00"),
    Bad("bad UTF-8 in an id", 404, "", method="GET", path=f"{POST}/%ff%fe"),
    Bad("a very long id", 422, "", method="GET", path=f"{POST}/{'x' * 5000}"),
    Bad("withdraw unknown", 404, "no feedback", method="DELETE", path=f"{POST}/fb_nobody"),
    Bad("supersede unknown", 404, "no feedback", thumbs(KNOWN), "PUT", f"{POST}/fb_nobody"),
    Bad("supersede by nonsense", 422, "kind", {}, "PUT", f"{POST}/fb_nobody"),
    Bad("list over the limit", 422, "limit", method="GET", path=f"{POST}?limit=101"),
    Bad("list of a huge limit", 422, "limit", method="GET", path=f"{POST}?limit={'9' * 50}"),
    Bad("list after nothing", 422, "after", method="GET", path=f"{POST}?after=fb_nobody"),
    Bad("list of an unknown status", 422, "status", method="GET", path=f"{POST}?status=good"),
    Bad("list of a NUL", 422, "completion_id", method="GET", path=f"{POST}?completion_id=%00"),
    Bad("unknown completion", 404, "no completion", method="GET", path="/v1/completions/x"),
    Bad("another tenant's", 404, "no completion", method="GET", path=f"/v1/completions/{FOREIGN}"),
    Bad("erase another tenant's", 404, "", method="DELETE", path=f"/v1/completions/{FOREIGN}"),
    Bad("erased", 410, "erased", method="GET", path=f"/v1/completions/{ERASED}"),
    Bad("filter by a quote", 422, "metadata", method="GET",
        path='/v1/completions?metadata[a"]=1'),
    Bad("filter by a NUL", 422, "metadata", method="GET", path="/v1/completions?metadata[a]=%00"),
    Bad("session with a NUL", 422, "session", method="GET", path="/v1/completions?session=%00"),
    Bad("unknown path", 404, "Not Found", method="GET", path="/v1/feedbacks"),
    Bad("wrong method", 405, "Not Allowed", {}, "PATCH", POST),
]  # fmt: skip


@pytest.fixture
async def api(sqlite_database: Any, redis: Any) -> AsyncIterator[Service]:
    settings = FeedbackSettings(max_body_bytes=MAX_BODY)
    async with service(sqlite_database, redis, settings=settings) as opened:
        await opened.record(
            a_completion("p", id=KNOWN),
            a_completion("p", id=TWIN),
            a_completion("q", id=APART),
            a_completion("p", id=FOREIGN, tenant="others"),
            a_completion("p", id=ERASED),
            a_completion("p", id=FAILED, choices=(), status_code=400, end="refused"),
        )
        assert (await opened.client.delete(f"/v1/completions/{ERASED}")).status_code == 200
        yield opened


@pytest.fixture
async def api_on_both(database: Any, redis: Any) -> AsyncIterator[Service]:
    async with service(database, redis) as opened:
        await opened.record(a_completion("p", id=KNOWN))
        yield opened


async def refuse(api: Service, bad: Bad) -> None:
    before = await snapshot(api.database)
    content = bad.body if isinstance(bad.body, bytes) else None
    if bad.body is not None and content is None:
        content = json.dumps(bad.body).encode()
    response = await api.client.request(bad.method, bad.path, content=content, headers=bad.headers)
    assert response.status_code == bad.status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    document = response.json()
    assert document["status"] == bad.status
    assert bad.says in document["detail"] + json.dumps(document["errors"])
    assert "<" not in "".join(error["field"] for error in document["errors"])
    assert len(response.content) < 20_000
    assert await snapshot(api.database) == before


@pytest.mark.parametrize("bad", BODIES, ids=lambda bad: bad.name)
async def test_a_bad_body_is_refused(api: Service, bad: Bad) -> None:
    await refuse(api, bad)


@pytest.mark.parametrize("bad", PATHS, ids=lambda bad: bad.name)
async def test_a_bad_path_or_query_is_refused(api: Service, bad: Bad) -> None:
    await refuse(api, bad)


async def test_both_databases_refuse_what_one_could_not_store(api_on_both: Service) -> None:
    for bad in [*BODIES, *PATHS]:
        if any(word in bad.name for word in ("NUL", "surrogate", "UTF-8", "huge")):
            await refuse(api_on_both, bad)


async def test_what_is_odd_but_right_is_taken(api: Service) -> None:
    odd = [
        correction(KNOWN, text="\U0001f600 \u202e \ufffe é"),
        with_field(choice=0, metadata={'a b/c[0]"': "x" * 512}, tags=["t"] * 16),
        rating(value=-1e308, scale={"min": -1e308, "max": 1e308}),
        with_field(created_at="2026-01-01T00:00:00+14:00", reason="'; DROP TABLE feedback;--"),
        outcome(value=-0.0, session_id="\u3000"),
    ]
    for body in odd:
        await api.post(body)
    assert sum((await api.counts()).values()) == len(odd)


async def test_keys_of_others_get_nowhere(sqlite_database: Any, redis: Any) -> None:
    infer = await a_key(sqlite_database, "ours", Scope.INFER)
    rows = [
        (None, 401), ("Bearer", 401), ("Basic bGI6", 401), ("Bearer sk-123", 401),
        (f"Bearer {infer}x", 401), (f"Bearer {infer[:-1]}!", 401), (f"Bearer {infer}", 403),
    ]  # fmt: skip
    async with service(sqlite_database, redis, require_keys=True) as api:
        before = await snapshot(sqlite_database)
        for header, status in rows:
            headers = {"Authorization": header} if header else {}
            for method, path in (("POST", POST), ("GET", POST), ("DELETE", f"{POST}/x")):
                response = await api.client.request(
                    method, path, headers=headers, json=thumbs(KNOWN) if method == "POST" else None
                )
                assert response.status_code == status, (header, response.text)
                assert response.json()["detail"]
        assert await snapshot(sqlite_database) == before


async def test_too_many_are_told_when_to_come_back(sqlite_database: Any, redis: Any) -> None:
    settings = FeedbackSettings(rate_per_s=0.1, rate_burst=2)
    async with service(sqlite_database, redis, settings=settings) as api:
        for _ in range(2):
            await api.post(thumbs(KNOWN))
        refused = await api.client.post(POST, json=thumbs(KNOWN))
        assert refused.status_code == 429
        assert 1 <= int(refused.headers["retry-after"]) <= 10
        batch = await api.client.post(f"{POST}/batch", json={"items": [thumbs(KNOWN)]})
        assert batch.status_code == 429
        assert await api.counts() == {"pending_target": 2}


async def test_without_the_ledger_nothing_is_promised(tmp_path: Path, redis: Any) -> None:
    from learnback.ledger.database import Database

    away = Database("postgresql://nobody@127.0.0.1:1/none")
    async with service(away, redis) as api:
        refused = await api.client.post(POST, json=thumbs(KNOWN))
        assert refused.status_code == 503
        assert refused.json()["code"] == "unavailable"
        assert (await api.client.get("/readyz")).status_code == 503
        assert (await api.client.get("/healthz")).status_code == 200
    await away.close()
