"""Settings of the reward process."""

from __future__ import annotations

from datetime import timedelta
from typing import ClassVar

from pydantic_settings import SettingsConfigDict

from learnback.core.settings import Settings


class RewardSettings(Settings):
    """`LEARNBACK_REWARD_*`, or the table `[reward]`."""

    model_config = SettingsConfigDict(env_prefix="LEARNBACK_REWARD_")
    table: ClassVar[str] = "reward"

    host: str = "127.0.0.1"
    """Address to listen on; beyond loopback API keys are required."""
    port: int = 8002
    """TCP port."""
    look_every: timedelta = timedelta(seconds=15)
    """How often the registry is asked for the reward model, should its message get lost."""
    max_body_bytes: int = 1024 * 1024
    """Longest body of a request, in bytes."""
    body_timeout: timedelta = timedelta(seconds=10)
    """Longest time for a body to arrive."""
