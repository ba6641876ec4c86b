"""A world with a better version that waits for the gate."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from tests.canary_world import GOOD, Time
from tests.release_world import SHORT, World, always

from learnback.core import clock


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> type[Time]:
    """The time, which a test moves."""
    Time.at = datetime.now(UTC)
    monkeypatch.setattr(clock, "datetime", Time)
    return Time


@pytest.fixture
async def world(world: World) -> World:
    await _ready(world)
    return world


@pytest.fixture
async def lite(lite: World) -> World:
    await _ready(lite)
    return lite


async def _ready(world: World) -> None:
    await world.prepare()
    await world.candidate(GOOD, always(SHORT))
