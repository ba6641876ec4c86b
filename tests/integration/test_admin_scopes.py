"""Everything under /admin/v1 asks for its own scope of key, whatever the process and the route."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from tests.learning import JOB

from learnback.contracts.models import Scope
from learnback.core.settings import CommonSettings
from learnback.feedback import app as feedback
from learnback.feedback.settings import FeedbackSettings
from learnback.ledger.database import Database
from learnback.ledger.keys import KeyRing, create_key
from learnback.release import app as release
from learnback.release.settings import ReleaseSettings
from learnback.retraining import app as retraining
from learnback.retraining.settings import RetrainingSettings
from learnback.reward import app as reward
from learnback.reward.settings import RewardSettings

SCOPES = {"release": Scope.RELEASE, "retraining": Scope.TRAIN}
"""What a process's admin routes ask for; `admin` where it has no scope of its own."""
OPEN = "0.0.0.0"


@pytest.fixture
async def apps(sqlite_database: Database, redis: Any, tmp_path: Path) -> dict[str, FastAPI]:
    """All control processes, listening beyond loopback, without their workers."""
    common = CommonSettings(home=tmp_path, model="tiny")
    parts = {"database": sqlite_database, "redis": redis}
    base = await retraining.prepare(common, sqlite_database)
    client = httpx.AsyncClient()
    return {
        "feedback": feedback.create_app(
            FeedbackSettings(host=OPEN),
            sqlite_database,
            redis,
            KeyRing(sqlite_database),
            require_keys=True,
        ),
        "reward": reward.create_app(RewardSettings(host=OPEN), common, **parts),
        "retraining": retraining.create_app(
            RetrainingSettings(host=OPEN, job_command=JOB), common, base=base, **parts
        ),
        "release": release.create_app(ReleaseSettings(host=OPEN), common, client=client, **parts),
    }


def admin_routes(app: FastAPI) -> list[tuple[str, str]]:
    """Method and path of all routes for operators, with something in each parameter's place."""
    found = []
    for path, operations in app.openapi()["paths"].items():
        if path.startswith("/admin/"):
            found += [(m.upper(), re.sub(r"{[^}]*}", "x", path)) for m in operations]
    return found


async def statuses(app: FastAPI, key: str | None) -> AsyncIterator[tuple[str, str, int]]:
    """What each admin route says to a caller with that key and an empty body."""
    headers = {"authorization": f"Bearer {key}"} if key else {}
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://t") as http:
        for method, path in admin_routes(app):
            answer = await http.request(method, path, headers=headers, json={})
            yield method, path, answer.status_code


async def a_key(database: Database, *scopes: Scope) -> str:
    async with database.write() as connection:
        return (await create_key(connection, "default", "test", scopes))[1]


async def test_no_admin_route_is_open_to_anybody_else(
    apps: dict[str, FastAPI], sqlite_database: Database
) -> None:
    for process, app in apps.items():
        needs = {SCOPES.get(process, Scope.ADMIN), Scope.ADMIN}
        others = await a_key(sqlite_database, *(set(Scope) - needs))
        for key, expected in ((None, 401), (others, 403)):
            async for method, path, status in statuses(app, key):
                assert status == expected, (process, method, path)


async def test_the_scope_of_a_process_and_admin_open_its_admin_routes(
    apps: dict[str, FastAPI], sqlite_database: Database
) -> None:
    seen = 0
    for process, app in apps.items():
        for scope in {SCOPES.get(process, Scope.ADMIN), Scope.ADMIN}:
            key = await a_key(sqlite_database, scope)
            async for method, path, status in statuses(app, key):
                assert status not in {401, 403, 500}, (process, method, path)
                seen += 1
    assert seen >= 20


async def test_admin_neither_asks_the_model_nor_speaks_for_people(
    apps: dict[str, FastAPI], sqlite_database: Database
) -> None:
    key = await a_key(sqlite_database, Scope.ADMIN)
    transport = httpx.ASGITransport(apps["feedback"])
    async with httpx.AsyncClient(transport=transport, base_url="http://t") as http:
        headers = {"authorization": f"Bearer {key}"}
        answer = await http.get("/v1/feedback", headers=headers)
    assert answer.status_code == 403
