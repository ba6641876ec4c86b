"""How long what nobody serves any more is kept."""

from __future__ import annotations

from datetime import timedelta
from typing import ClassVar

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from learnback.core.settings import Settings


class RetentionSettings(Settings):
    """`LEARNBACK_RETENTION_*`, or the table `[retention]`: what garbage collection leaves alone."""

    model_config = SettingsConfigDict(env_prefix="LEARNBACK_RETENTION_")
    table: ClassVar[str] = "retention"

    every: timedelta = Field(timedelta(hours=1), ge=timedelta(0))
    """How often the release process collects; 0: only `learnback gc` does."""
    history: timedelta = Field(timedelta(days=30), ge=timedelta(hours=1))
    """Files of what an alias named within this time stay: one can roll back so far."""
    versions: int = Field(5, ge=1)
    """Files of so many newest versions that were stable stay, however long ago that was."""
    unused: timedelta = Field(timedelta(days=7), ge=timedelta(hours=1))
    """Files of what was refused, rolled back or never served stay so long after its last change."""
    grace: timedelta = Field(timedelta(minutes=10), ge=timedelta(minutes=1))
    """Between marking a version deleted and removing its files: who began to load it can finish."""
