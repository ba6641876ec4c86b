"""Kill each process in turn during the loop: nothing acknowledged is missing, nothing is twice."""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter
from typing import Any

import httpx
import pytest
from sqlalchemy import select
from tests.conftest import wait_until
from tests.e2e.conftest import Up

from learnback.contracts.models import FeedbackStatus
from learnback.core.bus import REDELIVERY_S
from learnback.core.redis import connect
from learnback.core.streams import lags
from learnback.ledger.database import Database
from learnback.ledger.tables import completions, feedback, rewards

ROUND = 12
"""Completions, each with one signal, before and after each kill."""
STANDS = "stands"
STANDING = {
    FeedbackStatus.ACCEPTED, FeedbackStatus.RECORDED, FeedbackStatus.TRAINED,
    FeedbackStatus.HELD_OUT, FeedbackStatus.QUARANTINED,
}  # fmt: skip
"""Of a word that nobody took back: a random model's empty answer can't be learned from, say."""
RECLAIMED_WITHIN_S = 4 * REDELIVERY_S
"""What a killed worker had read is taken over after `REDELIVERY_S`, when somebody looks."""


class Crowd:
    """People who keep asking and judging, and remember what was acknowledged."""

    def __init__(self, up: Up) -> None:
        self.up = up
        self.answered: set[str] = set()
        self.accepted: dict[str, str] = {}
        """Feedback id by idempotency key, for each 202."""
        self.expected: dict[str, str] = {}
        """What becomes of each text that people said."""

    async def ask_and_judge(self, count: int, *, within_s: float = 240) -> None:
        """`count` completions with a signal each; retries like a client, until it is through."""
        async with httpx.AsyncClient(timeout=60, trust_env=False) as http:
            for number in range(count):
                completion = await self._until(within_s, self._ask, http)
                key = uuid.uuid4().hex
                said = await self._until(within_s, self._judge, http, completion, key)
                self.accepted[key], self.expected[key] = said, STANDS
                if number % 4 == 1:
                    await self._until(within_s, self._withdraw, http, said)
                    self.expected[key] = FeedbackStatus.WITHDRAWN
                if number % 4 == 2:
                    newer = uuid.uuid4().hex
                    replaced = await self._until(
                        within_s, self._judge, http, completion, newer, said
                    )
                    self.expected[key] = FeedbackStatus.SUPERSEDED
                    self.accepted[newer], self.expected[newer] = replaced, STANDS

    async def _until(self, within_s: float, attempt: Any, *arguments: Any) -> str:
        async def tried() -> str | None:
            try:
                return await attempt(*arguments)
            except httpx.TransportError:
                return None

        return str(await wait_until(tried, attempt.__name__, within_s))

    async def _ask(self, http: httpx.AsyncClient) -> str | None:
        answer = await http.post(
            f"{self.up.urls['inference']}/v1/chat/completions",
            json={
                "model": "learnback",
                "messages": [{"role": "user", "content": f"hello {uuid.uuid4().hex}"}],
                "max_tokens": 8,
            },
        )
        if answer.status_code != 200:
            return None
        self.answered.add(answer.json()["id"])
        return str(answer.json()["id"])

    async def _judge(
        self, http: httpx.AsyncClient, completion: str, key: str, instead_of: str | None = None
    ) -> str | None:
        url = f"{self.up.urls['feedback']}/v1/feedback"
        answer = await http.request(
            "PUT" if instead_of else "POST",
            f"{url}/{instead_of}" if instead_of else url,
            json={"kind": "correction", "completion_id": completion, "text": f"better {key}"},
            headers={"Idempotency-Key": key},
        )
        assert answer.status_code < 500 or answer.status_code == 503, answer.text
        return answer.json()["id"] if answer.status_code in {200, 202} else None

    async def _withdraw(self, http: httpx.AsyncClient, feedback_id: str) -> str | None:
        answer = await http.delete(f"{self.up.urls['feedback']}/v1/feedback/{feedback_id}")
        assert answer.status_code < 500 or answer.status_code == 503, answer.text
        return feedback_id if answer.is_success else None


async def settle(up: Up, crowd: Crowd) -> None:
    """Wait until every answer is in the ledger and every queue is read and done."""
    await wait_until(
        lambda: all_recorded(up, crowd), "all answers are in the ledger", RECLAIMED_WITHIN_S
    )
    redis = connect(up.redis_url)

    async def empty() -> bool:
        try:
            return all(q.lag == 0 and q.pending == 0 for q in await lags(redis))
        except OSError:
            return False

    try:
        await wait_until(empty, "all queues are empty", RECLAIMED_WITHIN_S)
    finally:
        await redis.aclose()


async def all_recorded(up: Up, crowd: Crowd) -> bool:
    """Whether the ledger has every completion that was answered."""
    database = Database(f"sqlite:///{up.home / 'ledger.db'}")
    try:
        async with database.read() as c:
            return crowd.answered <= set((await c.execute(select(completions.c.id))).scalars())
    finally:
        await database.close()


async def reconcile(up: Up, crowd: Crowd) -> None:
    """The books, to the row."""
    database = Database(f"sqlite:///{up.home / 'ledger.db'}")
    try:
        async with database.read() as c:
            recorded = set((await c.execute(select(completions.c.id))).scalars())
            signals = [
                (row.id, row.body["text"].removeprefix("better "), row.status)
                for row in await c.execute(
                    select(feedback.c.id, feedback.c.body, feedback.c.status).where(
                        feedback.c.kind == "correction"
                    )
                )
                if row.body.get("text", "").startswith("better ")
            ]
            scored = Counter(
                (
                    await c.execute(
                        select(rewards.c.completion_id).where(rewards.c.scorer == "rules")
                    )
                ).scalars()
            )
    finally:
        await database.close()
    assert crowd.answered <= recorded, f"not recorded: {crowd.answered - recorded}"
    own = [signal for signal in signals if signal[1] in crowd.expected]
    assert Counter(key for _, key, _ in own) == Counter(crowd.expected.keys()), "lost or twice"
    assert {key: feedback_id for feedback_id, key, _ in own} == crowd.accepted
    became = {key: STANDS if status in STANDING else status for _, key, status in own}
    assert became == crowd.expected
    assert all(scored[completion] == 1 for completion in crowd.answered)


@pytest.mark.parametrize(
    "process", ["feedback", "reward", "retraining", "release", "valkey", "inference"]
)
async def test_kill_nine_loses_and_doubles_nothing(up: Up, process: str) -> None:
    crowd = Crowd(up)
    await crowd.ask_and_judge(ROUND)
    before = up.child(process)
    busy = asyncio.create_task(crowd.ask_and_judge(ROUND))
    under_way = ROUND + 3
    await wait_until(lambda: len(crowd.answered) >= under_way, "people are in the midst of asking")
    before.kill()
    await busy

    def again() -> bool:
        try:
            return up.child(process).pid != before.pid
        except LookupError:
            return False

    await wait_until(again, f"{process} runs again", 240)
    await crowd.ask_and_judge(ROUND)
    await settle(up, crowd)
    await reconcile(up, crowd)
