"""Signals are taken, settled and given back without a lost or doubled one, on both databases."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import update
from tests.factories import a_version
from tests.learning import a_completion, a_signal, signal_rows, statuses, tell

from learnback.contracts.models import FeedbackStatus
from learnback.core.clock import now
from learnback.core.errors import Conflict, NotFound
from learnback.ledger import completions, runs, training
from learnback.ledger.database import CHUNK
from learnback.ledger.feedback import add
from learnback.ledger.runs import Run, RunState
from learnback.ledger.tables import feedback
from learnback.ledger.training import Outcome
from learnback.registry import store

TRAINED, HELD_OUT = Outcome(FeedbackStatus.TRAINED), Outcome(FeedbackStatus.HELD_OUT)


async def test_a_signal_comes_with_both_completions_and_their_base(database: Any) -> None:
    async with database.write() as c:
        await store.register(c, a_version("v1", base_digest="1" * 64))
        await completions.record(
            c, [a_completion("a", "q", "one", version="v1"), a_completion("b", "q", "two")]
        )
        await add(c, [a_signal("f1", "a", other_completion_id="b", rater_id="ann")])
    async with database.read() as c:
        (signal,) = await training.signals(c)
    assert signal.completion is not None
    assert signal.other is not None
    assert (signal.completion.id, signal.completion.base_digest) == ("a", "1" * 64)
    assert (signal.other.id, signal.other.base_digest) == ("b", None)
    assert signal.completion.choices[0]["text"] == "one"
    assert signal.completion.prompt_key == signal.other.prompt_key
    assert (signal.rater_id, signal.body["preferred"]) == ("ann", "first")


async def test_another_tenants_completion_is_never_joined(database: Any) -> None:
    async with database.write() as c:
        await completions.record(c, [a_completion("a", tenant="rival")])
        await add(c, [a_signal("f1", "a")])
    async with database.read() as c:
        (signal,) = await training.signals(c)
    assert signal.completion is None


async def test_only_what_a_method_can_use_is_read(database: Any) -> None:
    await tell(database, 1, "accepted")
    for status in FeedbackStatus:
        await tell(database, 1, f"s-{status}", status=status.value)
    await tell(database, 1, "comment", kind="comment")
    await tell(database, 1, "thumbs", kind="thumbs")
    await tell(database, 1, "against", status="quarantined", status_reason="contradicted")
    await tell(database, 1, "wrong", status="quarantined", status_reason="no_such_answer")
    async with database.read() as c:
        found = {s.id for s in await training.signals(c)}
        waiting = await training.waiting(c)
        kinds = await training.waiting_kinds(c)
    learned = {"s-accepted000", "s-trained000", "s-held_out000"}
    assert found == {"accepted000", "thumbs000", "against000"} | learned
    assert waiting.count == 3
    assert kinds == {"preference": 2, "thumbs": 1}


async def test_a_signal_is_taken_once(database: Any) -> None:
    ids = await tell(database, 3)
    async with database.write() as c:
        assert await training.claim(c, "run_1", ids) == 3
        assert await training.claim(c, "run_2", ids) == 0
        assert (await training.waiting(c)).count == 0


async def test_a_finished_run_settles_what_it_took(database: Any) -> None:
    ids = await tell(database, 4)
    outcomes = {
        ids[0]: TRAINED,
        ids[1]: HELD_OUT,
        ids[2]: Outcome(FeedbackStatus.QUARANTINED, "contradicted"),
        ids[3]: Outcome(FeedbackStatus.RECORDED, "empty_text"),
    }
    async with database.write() as c:
        await training.claim(c, "run_1", ids)
        counts = await training.finish(c, "run_1", outcomes, "v1")
        again = await training.finish(c, "run_1", outcomes, "v1")
    assert counts == {"trained": 1, "held_out": 1, "quarantined": 1, "recorded": 1}
    assert again == counts
    rows = await signal_rows(database)
    assert {row.revision for row in rows.values()} == {2}
    assert [rows[i].trained_version for i in ids] == ["v1", None, None, None]
    assert [rows[i].status_reason for i in ids] == [None, None, "contradicted", "empty_text"]
    assert all(row.changed_at != row.received_at for row in rows.values())


async def test_a_word_taken_back_meanwhile_stays_taken_back(database: Any) -> None:
    ids = await tell(database, 3)
    async with database.write() as c:
        await training.claim(c, "run_1", ids)
        await c.execute(
            update(feedback).where(feedback.c.id == ids[0]).values(status="withdrawn", revision=2)
        )
        await c.execute(
            update(feedback).where(feedback.c.id == ids[1]).values(status="superseded", revision=2)
        )
        assert await training.taken_back(c, "run_1") == 2
        counts = await training.finish(c, "run_1", dict.fromkeys(ids, TRAINED), "v1")
    assert counts == {"withdrawn": 1, "superseded": 1, "trained": 1}
    rows = await signal_rows(database)
    assert [rows[i].revision for i in ids] == [2, 2, 2]
    assert {rows[i].trained_version for i in ids} == {"v1"}  # the weights have seen all three


async def test_a_run_that_came_to_nothing_gives_its_signals_back(database: Any) -> None:
    ids = await tell(database, 3)
    async with database.write() as c:
        await training.claim(c, "run_1", ids)
        await c.execute(
            update(feedback).where(feedback.c.id == ids[0]).values(status="withdrawn", revision=2)
        )
        assert await training.release_claims(c, "run_1") == 2
        assert (await training.waiting(c)).count == 2
        assert await training.claim(c, "run_2", ids) == 2


async def test_signals_of_an_earlier_run_keep_it_when_a_later_one_fails(database: Any) -> None:
    (first,) = await tell(database, 1, "old")
    async with database.write() as c:
        await training.claim(c, "run_1", [first])
        await training.finish(c, "run_1", {first: TRAINED}, "v1")
        assert await training.release_claims(c, "run_1") == 0
    assert (await signal_rows(database))[first].run_id == "run_1"


async def test_useless_signals_are_settled_without_a_run(database: Any) -> None:
    ids = await tell(database, 2)
    reason = Outcome(FeedbackStatus.RECORDED, "empty_text")
    async with database.write() as c:
        await training.claim(c, "run_1", ids[:1])
        assert await training.record(c, dict.fromkeys(ids, reason)) == 1
        assert await statuses(c) == {"accepted": 1, "recorded": 1}


async def test_why_a_signal_waits_is_a_note_and_no_change(database: Any) -> None:
    one, other = await tell(database, 2)
    async with database.write() as c:
        await training.claim(c, "run_1", [other])
        await training.finish(c, "run_1", {other: TRAINED}, "v1")
        waits = Outcome(FeedbackStatus.ACCEPTED, "too_few_votes")
        await training.explain(c, {one: waits, other: waits})
    rows = await signal_rows(database)
    assert [rows[i].status_reason for i in (one, other)] == ["too_few_votes", None]
    assert rows[one].revision == 1
    async with database.read() as c:
        (signal, _) = await training.signals(c)
    assert signal.status_reason == "too_few_votes"


async def test_prompts_are_those_with_a_stored_answer_each_once(database: Any) -> None:
    async with database.write() as c:
        await completions.record(
            c,
            [
                a_completion("a", "one"),
                a_completion("b", "one"),
                a_completion("c", "two"),
                a_completion("d", "failed", status_code=400),
                a_completion("e", "secret", stored=False),
            ],
        )
    async with database.read() as c:
        found = await training.prompts(c, limit=10)
        first = await training.prompts(c, limit=1)
    assert sorted(m[0]["content"] for _, m in found) == ["one", "two"]
    assert first[0][0] == min(key for key, _ in found)


async def test_more_signals_than_a_statement_can_name(database: Any) -> None:
    ids = await tell(database, 2 * CHUNK + 1)
    async with database.write() as c:
        assert await training.claim(c, "run_1", ids) == len(ids)
        counts = await training.finish(c, "run_1", dict.fromkeys(ids, TRAINED), "v1")
    assert counts == {"trained": len(ids)}


def a_run(name: str, state: RunState = RunState.ASKED, **changes: Any) -> Run:
    values = {"id": name, "method": "dpo", "state": state, "base_version": "b", "created_at": now()}
    return Run(**values | changes)


async def test_runs_are_listed_newest_first_by_state(database: Any) -> None:
    async with database.write() as c:
        for name, state in (("r1", RunState.DONE), ("r2", RunState.ASKED), ("r3", RunState.ASKED)):
            await runs.create_run(c, a_run(name, state))
        assert [r.id for r in await runs.list_runs(c)] == ["r3", "r2", "r1"]
        assert [r.id for r in await runs.list_runs(c, (RunState.ASKED,))] == ["r3", "r2"]
        assert [r.id for r in await runs.list_runs(c, limit=1)] == ["r3"]


async def test_a_run_changes_only_from_the_state_that_was_expected(database: Any) -> None:
    async with database.write() as c:
        await runs.create_run(c, a_run("r1", progress={"step": 1}))
        await runs.change_run(c, "r1", (RunState.ASKED,), state=RunState.RUNNING)
        changed = await runs.get_run(c, "r1")
        assert changed.heartbeat_at is not None
        assert changed.finished_at is None
        assert changed.progress == {"step": 1}
        with pytest.raises(Conflict, match="is running"):
            await runs.change_run(c, "r1", (RunState.ASKED,), state=RunState.CANCELLED)
        await runs.change_run(c, "r1", (RunState.RUNNING,), state=RunState.FAILED)
        assert (await runs.get_run(c, "r1")).finished_at is not None


async def test_an_unknown_run_is_not_found(database: Any) -> None:
    async with database.write() as c:
        with pytest.raises(NotFound, match="no run 'r9'"):
            await runs.change_run(c, "r9", tuple(RunState), state=RunState.DONE)
