"""The benchmark measures what it says: its load generators and its statistics."""

from __future__ import annotations

import asyncio
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from bench.overhead import loadgen
from bench.overhead.loadgen import Load
from bench.overhead.report import exit_code, judge, verdict
from bench.overhead.statistics import Spread, differences, ratios, spread
from tests.scripted_engine import Call, engine


@pytest.fixture(params=["c", "python"])
def generate(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> loadgen.Generator:
    """Each generator in turn."""
    if request.param == "python":
        monkeypatch.setattr(shutil, "which", lambda name: None)
    elif shutil.which("cc") is None:
        pytest.skip("there is no C compiler")
    generator, name = loadgen.prepare(tmp_path)
    assert name == request.param
    return generator


async def test_a_stream_is_timed_event_by_event(generate: loadgen.Generator) -> None:
    async def script(call: Call) -> None:
        await asyncio.sleep(0.02)
        await call.start_chunked()
        for _ in range(5):
            await call.chunk(b"data: x\n\n")
            await asyncio.sleep(0.01)
        await call.say(b"0\r\n\r\n")

    async with engine(script) as up:
        found = await asyncio.to_thread(generate, Load(up.port, 2, 6, b'{"stream": true}'))
    assert (found["requests"], found["errors"], found["events"]) == (6, 0, 30)
    assert found["first"]["p50"] >= 20_000
    assert 10_000 <= found["gap"]["p50"] < 40_000
    assert found["total"]["p50"] >= found["first"]["p50"] + 40_000
    assert {call.body for call in up.calls} == {b'{"stream": true}'}
    assert up.connections == 2


async def test_errors_and_torn_answers_are_counted_and_never_timed(
    generate: loadgen.Generator,
) -> None:
    async def script(call: Call) -> None:
        number = len(call.engine.calls)
        if number == 2:
            await call.answer(b"no", 503)
        elif number == 4:
            await call.start_chunked()
            await call.chunk(b"data: half\n\n")
            call.writer.transport.abort()
            raise ConnectionError
        else:
            await call.answer(b"yes")

    async with engine(script) as up:
        found = await asyncio.to_thread(generate, Load(up.port, 1, 10, b"{}"))
    assert (found["requests"], found["errors"]) == (10, 2)
    assert found["gap"] is None


def test_ratios_are_paired_and_their_interval_holds_the_median() -> None:
    found = spread(ratios([99.0, 198.0, 49.5], [100.0, 200.0, 50.0]))
    assert (found.low, found.median, found.high) == pytest.approx((0.99, 0.99, 0.99))
    noisy = spread([1.0, 2.0, 3.0, 4.0, 100.0])
    assert noisy.low < noisy.median == 3.0 < noisy.high
    assert differences([3.0, 5.0], [1.0, 1.0]) == [2.0, 4.0]
    with pytest.raises(ValueError, match="no round"):
        spread([])


GOOD, BAD, NOISY = Spread(0.99, 0.985, 1.02, 9), Spread(0.95, 0.94, 0.96, 9), Spread(1, 0.9, 1.1, 9)
SOON, LATE, VAGUE = Spread(0.1, -1, 0.4, 9), Spread(3, 2, 5, 9), Spread(0.1, -1, 2, 9)


def row(ratio: Spread, added: Spread, **changes: Any) -> dict[str, Any]:
    found: dict[str, Any] = {"variant": "middleware", "clients": 1, "streamed": True, "errors": 0}
    return found | {"throughput_ratio": ratio, "ttft_added_ms": added} | changes


@pytest.mark.parametrize(
    ("ratio", "added", "errors", "code"),
    [
        (GOOD, SOON, 0, 0),
        (NOISY, SOON, 0, 2),
        (BAD, SOON, 0, 1),
        (GOOD, VAGUE, 0, 2),
        (GOOD, LATE, 0, 1),
        (NOISY, LATE, 0, 1),
        (GOOD, SOON, 1, 1),
    ],
)
def test_a_goal_is_met_or_missed_only_where_the_whole_interval_says_so(
    ratio: Spread, added: Spread, errors: int, code: int
) -> None:
    one, other = (row(ratio, added, errors=errors, variant=v) for v in ("middleware", "raw-again"))
    judge([one, other], "middleware")
    assert (exit_code([one, other]), exit_code([other])) == (code, 0)


def test_every_goal_that_is_not_met_is_named() -> None:
    rows = [row(GOOD, LATE), row(NOISY, SOON, clients=16)]
    judge(rows, "middleware")
    assert verdict(rows) == [
        "goals met: 1 of 3",
        "missed: first token of middleware at 1 clients, stream",
        "too noisy: throughput of middleware at 16 clients, stream",
    ]


def test_an_answer_in_one_piece_has_no_first_token_to_be_late() -> None:
    whole = row(GOOD, LATE, streamed=False)
    judge([whole], "middleware")
    assert whole["goals"] == {"throughput": "met"}


def test_a_first_token_is_judged_only_where_the_server_has_time_to_spare() -> None:
    many = row(GOOD, LATE, clients=64)
    judge([many], "middleware")
    assert many["goals"] == {"throughput": "met"}
    judge([many], "middleware", paced=True)
    assert many["goals"] == {"first token": "missed"}


async def test_clients_that_pause_leave_the_server_alone_between_their_requests(
    generate: loadgen.Generator,
) -> None:
    async def script(call: Call) -> None:
        await call.answer(b"yes")

    async with engine(script) as up:
        load = Load(up.port, 4, 40, b"{}", pause_s=0.05, seed=3)
        paced = await asyncio.to_thread(generate, load)
        closed = await asyncio.to_thread(generate, replace(load, pause_s=0.0))
    assert (paced["requests"], paced["errors"], closed["errors"]) == (40, 0, 0)
    assert paced["seconds"] > 0.25  # ten pauses of 50 ms for each client, on average
    assert closed["seconds"] < paced["seconds"]
