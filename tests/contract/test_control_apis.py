"""Nothing that the OpenAPI documents of reward and retraining allow makes a 500."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from fastapi import FastAPI
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from tests.learning import JOB

from learnback.core.redis import connect
from learnback.core.settings import CommonSettings
from learnback.ledger.database import Database
from learnback.retraining import app as retraining
from learnback.retraining.settings import RetrainingSettings
from learnback.reward import app as reward
from learnback.reward.settings import RewardSettings

pytestmark = pytest.mark.timeout(120)

PROBE = settings(
    max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)


def the_app(process: str, home: Path, ledger: str, redis_url: str) -> FastAPI:
    """One of the two, without its workers: the API is the subject."""
    common = CommonSettings(home=home, model="tiny")
    database, redis = Database(ledger), connect(redis_url)
    base = asyncio.run(_prepare(common, ledger))
    if process == "reward":
        return reward.create_app(RewardSettings(), common, database=database, redis=redis)
    return retraining.create_app(
        RetrainingSettings(job_command=JOB), common, database=database, redis=redis, base=base
    )


async def _prepare(common: CommonSettings, ledger: str) -> Any:
    database = Database(ledger)
    try:
        return await retraining.prepare(common, database)
    finally:
        await database.close()


@pytest.mark.parametrize("process", ["reward", "retraining"])
def test_no_request_makes_a_server_error(process: str, tmp_path: Path, valkey_url: str) -> None:
    app = the_app(process, tmp_path, f"sqlite:///{tmp_path / 'ledger.db'}", valkey_url)
    schema = schemathesis.openapi.from_asgi("/openapi.json", app)
    tried = 0
    for operation in (found.ok() for found in schema.get_all_operations()):

        @PROBE
        @given(case=operation.as_strategy())
        def probe(case: Any) -> None:
            nonlocal tried
            case.call_and_validate(checks=[not_a_server_error])
            tried += 1

        probe()
    assert tried >= 40
