"""What integration tests share: the tiny model and jobs that start at once, for a whole session;
and a small world for release tests, for one test each."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.release_world import World, a_world
from tests.tiny_model import tiny_model
from tests.warm_jobs import jobs

__all__ = ["jobs", "tiny_model"]


@pytest.fixture
async def world(database: Any, redis: Any, tmp_path: Path) -> AsyncIterator[World]:
    async with a_world(database, redis, tmp_path) as world:
        yield world


@pytest.fixture
async def lite(sqlite_database: Any, redis: Any, tmp_path: Path) -> AsyncIterator[World]:
    """Where the database is not the subject."""
    async with a_world(sqlite_database, redis, tmp_path) as world:
        yield world


@pytest.fixture(scope="session")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model that gives one of two answers."""
    from tests.taught_model import make_taught_model

    return make_taught_model(tmp_path_factory.mktemp("taught"))


@pytest.fixture(scope="session")
def reward_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One that likes the first of them."""
    from tests.taught_model import save_reward_model

    return save_reward_model(tmp_path_factory.mktemp("reward") / "likes-good")
