"""Kill each process in turn during the loop: nothing acknowledged is missing, nothing is twice."""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter
from typing import Any

import httpx
import pytest
from sqlalchemy import func, select
from tests.conftest import wait_until
from tests.e2e.conftest import Up

from learnback.core.bus import REDELIVERY_S
from learnback.core.redis import connect
from learnback.core.streams import lags
from learnback.ledger.database import Database
from learnback.ledger.tables import completions, feedback, rewards

ROUND = 12
"""Completions, each with one signal, before and after each kill."""
RECLAIMED_WITHIN_S = 4 * REDELIVERY_S
"""What a killed worker had read is taken over after `REDELIVERY_S`, when somebody looks."""


class Crowd:
    """People who keep asking and judging, and remember what was acknowledged."""

    def __init__(self, up: Up) -> None:
        self.up = up
        self.answered: set[str] = set()
        self.accepted: dict[str, str] = {}
        """Feedback id by idempotency key, for each 202."""

    async def ask_and_judge(self, count: int, *, within_s: float = 240) -> None:
        """`count` completions with a signal each; retries like a client, until it is through."""
        async with httpx.AsyncClient(timeout=60, trust_env=False) as http:
            for _ in range(count):
                completion = await self._until(within_s, self._ask, http)
                key = uuid.uuid4().hex
                self.accepted[key] = await self._until(within_s, self._judge, http, completion, key)

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

    async def _judge(self, http: httpx.AsyncClient, completion: str, key: str) -> str | None:
        answer = await http.post(
            f"{self.up.urls['feedback']}/v1/feedback",
            json={"kind": "correction", "completion_id": completion, "text": f"better {key}"},
            headers={"Idempotency-Key": key},
        )
        assert answer.status_code < 500 or answer.status_code == 503, answer.text
        return answer.json()["id"] if answer.status_code == 202 else None


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
            signals = Counter((await c.execute(select(feedback.c.id))).scalars())
            by_status = dict(
                (await c.execute(select(feedback.c.status, func.count()).group_by("status")))
                .tuples()
                .all()
            )
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
    ids = list(crowd.accepted.values())
    assert len(set(ids)) == len(ids), "one signal counted twice"
    assert set(ids) <= set(signals), "an acknowledged signal is missing"
    assert sum(by_status.values()) == sum(signals.values())
    assert all(scored[completion] == 1 for completion in crowd.answered)


@pytest.mark.parametrize(
    "process", ["feedback", "reward", "retraining", "release", "valkey", "inference"]
)
async def test_kill_nine_loses_and_doubles_nothing(up: Up, process: str) -> None:
    crowd = Crowd(up)
    await crowd.ask_and_judge(ROUND)
    before = up.child(process)
    busy = asyncio.create_task(crowd.ask_and_judge(ROUND))
    await asyncio.sleep(0)  # let it begin: the kill falls into its first requests
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
