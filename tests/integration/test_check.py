"""`learnback check`, which is the chart's `helm test`, against the real APIs on real sockets."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from tests.feedback_service import FlakyEdge, a_key
from tests.inference_server import Server, inference_server, serve_app

from learnback.cli import main
from learnback.contracts.models import Scope
from learnback.feedback.app import create_app
from learnback.feedback.settings import FeedbackSettings
from learnback.ledger import feedback as signals
from learnback.ledger.database import Database
from learnback.ledger.keys import KeyRing


@dataclass
class World:
    inference: Server
    feedback_url: str
    edge: FlakyEdge
    database: Database


@pytest.fixture
async def world(tmp_path: Path, redis: Any, valkey_url: str) -> AsyncIterator[World]:
    """Inference and feedback, both asking for keys, on one ledger."""
    async with (
        inference_server(tmp_path, valkey_url, require_keys=True) as inference,
        feedback(inference.common.ledger_url, redis) as (url, edge, database),
    ):
        yield World(inference, url, edge, database)


@asynccontextmanager
async def feedback(ledger_url: str, redis: Any) -> AsyncIterator[tuple[str, FlakyEdge, Database]]:
    database = Database(ledger_url)
    app = create_app(FeedbackSettings(), database, redis, KeyRing(database), require_keys=True)
    edge = FlakyEdge(app)
    async with serve_app(edge) as url:
        yield url, edge, database
    await database.close()


async def check(world: World, *arguments: str, timeout: float = 20.0) -> Result:
    urls = ["--inference-url", world.inference.url, "--feedback-url", world.feedback_url]
    command = ["check", *urls, "--timeout", str(timeout), *arguments]
    return await asyncio.to_thread(CliRunner().invoke, main, command)


async def test_a_running_loop_passes_and_nothing_of_the_check_is_left(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = await a_key(world.database, "default", Scope.INFER, Scope.FEEDBACK)
    monkeypatch.setenv("LEARNBACK_API_KEY", secret)
    result = await check(world, "--json")
    assert result.exit_code == 0, result.output
    seen = json.loads(result.stdout)
    assert seen["status"] in {"accepted", "recorded"}
    assert seen["version"] == world.inference.base.name
    assert 0 < seen["answered_s"] <= seen["joined_s"] <= seen["erased_s"]
    async with world.database.read() as connection:
        counts = await signals.reconcile(connection)
    assert {status.value: count for status, count in counts.items() if count} == {"erased": 1}


async def test_it_waits_for_a_service_that_is_still_starting_and_counts_the_signal_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = await a_key(world.database, "default", Scope.INFER, Scope.FEEDBACK)
    monkeypatch.setenv("LEARNBACK_API_KEY", secret)
    world.edge.plan = [503, 503]
    result = await check(world)
    assert result.exit_code == 0, result.output
    posts = [key for method, key in world.edge.seen if method == "POST"]
    assert len(posts) == 3
    assert len(set(posts)) == 1
    async with world.database.read() as connection:
        assert await signals.received(connection) == 1


async def test_a_key_without_the_scope_fails_at_once_with_the_reason(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LEARNBACK_API_KEY", await a_key(world.database, "default", Scope.FEEDBACK))
    result = await check(world)
    assert result.exit_code == 1
    assert "403" in result.output
    assert "infer" in result.output


async def test_a_platform_that_is_away_fails_when_time_is_up(world: World) -> None:
    world.feedback_url = "http://127.0.0.1:9"
    result = await check(world, "--inference-url", "http://127.0.0.1:9", timeout=1)
    assert result.exit_code == 1
    assert "the answer: not within the time given" in result.output
    assert "ConnectError" in result.output
