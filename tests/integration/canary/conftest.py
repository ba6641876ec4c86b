"""A world with a better version that waits for the gate."""

from __future__ import annotations

import pytest
from tests.canary_world import GOOD
from tests.release_world import SHORT, World, always


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
