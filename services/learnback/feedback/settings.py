"""Settings of the feedback process."""

from __future__ import annotations

from datetime import timedelta
from typing import ClassVar

from pydantic_settings import SettingsConfigDict

from learnback.core.settings import Settings


class FeedbackSettings(Settings):
    """Settings of the feedback process."""

    model_config = SettingsConfigDict(env_prefix="LEARNBACK_FEEDBACK_")
    table: ClassVar[str] = "feedback"

    host: str = "127.0.0.1"
    """Address to listen on; anything beyond loopback asks for API keys."""
    port: int = 8001
    """TCP port of the API."""
    max_body_bytes: int = 4 * 1024 * 1024
    """Longest body, in bytes: a batch of a thousand comments of 4 KB."""
    body_timeout: timedelta = timedelta(seconds=30)
    """Longest time for a body to arrive, so that slow senders can't hold connections."""
    grace: timedelta = timedelta(hours=1)
    """How long feedback waits for its completion: longer than any outage of the recorder."""
    sweep_interval: timedelta = timedelta(seconds=10)
    """How often feedback over its grace time is looked for."""
    rate_per_s: float = 1000.0
    """Signals a second that one API key, or one address without key, may send."""
    rate_burst: int = 5000
    """Signals that it may send at once; a batch counts each of its items."""
    relay_interval: timedelta = timedelta(seconds=1)
    """How often the outbox is looked at without being woken."""
    lag_interval: timedelta = timedelta(seconds=5)
    """How often the lags of the streams are measured for `/metrics`."""
    trim_interval: timedelta = timedelta(minutes=1)
    """How often streams are trimmed of what every group has handled."""
    keep_entries: int = 10_000
    """Handled entries that a stream keeps for people who look at it."""
