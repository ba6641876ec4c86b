"""Whatever happens in whatever order, every signal has one status and the counts add up."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Coroutine
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import httpx
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from tests.feedback_service import a_completion, correction, preference, thumbs

from learnback.contracts.models import FeedbackStatus
from learnback.contracts.streams import FEEDBACK
from learnback.core.redis import connect
from learnback.feedback import expiry
from learnback.feedback.app import create_app
from learnback.feedback.recorder import Recorder
from learnback.feedback.settings import FeedbackSettings
from learnback.ledger import feedback as signals
from learnback.ledger.database import Database
from learnback.ledger.keys import KeyRing
from learnback.ledger.migrate import migrate

R = TypeVar("R")
COMPLETIONS = [f"chatcmpl-{i}" for i in range(4)]
COMPLETION = st.sampled_from(COMPLETIONS)
KEY = st.sampled_from([None, "k1", "k2", "k3"])
TAKEN = {FeedbackStatus.TRAINED, FeedbackStatus.HELD_OUT}


class Signals(RuleBasedStateMachine):
    """People, the recorder, the clock and a training run, in any order.

    `ids` and `keys` are what a caller knows from the answers alone.
    """

    valkey_url = ""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.folder = tempfile.TemporaryDirectory()
        self.database = Database(f"sqlite:///{Path(self.folder.name) / 'ledger.db'}")
        self.redis = connect(self.valkey_url)
        ring = KeyRing(self.database)
        app = create_app(FeedbackSettings(), self.database, self.redis, ring, require_keys=False)
        self.relay = app.state.parts.relay
        self.recorder = Recorder(self.database)
        self.client = httpx.AsyncClient(
            transport=httpx.ASGITransport(app=app), base_url="http://feedback"
        )
        self.ids: list[str] = []
        self.keys: dict[str, tuple[str, Any]] = {}

    def do(self, work: Coroutine[Any, Any, R]) -> R:
        return self.loop.run_until_complete(work)

    @initialize()
    def prepare(self) -> None:
        self.do(self.redis.flushall())
        self.do(migrate(self.database))

    def request(self, method: str, path: str, body: Any = None, key: str | None = None) -> Any:
        headers = {"Idempotency-Key": key} if key else {}
        response = self.do(self.client.request(method, path, json=body, headers=headers))
        assert response.status_code < 500
        return response

    def post(self, body: Any, key: str | None) -> None:
        response = self.request("POST", "/v1/feedback", body, key)
        known = self.keys.get(key) if key else None
        if known is not None:
            assert response.status_code == (202 if known[1] == body else 409)
            return
        if response.status_code == 202:
            self.ids.append(response.json()["id"])
            if key:
                self.keys[key] = (self.ids[-1], body)

    @rule(target_id=COMPLETION, key=KEY, choice=st.integers(0, 1))
    def correct(self, target_id: str, key: str | None, choice: int) -> None:
        self.post(correction(target_id, choice=choice), key)

    @rule(one=COMPLETION, other=COMPLETION, key=KEY)
    def prefer(self, one: str, other: str, key: str | None) -> None:
        if one != other:
            self.post(preference(one, other), key)

    @rule(data=st.data(), target_id=COMPLETION)
    @precondition(lambda self: self.ids)
    def supersede(self, data: st.DataObject, target_id: str) -> None:
        old = data.draw(st.sampled_from(self.ids))
        response = self.request("PUT", f"/v1/feedback/{old}", thumbs(target_id))
        if response.status_code == 202:
            self.ids.append(response.json()["id"])

    @rule(data=st.data())
    @precondition(lambda self: self.ids)
    def withdraw(self, data: st.DataObject) -> None:
        self.request("DELETE", f"/v1/feedback/{data.draw(st.sampled_from(self.ids))}")

    @rule(completion_id=COMPLETION)
    def erase(self, completion_id: str) -> None:
        self.request("DELETE", f"/v1/completions/{completion_id}")

    @rule(ids=st.lists(COMPLETION, min_size=1), prompt=st.sampled_from(["p", "q"]))
    def record(self, ids: list[str], prompt: str) -> None:
        served = [a_completion(prompt, id=completion_id) for completion_id in ids]
        self.do(self.recorder.completions(served))

    @rule()
    def let_the_grace_time_pass(self) -> None:
        self.do(expiry.sweep(self.database, timedelta(seconds=-1)))

    @rule(status=st.sampled_from(sorted(TAKEN)))
    def train(self, status: FeedbackStatus) -> None:
        self.do(self._train(status))

    async def _train(self, status: FeedbackStatus) -> None:
        async with self.database.write() as connection:
            rows = (await signals.locked(connection, self.ids)).values()
            await signals.change(
                connection,
                [
                    signals.Change(row, status, None, (("run_id", "run_1"),))
                    for row in rows
                    if row.status == FeedbackStatus.ACCEPTED
                ],
            )

    @rule()
    def relay_all(self) -> None:
        self.do(self.relay.run_until_empty())

    @invariant()
    def counts_add_up_to_what_was_received(self) -> None:
        async def count() -> tuple[dict[FeedbackStatus, int], int]:
            async with self.database.read() as connection:
                return await signals.reconcile(connection), await signals.received(connection)

        counts, received = self.do(count())
        assert sum(counts.values()) == received == len(self.ids) == len(set(self.ids))

    def teardown(self) -> None:
        if self.ids:
            self.do(self._the_stream_tells_the_ledger())
        self.do(self.client.aclose())
        self.do(self.redis.aclose())
        self.do(self.database.close())
        self.loop.close()
        self.folder.cleanup()

    async def _the_stream_tells_the_ledger(self) -> None:
        """Every change was relayed once, in order, and the last one is the row."""
        await self.relay.run_until_empty()
        last: dict[str, tuple[int, str]] = {}
        for _, fields in await self.redis.xrange(FEEDBACK.key):
            message = FEEDBACK.message.model_validate_json(fields[b"body"])
            assert message.revision == last.get(message.id, (0, ""))[0] + 1
            last[message.id] = (message.revision, message.status)
        async with self.database.read() as connection:
            rows = await signals.locked(connection, self.ids)
        assert last == {row.id: (row.revision, row.status) for row in rows.values()}
        by_id = {row.id: row for row in rows.values()}
        for row in by_id.values():
            if row.superseded_by:
                assert by_id[row.superseded_by].supersedes == row.id


def test_counts_add_up_under_any_order_of_events(valkey_url: str) -> None:
    Signals.valkey_url = valkey_url
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        Signals,
        settings=settings(
            max_examples=25,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            database=None,
        ),
    )
