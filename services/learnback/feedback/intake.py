"""The intake: signals become durable, many in one transaction.

Requests that wait at the same time share a commit, since a commit costs a sync of the disk. Each
gets its answer after the commit, so that what was answered is there after any crash.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from time import perf_counter
from typing import Any

from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from learnback.contracts.models import TAKEN_BACK, FeedbackKind, FeedbackStatus
from learnback.core.clock import now
from learnback.core.errors import Conflict, Gone, LearnbackError, NotFound, Unprocessable
from learnback.core.ids import digest_text, new_id
from learnback.feedback import metrics
from learnback.feedback.joining import Verdict, aims, decide
from learnback.ledger import completions
from learnback.ledger import feedback as signals
from learnback.ledger.database import Database, lock

log = logging.getLogger(__name__)

MOST_PER_COMMIT = 256
"""Enough to make the sync cheap (32 callers fill 32), few enough to commit within 100 ms."""


@dataclass(frozen=True)
class Submission:
    """A signal as it was sent. `body` is a validated body of `schemas.FeedbackIn` as JSON."""

    tenant: str
    body: dict[str, Any]
    idempotency_key: str | None = None
    supersedes: str | None = None
    id: str = field(default_factory=lambda: new_id("fb"))

    @property
    def claim(self) -> tuple[str, str] | None:
        """What the idempotency key is unique by."""
        return (self.tenant, self.idempotency_key) if self.idempotency_key else None

    @property
    def digest(self) -> str:
        """SHA-256 of what was asked for."""
        text = json.dumps([self.supersedes, self.body], sort_keys=True, separators=(",", ":"))
        return digest_text(text)


@dataclass(frozen=True)
class Receipt:
    """The answer to a submission. `replayed`: it had been stored before."""

    id: str
    status: FeedbackStatus
    status_reason: str | None
    replayed: bool = False


Result = Receipt | LearnbackError


class Intake:
    """Stores submissions durably; `wake` is called after each commit."""

    def __init__(self, database: Database, wake: Callable[[], None] = lambda: None) -> None:
        self.database = database
        self.wake = wake
        self._waiting: deque[tuple[Submission, asyncio.Future[Result]]] = deque()
        self._writer: asyncio.Task[None] | None = None

    async def submit(self, submission: Submission) -> Receipt:
        """Store one signal; raises what is wrong with it. Returns after the commit."""
        answer: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((submission, answer))
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._drain(), name="intake")
        result = await answer
        if isinstance(result, LearnbackError):
            metrics.REFUSED.labels(result.code).inc()
            raise result
        return result

    async def check(self, submission: Submission) -> Receipt:
        """What `submit` would answer; nothing is stored."""
        async with self.database.read() as connection:
            (result,) = await _examine(connection, [submission])
        if isinstance(result, LearnbackError):
            raise result
        return Receipt("", result.status, result.reason)

    async def _drain(self) -> None:
        """Store what waits until nothing does."""
        while self._waiting:
            group = self._next_group()
            try:
                results = await self._commit([submission for submission, _ in group])
            except Exception as error:  # a bug or the database: its callers must hear of it
                await self._one_by_one(group, error)
                continue
            _answer(group, results)

    async def _one_by_one(
        self, group: Sequence[tuple[Submission, asyncio.Future[Result]]], error: Exception
    ) -> None:
        """After a group failed: the fault may lie with one of them, so each has its own commit."""
        if len(group) == 1 or isinstance(error, LearnbackError):
            for _, answer in group:
                if not answer.done():
                    answer.set_exception(error)
            return
        for one in group:
            try:
                _answer([one], await self._commit([one[0]]))
            except Exception as own:
                await self._one_by_one([one], own)

    def _next_group(self) -> list[tuple[Submission, asyncio.Future[Result]]]:
        """What the next transaction stores: no two that claim one key or change one signal."""
        group: list[tuple[Submission, asyncio.Future[Result]]] = []
        used: set[tuple[str, str] | str] = set()
        while self._waiting and len(group) < MOST_PER_COMMIT:
            submission = self._waiting[0][0]
            takes = {submission.claim, submission.supersedes} - {None}
            if used & takes:
                break
            used |= takes  # type: ignore[arg-type]
            group.append(self._waiting.popleft())
        return group

    async def _commit(self, group: Sequence[Submission]) -> list[Result]:
        started = perf_counter()
        async with self.database.write() as connection:
            results = await store(connection, group)
        self.wake()
        metrics.COMMIT.observe(perf_counter() - started)
        metrics.COMMITTED.observe(len(group))
        for submission, result in zip(group, results, strict=True):
            if isinstance(result, Receipt):
                _count(submission, result)
        return results


def _answer(
    group: Sequence[tuple[Submission, asyncio.Future[Result]]], results: Sequence[Result]
) -> None:
    for (_, answer), result in zip(group, results, strict=True):
        if not answer.done():  # done: its caller hung up
            answer.set_result(result)


def _count(submission: Submission, receipt: Receipt) -> None:
    if receipt.replayed:
        metrics.REPLAYED.inc()
    else:
        metrics.RECEIVED.labels(submission.body["kind"], receipt.status.value).inc()


async def store(connection: AsyncConnection, group: Sequence[Submission]) -> list[Result]:
    """Store submissions in one transaction: rows, idempotency keys, outbox; a result for each.

    No two of them may claim one idempotency key or supersede one signal.
    """
    await lock(connection, signals.JOIN_LOCK, shared=True)
    replaced = await signals.locked(connection, {s.supersedes for s in group if s.supersedes})
    won = await signals.claim(connection, [_claim(s) for s in group if s.claim])
    results = await _replays(connection, [s for s in group if s.claim and s.claim not in won])
    rest = [s for s in group if s.id not in results]
    good: list[tuple[Submission, Verdict]] = []
    for submission, verdict in zip(rest, await _examine(connection, rest, replaced), strict=True):
        if isinstance(verdict, LearnbackError):
            results[submission.id] = verdict
        else:
            good.append((submission, verdict))
    results |= await _insert(connection, good, replaced)
    refused = [s.claim for s in rest if s.claim and isinstance(results[s.id], LearnbackError)]
    await signals.release(connection, refused)
    return [results[submission.id] for submission in group]


async def _replays(connection: AsyncConnection, group: Sequence[Submission]) -> dict[str, Result]:
    """The answers to those submissions whose idempotency key is known."""
    found = await signals.replays(connection, [s.claim for s in group if s.claim])
    answers: dict[str, Result] = {}
    for submission in group:
        row = found.get(submission.claim) if submission.claim else None
        if row is not None:
            answers[submission.id] = _replay(submission, row)
    return answers


def _replay(submission: Submission, row: Row[Any]) -> Result:
    if row.body_digest != submission.digest:
        return Conflict(
            "This Idempotency-Key came with another body before; use a new key for a new signal.",
            field="Idempotency-Key",
        )
    return Receipt(row.id, FeedbackStatus(row.status), row.status_reason, replayed=True)


def _claim(submission: Submission) -> dict[str, Any]:
    return {
        "tenant": submission.tenant,
        "key": submission.idempotency_key,
        "body_digest": submission.digest,
        "feedback_id": submission.id,
        "created_at": now(),
    }


async def _examine(
    connection: AsyncConnection,
    group: Sequence[Submission],
    replaced: dict[tuple[str, str], Row[Any]] | None = None,
) -> list[Verdict | LearnbackError]:
    """What would become of each submission, or what is wrong with it."""
    targets = await completions.targets(
        connection, [aim.completion_id for s in group for aim in aims(s.body)]
    )
    sessions = await completions.known_sessions(
        connection, [(s.tenant, s.body["session_id"]) for s in group if "session_id" in s.body]
    )
    results: list[Verdict | LearnbackError] = []
    for submission in group:
        known = [targets.get((submission.tenant, a.completion_id)) for a in aims(submission.body)]
        session = (submission.tenant, submission.body.get("session_id", ""))
        verdict = decide(submission.body, known, session_known=session in sessions)
        wrong = _not_replaceable(submission, replaced or {})
        results.append(wrong or _refusal(verdict) or verdict)
    return results


def _refusal(verdict: Verdict) -> LearnbackError | None:
    """A signal that contradicts its target is refused while its sender still listens."""
    if verdict.field is None:
        return None
    kind = Gone if verdict.status is FeedbackStatus.ERASED else Unprocessable
    return kind(verdict.reason or "", field=verdict.field)


def _not_replaceable(
    submission: Submission, replaced: dict[tuple[str, str], Row[Any]]
) -> LearnbackError | None:
    if submission.supersedes is None:
        return None
    row = replaced.get((submission.tenant, submission.supersedes))
    if row is None:
        return NotFound(f"There is no feedback {submission.supersedes}.")
    if row.status == FeedbackStatus.ERASED:
        return Gone(f"The feedback {row.id} has been erased.")
    if row.status in TAKEN_BACK:
        then = f" by {row.superseded_by}: supersede that one" if row.superseded_by else ""
        return Conflict(f"The feedback {row.id} is already {row.status}{then}.")
    return None


async def _insert(
    connection: AsyncConnection,
    good: Sequence[tuple[Submission, Verdict]],
    replaced: dict[tuple[str, str], Row[Any]],
) -> dict[str, Result]:
    await signals.add(connection, [_row(submission, verdict) for submission, verdict in good])
    for submission, _ in good:
        if submission.supersedes is not None:
            old = replaced[(submission.tenant, submission.supersedes)]
            values = (("superseded_by", submission.id),)
            superseded = signals.Change(old, FeedbackStatus.SUPERSEDED, None, values)
            await signals.change(connection, [superseded])
    return {s.id: Receipt(s.id, verdict.status, verdict.reason) for s, verdict in good}


def _row(submission: Submission, verdict: Verdict) -> dict[str, Any]:
    body = submission.body
    at = now()
    first, second = (*aims(body), None, None)[:2]
    return {
        "id": submission.id,
        "tenant": submission.tenant,
        "kind": FeedbackKind(body["kind"]).value,
        "status": verdict.status.value,
        "status_reason": verdict.reason,
        "revision": 1,
        "completion_id": first.completion_id if first else None,
        "choice": first.choice if first else None,
        "other_completion_id": second.completion_id if second else None,
        "other_choice": second.choice if second else None,
        "session": body.get("session_id"),
        "rater_id": body["rater"]["id"],
        "rater_kind": body["rater"]["kind"],
        "body": body,
        "created_at": _said_at(body) or at,
        "received_at": at,
        "joined_at": None if verdict.status is FeedbackStatus.PENDING_TARGET else at,
        "changed_at": at,
        "supersedes": submission.supersedes,
        "superseded_by": None,
        "run_id": None,
        "trained_version": None,
    }


def _said_at(body: dict[str, Any]) -> datetime | None:
    return datetime.fromisoformat(body["created_at"]) if body["created_at"] else None
